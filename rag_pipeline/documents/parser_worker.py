"""The child process that parses one file at a time; arguments: bytes of memory, process id of the parent.

Protocol on stdin and stdout, both binary: a 4-byte length and JSON; after a request, the file's bytes. JSON,
not pickle: a parser that a file has taken over must not be able to run code in the parent.
The process ends when stdin does, when its parent dies, or by alarm a little after its own deadline.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from dataclasses import asdict
from typing import BinaryIO

from rag_pipeline.documents.binary_files import load_parsers, parse_binary_file
from rag_pipeline.documents.parsing import Parsed, ParseFailure, ParseRequest, describe_failure

LENGTH = struct.Struct(">I")
# The parent kills at the timeout; the child's own alarm only matters when there is no parent to do it.
GRACE_SECONDS = 5
MAX_WRITTEN_FILE_BYTES = 16 << 20
_PR_SET_PDEATHSIG = 1


def serve_requests(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until `source` ends."""
    while head := source.read(LENGTH.size):
        header = json.loads(source.read(LENGTH.unpack(head)[0]))
        content = source.read(header["size"])
        if len(content) < header["size"]:
            return
        set_deadline(header["timeout"])
        request = ParseRequest("", header["name"], content)
        try:
            answer = encode_outcome(parse_guarded(request, header["memory"]))
        except MemoryError:
            answer = encode_outcome(describe_failure(request, "memory", header["memory"]))
        signal.alarm(0)
        sink.write(LENGTH.pack(len(answer)) + answer)
        sink.flush()


def parse_guarded(request: ParseRequest, memory: str) -> Parsed | ParseFailure:
    """The outcome; whatever a parser raises becomes a failure (a Rust panic is no `Exception`)."""
    try:
        return parse_binary_file(request)
    except MemoryError:
        return describe_failure(request, "memory", memory)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return describe_failure(request, "malformed", f"{type(error).__name__}: {error}"[:300])


def encode_outcome(outcome: Parsed | ParseFailure) -> bytes:
    """The outcome as JSON; the parent knows which record it is by its fields."""
    return json.dumps(asdict(outcome), ensure_ascii=False).encode()


def set_deadline(seconds: float) -> None:
    """Bound this request's CPU and wall time from inside, native code included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + GRACE_SECONDS
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    signal.alarm(int(seconds) + GRACE_SECONDS)


def limit_process(memory_bytes: int) -> None:
    """`memory_bytes` beyond what the loaded parsers occupy, no core dumps, no large files on disk."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            occupied = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        occupied = 1 << 30
    limits = {
        resource.RLIMIT_AS: occupied + memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: MAX_WRITTEN_FILE_BYTES,
    }
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (value, value))


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent goes, also in the middle of a file."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def main() -> None:
    """Keep stdout for answers alone (native code prints too), load, limit, serve."""
    memory_bytes, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    load_parsers()
    limit_process(memory_bytes)
    serve_requests(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
