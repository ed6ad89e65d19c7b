"""A swap by the product's own functions, phase by phase, beside the API that serves."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import traffic
from benchmarks.measuring import measure_seconds
from benchmarks.traffic import Edit
from rag_pipeline.database.embedded import drop_dead_handles
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.filling import EmbeddingReport
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index.applying import load_generation
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.promotion import GateRefusedError, promote, rollback
from rag_pipeline.serving.warming import wait_until_warm
from rag_pipeline.settings import Settings

START_SECONDS = 120
CHECKED_EDITS = 20


@contextmanager
def serve(home: Path, queries: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The product's API over a home, in a process of its own, warm; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", int(free.getsockname()[1]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    environment |= {"RAG_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "rag_pipeline.serving.api", "--port", str(address[1])]
    process = subprocess.Popen(command, env=environment, cwd=home)
    try:
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                for number in range(40):
                    traffic.search(address, queries[number % len(queries)], traffic.MODES[number % 2])
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        drop_dead_handles(home)  # it ends by the signal and leaves its own behind: the server would never stop


@dataclass(frozen=True)
class Phase:
    """A stretch of the run, in Unix seconds."""

    name: str
    began: float
    ended: float

    def holds(self, moment: float) -> bool:
        return self.began <= moment < self.ended


@dataclass(frozen=True)
class Pointed:
    """A move of the pointer: seconds of the whole call and of the transaction, and when the call was made."""

    call: float
    transaction: float
    began: float
    ended: float


@dataclass
class Run:
    """What happened during a swap, for the report."""

    phases: list[Phase] = field(default_factory=list)
    pointed: dict[str, Pointed] = field(default_factory=dict)
    found: dict[str, "Found"] = field(default_factory=dict)
    embedding: EmbeddingReport = field(default_factory=EmbeddingReport)
    verdict: str = ""
    cold: list[str] = field(default_factory=list)
    forced: bool = False

    @contextmanager
    def phase(self, name: str, seconds: float = 0.0) -> Iterator[None]:
        """What is done inside is the phase, which lasts at least so long."""
        began = time.time()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        yield
        time.sleep(max(0.0, began + seconds - time.time()))
        self.phases.append(Phase(name, began, time.time()))
        print(f"{time.time() - began:.1f} s", file=sys.stderr)


@dataclass(frozen=True)
class TimedDatabase(Database):
    """A database that notes how long each transaction took, its commit included."""

    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def transaction(self):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        with super().transaction() as connection:
            yield connection
        self.seconds.append(time.perf_counter() - began)


def point(database: Database, move: Callable[[Database], object]) -> Pointed:
    """Time a promotion or a rollback; its last transaction is the one that moves the pointer."""
    timed = TimedDatabase(database.url, database.engine)
    began = time.time()
    call = measure_seconds(lambda: move(timed))
    return Pointed(call, timed.seconds[-1], began, time.time())


def swap(
    database: Database,
    settings: Settings,
    candidate: ModelRecord,
    seconds: float,
    look: Callable[[float, float], "Found"],
) -> tuple[Run, Generation]:
    """A whole swap and its rollback, phase by phase. `look(since, until)` asks for the documents written then."""
    run = Run()
    with run.phase("quiet", seconds):
        pass
    with run.phase("embedding"):
        generation = ensure_generation(database, settings, candidate)
        run.embedding = fill_generation(database, settings, generation)
    with run.phase("load"):
        load_generation(database, generation)
    with run.phase("index build"):
        build_generation(database, settings, generation)
    with run.phase("evaluation"):
        evaluation = evaluate_candidate(database, settings, generation)
        run.verdict = f"{evaluation.verdict}: {evaluation.reason}"
    with run.phase("warm-up"):
        run.cold = wait_until_warm(database, generation.id, settings.warm_seconds)
    with run.phase("cutover", seconds / 4):
        try:
            run.pointed["cutover"] = point(database, lambda d: promote_as(d, generation))
        except GateRefusedError:
            run.forced = True
            run.pointed["cutover"] = point(database, lambda d: promote_as(d, generation, force=True))
    with run.phase("soak", seconds):
        run.found["cutover"] = look(run.phases[1].began, run.pointed["cutover"].began)
    with run.phase("rollback", seconds / 4):
        run.pointed["rollback"] = point(database, lambda d: rollback(d, actor="benchmark", reason="to be measured"))
    with run.phase("after", seconds):
        run.found["rollback"] = look(run.pointed["cutover"].ended, run.pointed["rollback"].began)
    return run, generation


def promote_as(database: Database, generation: Generation, *, force: bool = False) -> None:
    reason = "most of its vectors are mapped, to measure the swap" if force else "the verdict allows it"
    promote(database, generation.id, actor="benchmark", reason=reason, force=force)


@dataclass(frozen=True)
class Found:
    """Documents looked for: how many, how many by their own word, by their vector among all notes (few enough to be
    compared one by one) and among everything (through the HNSW graph), and replaced texts still found."""

    asked: int
    by_word: int
    by_vector: int
    by_graph: int
    replaced: int


def look_for(address: tuple[str, int], path: Path, since: float, until: float) -> Found:
    """Ask for the newest documents whose ingestion began and ended between two moments."""
    edits = [e for e in traffic.read_edits(path) if e.written >= since and e.done <= until][-CHECKED_EDITS:]

    def finds(edit: Edit, query: str, mode: str, where: Sequence[str] = ()) -> bool:
        return edit.document in [hit["document_id"] for hit in traffic.search(address, query, mode, where)["hits"]]

    notes = [f"{key}={value}" for key, value in traffic.NOTE.items()]

    answers = [
        (
            edit,
            finds(edit, edit.word, "lexical"),
            finds(edit, edit.text, "vector", notes),
            finds(edit, edit.text, "vector"),
            bool(edit.replaced_word) and finds(edit, edit.replaced_word, "lexical"),
        )
        for edit in edits
    ]
    # a text that was replaced while we asked is rightly gone
    now = {edit.document: edit.written for edit in traffic.read_edits(path)}
    kept = [row for row in answers if now[row[0].document] == row[0].written]
    return Found(len(kept), *(sum(row[column] for row in kept) for column in (1, 2, 3, 4)))
