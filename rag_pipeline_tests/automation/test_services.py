"""`rag up` as a user runs it: started, asked, stopped with Ctrl-C, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from rag_pipeline.automation.services import is_taken

START_SECONDS = 120
STOP_SECONDS = 40
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs /proc")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings of nothing but a fresh home, whose path marks every process that belongs to it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "DAGSTER_"))}
    return {**clean, "RAG_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def leftovers(environment: dict[str, str]) -> Iterator[None]:
    """Whatever a failing test leaves running is ended."""
    yield
    for pid in find_processes(environment["RAG_HOME"]):
        os.kill(pid, signal.SIGKILL)


def find_processes(home: str) -> dict[int, str]:
    """Living processes that were given this home, or whose files lie in it (PostgreSQL), with their command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            given = (folder / "environ").read_bytes().split(b"\0")
            inside = Path(os.readlink(folder / "cwd")).is_relative_to(home)
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if command and (inside or f"RAG_HOME={home}".encode() in given):
            found[int(folder.name)] = command
    return found


def find_free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for_answer(process: "subprocess.Popen[str]", url: str) -> httpx2.Response:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return httpx2.get(url, timeout=10)
        except httpx2.TransportError as error:
            reason = str(error)
        assert process.poll() is None, f"it ended by itself with {process.returncode}"
        assert time.monotonic() < deadline, f"{url} does not answer: {reason}"
        time.sleep(0.2)


@pytest.mark.usefixtures("leftovers")
def test_everything_starts_answers_and_stops_with_ctrl_c(environment: dict[str, str], tmp_path: Path) -> None:
    port, api_port = find_free_ports(2)
    output = tmp_path / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "rag_pipeline.cli", "up", "--port", str(port), "--api-port", str(api_port)],
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=file,
            text=True,
        )
        health = wait_for_answer(process, f"http://127.0.0.1:{api_port}/health")
        information = wait_for_answer(process, f"http://127.0.0.1:{port}/server_info")
        running = " ".join(find_processes(environment["RAG_HOME"]).values())
        process.send_signal(signal.SIGINT)
        code = process.wait(STOP_SECONDS)
    said = output.read_text()
    assert (health.status_code, health.json()) == (503, {"serves": False}), said
    assert "dagster_version" in information.json(), said
    assert [name for name in ("dagster", "rag_pipeline.serving.api", "postgres") if name not in running] == []
    assert code == 0, said
    assert "Traceback" not in said
    assert [wanted for wanted in (port, api_port) if is_taken(wanted)] == []
    assert find_processes(environment["RAG_HOME"]) == {}


def test_a_taken_port_is_named_before_anything_starts(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "rag_pipeline.cli", "up", "--api-port", taken, "--port", str(find_free_ports(1)[0])],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert f"Port {taken} is in use" in done.stderr
    assert not (tmp_path / "home").exists()
