"""The search API as a user runs it: a process of its own, asked over the wire."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from rag_pipeline.settings import Settings


@dataclass(frozen=True)
class ApiProcess:
    process: "subprocess.Popen[bytes]"
    client: httpx2.Client

    def search(self, query: str, **parameters: Any) -> Any:
        response = self.client.get("/search", params={"q": query, **parameters})
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def run_api(settings: Settings, **environment: str) -> Iterator[ApiProcess]:
    """Start it, wait until it answers, and stop it as Ctrl-C does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert settings.database_url is not None
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    clean |= {
        "RAG_DATABASE_URL": settings.database_url.get_secret_value(),
        "RAG_HOME": str(settings.home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "rag_pipeline.serving.api", "--port", str(port)], env={**clean, **environment}
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until(lambda: _answers(client), 60)
            yield ApiProcess(process, client)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(client: httpx2.Client) -> bool:
    try:
        client.get("/health")
    except httpx2.TransportError:
        return False
    return True


def wait_until(holds: Any, seconds: float = 30) -> None:
    """Return once `holds()` is true; fail if it is not in time."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, f"not in {seconds} s"
        time.sleep(0.05)
