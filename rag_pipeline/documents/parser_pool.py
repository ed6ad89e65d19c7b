"""Parses a stream of files in a few limited processes; every file gets exactly one outcome.

Plain text and Markdown never leave the calling process, so a run without binary files starts no worker.
"""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rag_pipeline.documents.parsing import (
    Parsed,
    ParseFailure,
    ParseRequest,
    describe_failure,
    detect_format,
    parse_text_file,
)

# Length prefix of every message to and from `parser_worker`, which cannot be imported here: it loads parsers.
LENGTH = struct.Struct(">I")
WORKER_MODULE = "rag_pipeline.documents.parser_worker"
MAX_ANSWER_BYTES = 1 << 30
# Native parsers leak a little: a fresh process now and then costs a third of a second.
REQUESTS_PER_WORKER = 500


class ParserWorker:
    """One child process. Used by one thread at a time."""

    def __init__(self, memory_bytes: int) -> None:
        self.answered = 0
        self.stopped = False
        self._expired = threading.Event()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        package_root = Path(__file__).resolve().parents[2]
        # The child gets no secret of the parent's environment, and one thread per library.
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(package_root),
            "PYTHONUTF8": "1",
            "MALLOC_ARENA_MAX": "2",
            "TOKIO_WORKER_THREADS": "1",
            "RAYON_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                WORKER_MODULE,
                str(memory_bytes),
                str(os.getpid()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is the parent's to handle
        )

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def is_usable(self) -> bool:
        """Whether the process lives and may take another file."""
        return not self.stopped and self.answered < REQUESTS_PER_WORKER and self._process.poll() is None

    def parse(self, request: ParseRequest, timeout_seconds: float, memory: str) -> Parsed | ParseFailure:
        """The outcome for one file; after a death or a timeout the worker is stopped and must be replaced."""
        assert self._process.stdin
        header = {
            "name": request.name,
            "size": len(request.content),
            "timeout": timeout_seconds,
            "memory": memory,
        }
        message = json.dumps(header).encode()
        watchdog = threading.Timer(timeout_seconds, self._expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._process.stdin.write(LENGTH.pack(len(message)) + message)
            self._process.stdin.write(request.content)
            self._process.stdin.flush()
            outcome = self._read_outcome(request)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            outcome = self._explain_death(request, f"{timeout_seconds:g} seconds", memory, error)
        finally:
            watchdog.cancel()
            watchdog.join()  # it must not fire into the next file
        self.answered += 1
        if isinstance(outcome, ParseFailure) and outcome.code in ("memory", "timeout", "crash"):
            self.stop()
        return outcome

    def stop(self) -> None:
        """Kill the process and release its pipes; safe to call twice and from another thread."""
        self.stopped = True
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """`stop`, and close the files too; only once no thread uses the worker."""
        self.stop()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                with contextlib.suppress(OSError):  # the unsent rest of a file for a dead process
                    stream.close()

    def _expire(self) -> None:
        self._expired.set()
        self.stopped = True
        self._process.kill()

    def _read_outcome(self, request: ParseRequest) -> Parsed | ParseFailure:
        assert self._process.stdout
        size = LENGTH.unpack(self._read_exactly(LENGTH.size))[0]
        if size > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of {size} bytes")
        fields: dict[str, Any] = json.loads(self._read_exactly(size))
        fields["key"] = request.key
        return Parsed(**fields) if "text" in fields else ParseFailure(**fields)

    def _read_exactly(self, size: int) -> bytes:
        assert self._process.stdout
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise EOFError("the worker ended")
        return data

    def _explain_death(self, request: ParseRequest, timeout: str, memory: str, error: Exception) -> ParseFailure:
        try:
            # A dying process may still be on its way out: its own signal says more than ours.
            status = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if self._expired.is_set() or status in (-signal.SIGXCPU, -signal.SIGALRM):
            return describe_failure(request, "timeout", timeout)
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4096))
        said = self._errors.read().decode("utf-8", "replace")
        if "memory allocation of" in said or "MemoryError" in said:
            return describe_failure(request, "memory", memory)
        if not isinstance(error, (OSError, EOFError)):
            return describe_failure(request, "crash", f"it answered nonsense: {error}")
        cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return describe_failure(request, "crash", cause)


class ParserPool:
    """Parses files in up to `workers` processes, each started at its first file and replaced when it dies.

    `timeout_seconds` is wall time per file, `memory_bytes` what one file may need beyond the loaded parsers,
    `max_file_bytes` the largest file taken at all. Use as a context manager: leaving it ends every worker.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout_seconds: float = 60,
        memory_bytes: int = 2 << 30,
        max_file_bytes: int = 256 << 20,
    ) -> None:
        if workers < 1:
            raise ValueError("a parser pool needs at least one worker")
        self._limit = workers
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._max_file_bytes = max_file_bytes
        self._lock = threading.Lock()
        self._idle: list[ParserWorker] = []
        self._busy: set[ParserWorker] = set()
        self._closed = False
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="parser")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def parse(self, requests: Iterable[ParseRequest]) -> Iterator[Parsed | ParseFailure]:
        """One outcome per request as they finish; at most `workers + 1` files wait or are being parsed."""
        pending: set[Future[Parsed | ParseFailure]] = set()
        for request in requests:
            outcome = self._parse_here(request)
            if outcome is not None:
                yield outcome
                continue
            pending.add(self._threads.submit(self._parse_in_worker, request))
            done, pending = wait(pending, None if len(pending) > self._limit else 0, FIRST_COMPLETED)
            for future in done:
                yield future.result()
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()

    def list_worker_pids(self) -> list[int]:
        """Process ids of the living workers."""
        with self._lock:
            return [worker.pid for worker in (*self._idle, *self._busy) if worker.is_usable()]

    def close(self) -> None:
        """End every worker, also in the middle of a file."""
        with self._lock:
            self._closed = True
            workers = (*self._idle, *self._busy)
        for worker in workers:
            worker.stop()
        self._threads.shutdown(wait=True)  # what still waits finds the pool closed and says so
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def _parse_here(self, request: ParseRequest) -> Parsed | ParseFailure | None:
        if not request.content:
            return describe_failure(request, "empty")
        if len(request.content) > self._max_file_bytes:
            detail = f"{len(request.content):,} bytes, the limit is {self._max_file_bytes:,}"
            return describe_failure(request, "too_large", detail)
        format = detect_format(request.name, request.content)
        return parse_text_file(request, format) if format in ("text", "markdown") else None

    def _parse_in_worker(self, request: ParseRequest) -> Parsed | ParseFailure:
        worker = self._take_worker()
        if worker is None:
            return describe_failure(request, "crash", "the pool was closed")
        try:
            return worker.parse(request, self._timeout_seconds, f"{self._memory_bytes >> 20} MiB")
        finally:
            with self._lock:
                self._busy.discard(worker)
                keep = worker.is_usable() and not self._closed
                if keep:
                    self._idle.append(worker)
            if not keep:
                worker.close()

    def _take_worker(self) -> ParserWorker | None:
        with self._lock:
            if self._closed:
                return None
            worker = self._idle.pop() if self._idle else None
            if worker is None or not worker.is_usable():
                if worker:
                    worker.close()
                worker = ParserWorker(self._memory_bytes)
            self._busy.add(worker)
            return worker
