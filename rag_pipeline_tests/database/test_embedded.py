"""The embedded server starts, is joined, survives killed users, and stops with its last one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_pipeline.database.embedded import EmbeddedServerError, memory_megabytes, start_embedded_server

USE = """
import sys, time
from rag_pipeline.settings import load_settings
from rag_pipeline.database.engine import open_database
database = open_database(load_settings())
with database.connection() as connection:
    print(connection.execute("show port").fetchone()[0], flush=True)
sys.stdin.readline()
with database.connection() as connection:
    connection.execute("select 1")
"""


def start_user(home: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAG_")}
    return subprocess.Popen(
        [sys.executable, "-c", USE],
        env={**environment, "RAG_HOME": str(home)},
        cwd=home.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def server_is_up(home: Path) -> bool:
    pid_file = home / "postgres" / "postmaster.pid"
    if not pid_file.exists():
        return False
    pid = int(pid_file.read_text().split("\n")[0])
    return Path(f"/proc/{pid}").exists()


def wait_until(condition: object, seconds: float = 20) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_two_first_starts_share_one_server_that_outlives_a_killed_user_and_stops_with_the_last(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, second = start_user(home), start_user(home)
    for user in (first, second):
        assert user.stdout is not None
        assert user.stdout.readline().strip(), "the user did not reach the server"
    first.kill()
    first.wait()
    assert server_is_up(home)
    out, _ = second.communicate("\n", timeout=30)
    assert second.returncode == 0, out
    third = start_user(home)  # drops the handle of the killed one
    third.communicate("\n", timeout=60)
    assert third.returncode == 0
    assert wait_until(lambda: not server_is_up(home)), "the server did not stop with its last user"


def test_a_home_with_a_space_is_refused_before_anything_is_made_there(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"RAG_HOME is .*my home.* space.*RAG_DATABASE_URL"):
        start_embedded_server(tmp_path / "my home")
    assert not (tmp_path / "my home").exists()


def test_memory_is_counted_in_megabytes() -> None:
    assert 256 < memory_megabytes() < 64 << 20


def test_a_first_start_that_died_with_initdb_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAG_")} | {"RAG_HOME": str(home)}
    first = subprocess.Popen(
        [sys.executable, "-c", USE], env=environment, cwd=tmp_path, stdin=subprocess.PIPE, start_new_session=True
    )
    assert wait_until(lambda: any(home.glob("*/PG_VERSION")))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (home / "postgres" / "postmaster.opts").exists(), "it was killed too late: the server had started"
    second = start_user(home)
    assert second.communicate("\n", timeout=120)[0].strip().isdigit()
    assert second.returncode == 0
