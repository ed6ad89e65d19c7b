"""The pool under real deaths: killed, starved, late and abandoned workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag_pipeline.documents.parser_pool import ParserPool
from rag_pipeline.documents.parsing import Parsed, ParseFailure, ParseRequest
from rag_pipeline_tests.documents.sample_files import (
    build_docx,
    build_paragraph,
    build_pdf,
    build_slow_page,
    build_zip,
)

pytestmark = pytest.mark.timeout(120)


def small(number: int) -> ParseRequest:
    return ParseRequest(f"small-{number}", f"{number}.pdf", build_pdf([[f"words {number}"]]))


def summarise(outcomes: list[Parsed | ParseFailure]) -> dict[str, str]:
    return {outcome.key: getattr(outcome, "code", "text") for outcome in outcomes}


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie nobody has collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def read_cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def wait_until_busy(pool: ParserPool) -> int:
    """The process id of the only worker once it has computed for a while, beyond its start-up."""
    wait_for(pool.list_worker_pids)
    [pid] = pool.list_worker_pids()
    wait_for(lambda: read_cpu_ticks(pid) > os.sysconf("SC_CLK_TCK"))
    return pid


def test_plain_files_start_no_worker_and_a_hundred_megabyte_line_is_one_of_them():
    line = b"word " * (20 << 20)
    requests = [ParseRequest("big", "a.txt", line), ParseRequest("md", "a.md", b"# T\n"), small(1)]
    with ParserPool() as pool:
        outcomes = pool.parse(requests)
        big, markdown = next(outcomes), next(outcomes)
        assert isinstance(big, Parsed)
        assert big.text == line.decode()
        assert isinstance(markdown, Parsed)
        assert pool.list_worker_pids() == []
        assert summarise(list(outcomes)) == {"small-1": "text"}
        assert len(pool.list_worker_pids()) == 1


def test_every_request_gets_exactly_one_outcome_and_few_are_in_flight():
    drawn: list[str] = []

    def draw() -> Iterator[ParseRequest]:
        for number in range(40):
            drawn.append(f"small-{number}")
            yield small(number)

    finished: list[str] = []
    with ParserPool(workers=2) as pool:
        for outcome in pool.parse(draw()):
            finished.append(outcome.key)
            assert isinstance(outcome, Parsed)
            assert outcome.text == f"words {outcome.key.removeprefix('small-')}"
            assert len(drawn) - len(finished) <= 3
        assert len(pool.list_worker_pids()) <= 2
    assert sorted(finished) == sorted(drawn)


def test_a_worker_killed_in_the_middle_costs_only_its_own_file():
    outcomes: list[Parsed | ParseFailure] = []
    requests = [ParseRequest("slow", "slow.html", build_slow_page()), *map(small, range(6))]
    with ParserPool(workers=1) as pool:
        thread = threading.Thread(target=lambda: outcomes.extend(pool.parse(requests)))
        thread.start()
        os.kill(wait_until_busy(pool), signal.SIGKILL)
        thread.join()
    assert summarise(outcomes) == {"slow": "crash", **{f"small-{n}": "text" for n in range(6)}}
    assert "SIGKILL" in next(outcome.reason for outcome in outcomes if outcome.key == "slow")


def test_a_worker_killed_between_files_costs_nothing():
    with ParserPool(workers=1) as pool:
        assert summarise(list(pool.parse([small(1)]))) == {"small-1": "text"}
        [pid] = pool.list_worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid))
        assert summarise(list(pool.parse([small(2)]))) == {"small-2": "text"}


def test_a_file_that_takes_too_long_is_given_up_and_the_rest_goes_on():
    requests = [ParseRequest("slow", "slow.html", build_slow_page()), small(1), small(2)]
    with ParserPool(workers=1, timeout_seconds=2) as pool:
        outcomes = list(pool.parse(requests))
    assert summarise(outcomes) == {"slow": "timeout", "small-1": "text", "small-2": "text"}
    assert "2 seconds" in next(outcome.reason for outcome in outcomes if outcome.key == "slow")


def test_a_zip_bomb_is_stopped_by_the_memory_limit():
    bomb = build_docx(build_paragraph("word ") * 1_500_000)
    assert len(bomb) < 2_000_000
    with ParserPool(workers=1, memory_bytes=150 << 20) as pool:
        outcomes = list(pool.parse([ParseRequest("bomb", "bomb.docx", bomb), small(1)]))
    assert summarise(outcomes) == {"bomb": "memory", "small-1": "text"}
    assert "150 MiB" in next(outcome.reason for outcome in outcomes if outcome.key == "bomb")


def test_an_archive_that_unpacks_to_gigabytes_is_refused_by_its_directory():
    block = build_zip({f"word/{number}.xml": bytes(64 << 20) for number in range(9)})
    with ParserPool(workers=1) as pool:
        [failure] = pool.parse([ParseRequest("bomb", "bomb.docx", block)])
    assert isinstance(failure, ParseFailure)
    assert failure.code == "too_large"


def test_a_file_over_the_size_limit_is_refused_unread():
    with ParserPool(max_file_bytes=1000) as pool:
        requests = [ParseRequest(name, name, b"x" * 1001) for name in ("a.txt", "a.pdf")]
        assert summarise(list(pool.parse(requests))) == {"a.txt": "too_large", "a.pdf": "too_large"}
        assert pool.list_worker_pids() == []


def test_leaving_early_ends_every_worker_at_once():
    with ParserPool(workers=2) as pool:
        slow = [ParseRequest(f"s{n}", "s.html", build_slow_page(3_000_000)) for n in range(3)]
        outcomes = pool.parse([ParseRequest("t", "t.txt", b"text"), *slow])
        assert next(outcomes).key == "t"
        thread = threading.Thread(target=lambda: list(outcomes))
        thread.start()
        wait_for(lambda: len(pool.list_worker_pids()) == 2)
        pids = pool.list_worker_pids()
        left = time.monotonic()
    assert time.monotonic() - left < 5
    thread.join()
    assert not any(map(is_alive, pids))


PARENT = """
import sys, threading, time
from rag_pipeline.documents.parser_pool import ParserPool
from rag_pipeline.documents.parsing import ParseRequest
from rag_pipeline_tests.documents.sample_files import build_slow_page
pool = ParserPool(workers=1)
request = ParseRequest("slow", "slow.html", build_slow_page(3_000_000))
threading.Thread(target=lambda: list(pool.parse([request])), daemon=True).start()
while not pool.list_worker_pids():
    time.sleep(0.02)
time.sleep(1)
print(pool.list_worker_pids()[0], flush=True)
time.sleep(60)
"""


def test_a_killed_parent_leaves_no_worker_behind():
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not is_alive(pid), 10)


def test_a_worker_sees_no_secret_of_its_parent(monkeypatch):
    monkeypatch.setenv("RAG_LLM_API_KEY", "not-for-parsers")
    with ParserPool(workers=1) as pool:
        assert summarise(list(pool.parse([small(1)]))) == {"small-1": "text"}
        [pid] = pool.list_worker_pids()
        assert b"not-for-parsers" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_closed_pool_answers_instead_of_hanging():
    pool = ParserPool(workers=1)
    pool.close()
    with pytest.raises(RuntimeError):
        list(pool.parse([small(1)]))


def test_a_pool_needs_a_worker():
    with pytest.raises(ValueError, match="at least one"):
        ParserPool(workers=0)
