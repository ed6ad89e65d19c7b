"""A model swap under traffic: from a static model to MiniLM, while queries come and documents are edited.

The API of `rag up` answers a constant rate of queries from a second process (hybrid and vector in turn), a third
one edits documents, and this one does the swap by the product's own functions: embed, load, build, compare,
promote, roll back. Latency counts from the moment a query was due and is compared with the quiet phase of the
same run. Every answer is checked: the cosines it reports must be those of the query embedded by its model and of
the ledger's vectors in its generation's space, and its generation must have served at that time.

Embedding 100,000 passages with MiniLM takes over an hour on two cores. So the product embeds `--sample` of the
chunks, and the ledger holds the rest before it begins: by a linear map from the static space, fitted by least
squares. The report says how many are which. The gate judges such a candidate like any other; where it refuses,
the promotion is forced, which is said too. `--sample 0` embeds everything.

Exits 1 where one of the goals is missed.

    python -m benchmarks.swap --short
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import corpora, scratch, traffic
from benchmarks.measuring import measure_seconds, percentile, spread
from benchmarks.provenance import Served, Verification, normalise, read_spaces, read_vectors, verify_answers
from benchmarks.reporting import Curve, Figure, Goal, Report, Table, run_benchmark
from benchmarks.traffic import Answer, Edit
from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.filling import EmbeddingReport
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model, open_checked_model
from rag_pipeline.embeddings.store import ModelRecord, land_embeddings, missing_chunks, read_chunk_texts
from rag_pipeline.index.applying import load_generation
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.promotion import GateRefusedError, promote, rollback
from rag_pipeline.serving.warming import wait_until_warm
from rag_pipeline.settings import Settings

SLUG = "bench"
CANDIDATE = "minilm"
FITTED = 1_000
HELD_OUT = 100
# Added to the diagonal of a fit over unit vectors: enough to keep it stable, little beside its eigenvalues.
RIDGE = 0.1
BATCH = 10_000
START_SECONDS = 120
# Below this many queries a 95th percentile is one of the worst five: it is shown and not judged.
FEWEST_JUDGED = 100
MOST_SLOWER = 1.5
CHECKED_EDITS = 20
WINDOW_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passages", type=int, help="rows of the corpus (100,000; short: 4,000)")
    parser.add_argument("--sample", type=int, help="chunks that the product embeds; 0: all (3,000; short: 600)")
    parser.add_argument("--rate", type=float, default=10.0, help="queries per second")
    parser.add_argument("--seconds", type=float, help="length of the quiet, soak and last phases (60; short: 12)")
    parser.add_argument("--model", help="what serves; default: a distilled static model of 384 dimensions")
    parser.add_argument("--candidate", default="packaged:all-MiniLM-L6-v2", help="the model that is swapped to")
    parser.add_argument("--home", type=Path, help="keep the filled database there and reuse it")


# the corpus, and a ledger that is filled but for the sample -----------------------------------------------------


@dataclass(frozen=True)
class Filling:
    """Where the candidate's vectors come from: chunks left to the product, embedded while preparing, mapped.

    `likeness`: mean cosine of mapped vectors to the model's own, on chunks the map was not fitted on.
    """

    left: int
    embedded: int = 0
    mapped: int = 0
    likeness: float = 1.0


def fill_ledger(database: Database, serving: Generation, candidate: ModelRecord, sample: int, seed: int) -> Filling:
    """Give all chunks but a random `sample` a vector in the candidate's space; 0 leaves all to the product."""
    with database.connection() as connection:
        missing = missing_chunks(connection, candidate.space, serving.chunker_id, only_pending=False)
    chunks = sorted(chunk.id for chunk in missing)
    random.Random(seed).shuffle(chunks)
    left, others = chunks[:sample], chunks[sample:]
    if not sample or len(others) <= FITTED:
        return Filling(len(chunks))
    fitted, mapped = others[:FITTED], others[FITTED:]
    own = embed_chunks(database, candidate, fitted)
    their = read_unit_vectors(database, serving.space_id, fitted)
    matrix = fit_map(their[HELD_OUT:], own[HELD_OUT:])
    likeness = float(np.mean(np.sum(normalise(their[:HELD_OUT] @ matrix) * own[:HELD_OUT], axis=1)))
    land(database, candidate, fitted, own)
    for position in range(0, len(mapped), BATCH):
        batch = mapped[position : position + BATCH]
        land(database, candidate, batch, normalise(read_unit_vectors(database, serving.space_id, batch) @ matrix))
    with database.connection() as connection:
        connection.execute("vacuum (analyze) rag.embedding")  # not in the middle of the quiet phase
        connection.execute("checkpoint")
    return Filling(len(left), len(fitted), len(mapped), likeness)


def embed_chunks(database: Database, model: ModelRecord, chunks: Sequence[int]) -> np.ndarray:
    """(n, dimension) unit vectors by the model itself, in the order of `chunks`."""
    with database.connection() as connection:
        found = {chunk.id: chunk for chunk in read_chunk_texts(connection, model.space, chunks)}
    texts = [embedded_text(found[c].title, found[c].heading_path, found[c].text) for c in chunks]
    return normalise(open_checked_model(model).embed_documents(texts))


def read_unit_vectors(database: Database, space_id: int, chunks: Sequence[int]) -> np.ndarray:
    """(n, dimension) of the ledger, in the order of `chunks`. Raises KeyError for one that is not there."""
    with database.connection() as connection:
        vectors = dict(read_vectors(connection, space_id, chunks))
    return np.stack([vectors[chunk] for chunk in chunks])


def fit_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix that maps source (n, d) nearest to target (n, e), by ridge regression. Pure."""
    gram = source.T @ source + RIDGE * np.eye(source.shape[1])
    return np.asarray(np.linalg.solve(gram, source.T @ target), dtype=np.float32)


def land(database: Database, model: ModelRecord, chunks: Sequence[int], vectors: np.ndarray) -> None:
    with database.transaction() as connection:
        land_embeddings(connection, model.space, chunks, vectors)


# the serving process --------------------------------------------------------------------------------------------


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


# the swap -------------------------------------------------------------------------------------------------------


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


# what is found ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Documents looked for: how many, how many by their own word and by meaning, and replaced texts still found."""

    asked: int
    by_word: int
    by_vector: int
    replaced: int


def look_for(address: tuple[str, int], path: Path, since: float, until: float) -> Found:
    """Ask for the newest documents whose ingestion began and ended between two moments."""
    edits = [e for e in traffic.read_edits(path) if e.written >= since and e.done <= until][-CHECKED_EDITS:]

    def finds(edit: Edit, query: str, mode: str) -> bool:
        return edit.document in [hit["document_id"] for hit in traffic.search(address, query, mode)["hits"]]

    answers = [
        (
            edit,
            finds(edit, edit.word, "lexical"),
            finds(edit, edit.text, "vector"),
            bool(edit.replaced_word) and finds(edit, edit.replaced_word, "lexical"),
        )
        for edit in edits
    ]
    # a text that was replaced while we asked is rightly gone
    now = {edit.document: edit.written for edit in traffic.read_edits(path)}
    kept = [row for row in answers if now[row[0].document] == row[0].written]
    return Found(len(kept), *(sum(row[column] for row in kept) for column in (1, 2, 3)))


# the report ------------------------------------------------------------------------------------------------------


def describe_phases(
    phases: Sequence[Phase], answers: Sequence[Answer], mixed: Sequence[str]
) -> tuple[list[Figure], Table]:
    """Latency of each phase against the quiet one, and the counts."""
    figures: list[Figure] = []
    rows: list[list[str]] = []
    quiet: float | None = None
    for phase in phases:
        own = [(a, m) for a, m in zip(answers, mixed, strict=True) if phase.holds(a.due)]
        times = [a.milliseconds for a, _ in own] or [float("nan")]
        p50, p95 = percentile(times, 50), percentile(times, 95)
        quiet = quiet or p95
        judged = phase.name not in ("quiet", "index build") and len(own) >= FEWEST_JUDGED
        figures.append(
            Figure(
                f"p95, {phase.name}",
                spread(p95),
                "ms",
                spread(quiet),
                spread(p95 / quiet),
                Goal(MOST_SLOWER) if judged else None,
            )
        )
        embedding = percentile([a.embed_ms for a, _ in own] or [float("nan")], 95)
        failed = sum(bool(a.error) for a, _ in own)
        cells = [len(own), failed, sum(bool(m) for _, m in own)]
        rows.append(
            [
                phase.name,
                f"{phase.ended - phase.began:.1f}",
                *map(str, cells),
                *(f"{value:.1f}" for value in (p50, p95, max(times), embedding)),
                f"{p95 / quiet:.2f}",
            ]
        )
    columns = ["phase", "seconds", "queries", "failed", "mixed", "p50 ms", "p95 ms", "max ms", "embed p95 ms", "ratio"]
    return figures, Table(columns, rows)


def describe_holds(run: Run, answers: Sequence[Answer], verified: Verification, edits: Sequence[Edit]) -> list[Figure]:
    """What must hold whatever the machine."""
    none, all_ = Goal(0, of="ours"), Goal(100, "at least", "ours")
    figures = [
        Figure("queries failed", spread(sum(bool(a.error) for a in answers)), baseline=None, goal=none),
        Figure("answers of words alone", spread(sum(bool(a.degraded) for a in answers)), goal=none),
        Figure("answers that mix models or generations", spread(sum(map(bool, verified.mixed))), goal=none),
        Figure("answers whose mixture could not be told", spread(verified.blind), goal=none),
    ]
    for name, pointed in run.pointed.items():
        figures.append(Figure(f"{name}, the whole call", spread(1000 * pointed.call), "ms", goal=Goal(1000, of="ours")))
        figures.append(Figure(f"{name}, the transaction", spread(1000 * pointed.transaction), "ms"))
    written = {"cutover": "while the candidate was made", "rollback": "during the soak"}
    for name, found in run.found.items():
        for how, count in (("their own word", found.by_word), ("their vector", found.by_vector)):
            label = f"found after the {name} by {how}: documents written {written[name]}"
            figures.append(Figure(label, spread(100 * count / found.asked if found.asked else 0), "%", goal=all_))
        figures.append(Figure(f"replaced texts found after the {name}", spread(found.replaced), goal=none))
    taken = [edit.done - edit.written for edit in edits]
    figures.append(Figure("an edit is searchable after, p95", spread(percentile(taken, 95)), "s"))
    return figures


def draw_latency(phases: Sequence[Phase], answers: Sequence[Answer]) -> Curve:
    """Latency over time in windows, with the phases shaded."""
    start = phases[0].began
    windows: dict[int, list[float]] = {}
    for answer in answers:
        windows.setdefault(int((answer.due - start) // WINDOW_SECONDS), []).append(answer.milliseconds)
    kinds: dict[str, Callable[[list[float]], float]] = {
        "p50": lambda times: percentile(times, 50),
        "p95": lambda times: percentile(times, 95),
    }
    series = {
        name: [
            ((number + 0.5) * WINDOW_SECONDS, work(times)) for number, times in sorted(windows.items()) if number >= 0
        ]
        for name, work in kinds.items()
    }
    spans = {phase.name: (phase.began - start, phase.ended - start) for phase in phases}
    label = f"latency over {WINDOW_SECONDS:.0f} s, ms"
    return Curve("A model swap under traffic", "seconds", label, series, spans=spans)


def measure(options: argparse.Namespace) -> Report:
    passages = options.passages or (4_000 if options.short else 100_000)
    sample = options.sample if options.sample is not None else (600 if options.short else 3_000)
    seconds = options.seconds or (12.0 if options.short else 60.0)
    rows, queries, origin = corpora.read_passages(passages, options.seed)
    changes = {"model": options.model or corpora.find_static_model(), "model_slug": SLUG}
    with ExitStack() as stack:
        settings, database = stack.enter_context(scratch.open_scratch(options.home, **changes))
        scratch.ingest_file(database, settings, corpora.write_rows(settings.home / "corpus.jsonl", rows))
        serving = scratch.serve_everything(database, settings)
        candidate = add_model(database, ModelSpec(CANDIDATE, options.candidate))
        filling = fill_ledger(database, serving, candidate, sample, options.seed)
        asked, edited = settings.home / "answers.jsonl", settings.home / "edits.jsonl"
        for path in (asked, edited):
            path.unlink(missing_ok=True)
        with ExitStack() as beside:
            address = beside.enter_context(serve(settings.home, queries))
            arguments = (address, queries, options.rate)
            checks = [
                beside.enter_context(traffic.run_beside(traffic.edit_documents, edited, settings.home, changes)),
                beside.enter_context(traffic.run_beside(traffic.send_queries, asked, *arguments)),
            ]
            wait_for_traffic(asked, edited, checks)
            run, generation = swap(
                database, settings, candidate, seconds, lambda since, until: look_for(address, edited, since, until)
            )
            for check in checks:
                check()
        answers, edits = traffic.read_answers(asked), traffic.read_edits(edited)
        verified = verify_answers(
            answers, read_spaces(database, answers, queries), list_served(run, serving, generation)
        )
        facts = scratch.read_server_version(database)
    figures, table = describe_phases(run.phases, answers, verified.mixed)
    report = Report("swap", describe_holds(run, answers, verified, edits) + figures, tables=[table])
    report.curves.append(draw_latency(run.phases, answers))
    report.notes = describe_run(run, filling, verified, edits)
    report.facts = {**facts, "corpus": origin, "passages": len(rows), "dimension": generation.dimension,
                    "queries per second": options.rate}  # fmt: skip
    return report


def wait_for_traffic(asked: Path, edited: Path, checks: Sequence[Callable[[], None]]) -> None:
    """Until queries are answered and documents were edited a few times. Raises RuntimeError if one of them died."""
    while not (asked.exists() and len(traffic.read_edits(edited)) >= 6):
        for check in checks:
            check()
        time.sleep(0.5)


def list_served(run: Run, before: Generation, candidate: Generation) -> list[Served]:
    """When each generation may have answered."""
    there, back = run.pointed["cutover"], run.pointed["rollback"]
    return [
        Served(before.id, 0.0, there.ended),
        Served(candidate.id, there.began, back.ended),
        Served(before.id, back.began, float("inf")),
    ]


def describe_run(run: Run, filling: Filling, verified: Verification, edits: Sequence[Edit]) -> list[str]:
    notes = [
        f"the candidate's vectors: {run.embedding.embedded:,} embedded by it during the swap "
        f"({run.embedding.embedded / max(run.embedding.seconds, 1e-9):.1f}/s), {filling.embedded:,} while preparing"
    ]
    if filling.mapped:
        notes[0] += (
            f", {filling.mapped:,} NOT its own: mapped from the static space by least squares "
            f"(mean cosine to its own {filling.likeness:.2f})"
        )
    forced = "; the gate refused and the promotion was forced" if run.forced else "; promoted by the gate"
    notes.append(f"verdict {run.verdict}{forced}")
    if run.cold:
        notes.append(f"not ready at the cutover, so its first searches had to load the model: {', '.join(run.cold)}")
    notes.append(
        f"{verified.cosines:,} reported cosines were computed again from the ledger: largest difference "
        f"{verified.largest_error:.1e}; {len(edits):,} edits"
    )
    reasons = sorted({reason for reason in verified.mixed if reason})
    notes += [f"mixed: {reason}" for reason in reasons[:5]]
    notes.append(f"phases with fewer than {FEWEST_JUDGED} queries, and the index build, are shown and not judged")
    return notes


if __name__ == "__main__":
    sys.exit(run_benchmark("swap", __doc__, add_arguments, measure, strict=True))
