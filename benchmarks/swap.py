"""A model swap under traffic: from a static model to MiniLM, while queries come and documents are edited.

The API of `rag up` answers a constant rate of queries from a second process (hybrid and vector in turn), a third
one edits documents, and this one does the swap by the product's own functions: embed, load, build, compare,
promote, roll back. Latency counts from the moment a query was due and is compared with the quiet phase of the
same run. Every answer is checked: the cosines it reports must be those of the query embedded by its model and of
the ledger's vectors in its generation's space, and its generation must have served at that time.

Embedding 100,000 passages with MiniLM takes over half an hour on two cores. So the product embeds `--sample` of the
chunks, and the ledger holds the rest before it begins: by a linear map from the static space, fitted by least
squares. The report says how many are which. The gate judges such a candidate like any other; where it refuses,
the promotion is forced, which is said too. `--sample 0` embeds everything.

Exits 1 where one of the goals is missed.

`--home FOLDER` takes a filled database that has no candidate yet, and keeps it.

    python -m benchmarks.swap --short
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import corpora, scratch, traffic
from benchmarks.measuring import percentile, spread
from benchmarks.prefilling import Filling, fill_ledger
from benchmarks.provenance import Served, Verification, read_spaces, verify_answers
from benchmarks.reporting import Curve, Figure, Goal, Report, Table, run_benchmark
from benchmarks.swap_run import Phase, Run, look_for, serve, swap
from benchmarks.traffic import Answer, Edit
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.store import Generation

SLUG = "bench"
CANDIDATE = "minilm"
# Below this many queries a 95th percentile is one of the worst five: it is shown and not judged.
FEWEST_JUDGED = 100
MOST_SLOWER = 1.5
WINDOW_SECONDS = 5.0
# One chunk, whatever the chunker.
NOTE_CHARACTERS = 300
COLUMNS = ["phase", "seconds", "queries", "failed", "mixed", "p50 ms", "p95 ms", "max ms", "embed p95 ms", "ratio"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passages", type=int, help="rows of the corpus (100,000; short: 4,000)")
    parser.add_argument("--sample", type=int, help="chunks that the product embeds; 0: all (3,000; short: 600)")
    parser.add_argument("--rate", type=float, default=10.0, help="queries per second")
    parser.add_argument("--seconds", type=float, help="length of the quiet, soak and last phases (60; short: 12)")
    parser.add_argument("--model", help="what serves; default: a distilled static model of 384 dimensions")
    parser.add_argument("--candidate", default="packaged:all-MiniLM-L6-v2", help="the model that is swapped to")
    parser.add_argument("--home", type=Path, help="use and keep the database there; one without a candidate")


def describe_phases(
    phases: Sequence[Phase], answers: Sequence[Answer], mixed: Sequence[str], *, judged: bool = True
) -> tuple[list[Figure], Table]:
    """Latency of each phase against the quiet one, and the counts. `judged`: with the goal."""
    figures: list[Figure] = []
    rows: list[list[str]] = []
    quiet: float | None = None
    for phase in phases:
        own = [(a, m) for a, m in zip(answers, mixed, strict=True) if phase.holds(a.due)]
        if not own:  # over before a query was due
            rows.append([phase.name, f"{phase.ended - phase.began:.1f}", "0", *[""] * (len(COLUMNS) - 3)])
            continue
        times = [a.milliseconds for a, _ in own]
        p50, p95 = percentile(times, 50), percentile(times, 95)
        quiet = quiet or p95
        has_goal = judged and phase.name not in ("quiet", "index build") and len(own) >= FEWEST_JUDGED
        figures.append(
            Figure(
                f"p95, {phase.name}",
                spread(p95),
                "ms",
                spread(quiet),
                spread(p95 / quiet),
                Goal(MOST_SLOWER) if has_goal else None,
            )
        )
        embedding = percentile([a.embed_ms for a, _ in own], 95)
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
    return figures, Table(COLUMNS, rows)


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
        ways = {
            "their own word": (found.by_word, all_),
            "their vector": (found.by_vector, all_),
            "their vector in the graph": (found.by_graph, None),
        }
        for how, (count, goal) in ways.items():
            label = f"found after the {name} by {how}: documents written {written[name]}"
            figures.append(Figure(label, spread(100 * count / found.asked if found.asked else 0), "%", goal=goal))
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
        notes = [row["text"][:NOTE_CHARACTERS] for row in random.Random(options.seed).sample(rows, min(500, len(rows)))]
        asked, edited = settings.home / "answers.jsonl", settings.home / "edits.jsonl"
        for path in (asked, edited):
            path.unlink(missing_ok=True)
        with ExitStack() as beside:
            address = beside.enter_context(serve(settings.home, queries))
            arguments = (address, queries, options.rate)
            checks = [
                beside.enter_context(traffic.run_beside(traffic.edit_documents, edited, settings.home, changes, notes)),
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
    figures, table = describe_phases(run.phases, answers, verified.mixed, judged=not options.short)
    report = Report("swap", describe_holds(run, answers, verified, edits) + figures, tables=[table])
    report.curves.append(draw_latency(run.phases, answers))
    report.notes = describe_run(run, filling, verified, edits, short=options.short)
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


def describe_run(
    run: Run, filling: Filling, verified: Verification, edits: Sequence[Edit], *, short: bool
) -> list[str]:
    """What the figures do not say: whose the vectors are, the verdict, how much was checked."""
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
    if short:
        notes.append("short form: no latency is judged; a small corpus is searched faster than the query is embedded")
    return notes


if __name__ == "__main__":
    sys.exit(run_benchmark("swap", __doc__, add_arguments, measure, strict=True))
