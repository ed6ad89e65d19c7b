"""From JSONL rows to an index that serves, and what one change costs.

Everything runs in a process of its own, whose largest resident memory is read at the end: the corpus is read as
a stream, so it must not grow with it. A change comes in two ways: a row changed inside the big file, which has to
be read again to find it; and a small file of its own, beside the corpus. The second is the cost of one change: it
is measured with all rows and with a tenth of them, taking turns.

    python -m benchmarks.ingest --short
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import corpora, scratch
from benchmarks.measuring import measure_seconds, spread, spread_ratios
from benchmarks.reporting import Figure, Goal, Report, run_benchmark
from rag_pipeline.database.engine import Database
from rag_pipeline.index.building import (
    build_generation,
    cut_for,
    ensure_generation,
    fill_generation,
    refresh_generation,
)
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.promotion import promote
from rag_pipeline.serving.search import Searcher
from rag_pipeline.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passages", type=int, help="rows of the corpus (100,000; short: 10,000)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", help="a model source; default: a distilled static model of 384 dimensions")


def fill_home(home: Path, model: str, corpus: Path) -> dict[str, Any]:
    """The whole way, step by step. Returns seconds by step, documents, chunks, and the peak memory in MiB."""
    seconds: dict[str, float] = {}
    with scratch.open_scratch(home, model=model, model_slug="bench") as (settings, database):
        record = scratch.add_settings_model(database, settings)
        generation = ensure_generation(database, settings, record)
        steps: dict[str, Callable[[], Any]] = {
            "versions": lambda: scratch.ingest_file(database, settings, corpus),
            "chunks": lambda: cut_for(database, settings, generation.chunker_id, only_pending=False),
            "embeddings": lambda: fill_generation(database, settings, generation),
            "index": lambda: build_generation(database, settings, generation),
            "serving": lambda: promote(database, generation.id, actor="benchmark", reason="first", force=True),
        }
        for name, step in steps.items():
            seconds[name] = measure_seconds(step)
        with database.connection() as connection:
            counted = connection.execute("select (select count(*) from rag.document), (select count(*) from rag.chunk)")
            documents, chunks = counted.fetchone() or (0, 0)
        facts = scratch.read_server_version(database)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "documents": documents, "chunks": chunks, "peak": peak, "facts": facts}


def run_apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a fresh interpreter, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=send_result, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        raise RuntimeError("the measured process died; its error is above") from error
    finally:
        process.join()


def send_result(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The measured process's side of `run_apart`."""
    pipe.send(work(*arguments))


class FilledHome:
    """An index that serves, and ways to change what it is made of."""

    def __init__(self, settings: Settings, database: Database, rows: list[dict[str, Any]]) -> None:
        self.settings, self.database, self.rows = settings, database, rows
        self.corpus = settings.home / "corpus.jsonl"
        self.generation: Generation = scratch.serve_everything(database, settings)
        self.searcher = Searcher(database)

    def update(self, path: Path) -> float:
        """Seconds from a file as it is to an index that knows it."""
        return measure_seconds(
            lambda: (
                scratch.ingest_file(self.database, self.settings, path),
                refresh_generation(self.database, self.settings, self.generation),
            )
        )

    def update_nothing(self) -> float:
        return self.update(self.corpus)

    def update_row(self) -> float:
        """One row changed in the middle of the corpus's own file."""
        position = len(self.rows) // 2
        row = self.rows[position]
        self.rows[position] = {**row, "text": f"{row['text']}\n\nChanged at {time.time_ns()}."}
        corpora.write_rows(self.corpus, self.rows)
        return self.update(self.corpus)

    def update_file(self) -> float:
        """One document changed in a file of its own; raises if it is not found afterwards."""
        word = f"zq{time.time_ns()}"
        path = self.settings.home / "late" / "note.jsonl"
        corpora.write_rows(path, [{"id": "late", "title": "A late note", "text": f"The word of the day is {word}."}])
        seconds = self.update(path)
        hits = self.searcher.search(word, k=3, mode="lexical").hits
        if [hit.document_id for hit in hits] != ["late"]:
            raise RuntimeError(f"the changed document was not found by its new word {word}")
        return seconds


def measure_changes(home: Path, small_home: Path, model: str, repeats: int) -> list[Figure]:
    rows = list(corpora.read_lines(home / "corpus.jsonl"))
    changes = {"model": model, "model_slug": "bench"}
    with (
        scratch.open_scratch(home, **changes) as whole,
        scratch.open_scratch(small_home, **changes) as tenth,
    ):
        large = FilledHome(*whole, rows)
        small = FilledHome(*tenth, rows[: len(rows) // 10])
        large.update_file(), small.update_file()  # the models and counters are loaded now
        again = [large.update_nothing() for _ in range(repeats)]
        changed = [large.update_row() for _ in range(repeats)]
        at_large: list[float] = []
        at_small: list[float] = []
        # a pair is a fiftieth of a second: three times as many, so that one hiccup decides nothing
        for turn in range(3 * repeats):
            pair = [(at_large, large), (at_small, small)]
            for times, filled in pair if turn % 2 == 0 else reversed(pair):
                times.append(filled.update_file())
    milliseconds = [[1000 * second for second in times] for times in (at_large, at_small)]
    return [
        Figure("second run, nothing changed", spread(again), "s"),
        Figure("one row changed in the corpus's file", spread(changed), "s", goal=Goal(3, of="ours")),
        Figure(
            "one changed document, all rows against a tenth",
            spread(milliseconds[0]),
            "ms",
            spread(milliseconds[1]),
            spread_ratios(*milliseconds),
            Goal(1.5),
        ),
    ]


def measure(options: argparse.Namespace) -> Report:
    count = options.passages or (10_000 if options.short else 100_000)
    rows, _, origin = corpora.read_passages(count, options.seed)
    model = options.model or corpora.find_static_model()
    with scratch.make_folder() as folder:
        homes = (folder / "whole", folder / "tenth")
        runs = []
        for home, part in zip(homes, (rows, rows[: len(rows) // 10]), strict=True):
            corpus = corpora.write_rows(home / "corpus.jsonl", part)
            runs.append(run_apart(fill_home, home, model, corpus))
        whole, tenth = runs
        characters = sum(len(row["text"]) for row in rows)
        del rows
        changes = measure_changes(*homes, model, options.repeats)
    seconds = whole["seconds"]
    parsed = whole["documents"] / (seconds["versions"] + seconds["chunks"])
    report = Report("ingest", facts={
        **whole["facts"], "corpus": origin, "rows": whole["documents"], "characters": characters,
        "chunks": whole["chunks"], "dimension": json.dumps(model.rpartition("-")[2]).strip('"'),
    })  # fmt: skip
    report.figures = [
        Figure("JSONL to versions and chunks", spread(parsed), "documents/s", goal=Goal(1500, "at least", "ours")),
        *(Figure(f"{name}, whole corpus", spread(taken), "s") for name, taken in seconds.items()),
        Figure("whole way to a serving index", spread(sum(seconds.values())), "s"),
        Figure("peak memory, all rows against a tenth", spread(whole["peak"]), "MiB", spread(tenth["peak"]),
               spread(whole["peak"] / tenth["peak"]), Goal(1536, of="ours")),
        *changes,
    ]  # fmt: skip
    report.notes = ["embedding is by a static model, so that the time is the pipeline's and not the model's"]
    return report


if __name__ == "__main__":
    sys.exit(run_benchmark("ingest", __doc__, add_arguments, measure))
