"""`rag up`: the long-running processes, started together and stopped together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import click

from rag_pipeline.automation.runs import prepare_home
from rag_pipeline.database.embedded import drop_dead_handles
from rag_pipeline.database.engine import dagster_storage_url, open_database
from rag_pipeline.errors import MisuseError
from rag_pipeline.settings import Settings

STOP_SECONDS = 20
LEFTOVER_SECONDS = 5.0


def run_services(settings: Settings, port: int, api_port: int) -> int:
    """Database, API, Dagster's UI and daemon until Ctrl-C or until one of them ends; returns an exit code.

    Raises `MisuseError` for a port that is taken, before anything is started.
    """
    for wanted in (port, api_port):
        if is_taken(wanted):
            raise MisuseError(f"Port {wanted} is in use on this machine; choose others with --port, --api-port")
    database = open_database(settings)
    dagster_storage_url(settings)
    prepare_home(settings)
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}  # Dagster announces its beta features at every start
    commands = {
        "Dagster UI and daemon": [
            *(sys.executable, "-m", "dagster", "dev", "-m", "rag_pipeline.definitions"),
            *("-h", "127.0.0.1", "-p", str(port)),
        ],
        "API": [sys.executable, "-m", "rag_pipeline.serving.api", "--port", str(api_port)],
    }
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # before the children start: they inherit an ignored signal
        signal.signal(number, lambda *_: stopping.set())
    # a group of their own: Ctrl-C reaches us alone, and we stop them in order
    processes = {
        name: subprocess.Popen(command, env=environment, start_new_session=True) for name, command in commands.items()
    }
    click.echo(f"database    {database.url.render_as_string(hide_password=True)}", err=True)
    click.echo(f"Dagster UI  http://127.0.0.1:{port}", err=True)
    click.echo(f"search API  http://127.0.0.1:{api_port}/search?q=…   (ready when it answers)", err=True)
    click.echo("Ctrl-C stops all", err=True)
    try:
        return _wait(processes, stopping)
    finally:
        _stop(list(processes.values()))
        database.close()
        if settings.database_url is None:
            drop_dead_handles(settings.home)


def is_taken(port: int) -> bool:
    """Whether something listens on the port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(processes: dict[str, "subprocess.Popen[bytes]"], stopping: threading.Event) -> int:
    while not stopping.wait(0.3):
        for name, process in processes.items():
            if process.poll() is not None:
                click.echo(f"{name} ended by itself with exit code {process.returncode}; stopping the rest", err=True)
                return 1
    return 0


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Stop each process, and then what it left behind in its group: code servers, and runs, which go on when asked
    for again."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
    for number in (signal.SIGTERM, signal.SIGKILL):
        groups = [process.pid for process in processes if _signal_group(process.pid, number)]
        patience = time.monotonic() + LEFTOVER_SECONDS
        while any(_signal_group(group, 0) for group in groups) and time.monotonic() < patience:
            for process in processes:
                process.poll()  # a process that nobody asks for stays in its group
            time.sleep(0.1)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False where nobody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
