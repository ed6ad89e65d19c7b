"""A real HTTP server for the tests: it answers by a function, and keeps what it was asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `delay` seconds before it, `cut` drops the connection after so many bytes of it."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    content_type: str = "application/json"


@dataclass
class Endpoint:
    base_url: str
    requests: list[dict[str, Any]]
    keys: list[str | None]


@contextmanager
def serve(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[Endpoint]:
    """Serve until the block ends; `answer(number of the request from 0, its JSON)`."""
    endpoint = Endpoint("", [], [])
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(endpoint.requests)
                endpoint.requests.append({"path": self.path, **asked})
                endpoint.keys.append(self.headers.get("Authorization"))
            given = answer(number, asked)
            time.sleep(given.delay)
            body = given.body if isinstance(given.body, bytes) else json.dumps(given.body).encode()
            try:
                self.send_response(given.status)
                self.send_header("Content-Type", given.content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in given.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body if given.cut is None else body[: given.cut])
                self.close_connection = given.cut is not None
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
