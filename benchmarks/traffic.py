"""What goes on while something else is measured: queries at a constant rate, and documents being edited.

Both run in processes of their own and write one JSON line per event, so that nothing is lost if they are killed.
A query's latency counts from the moment it was due, not from when it was sent: a stall is seen by every query
that fell into it (no coordinated omission).
"""

import http.client
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.corpora import read_lines, write_rows

K = 10
MODES = ("hybrid", "vector")
WAITING = 64
TIMEOUT_SECONDS = 30.0
EDIT_SECONDS = 3.0
NOTES = "notes.jsonl"
EDITED_NOTES = 20
NOTE = {"kind": "note"}


@dataclass(frozen=True)
class Answer:
    """One query and what came of it. Times are Unix seconds; `hits` are (chunk, cosine or None, generation)."""

    query: int
    mode: str
    due: float
    sent: float
    done: float
    error: str = ""
    generation: int | None = None
    model: str = ""
    embedded_by: str | None = None
    degraded: str | None = None
    embed_ms: float = 0.0
    hits: list[tuple[int, float | None, int]] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        return (self.done - self.due) * 1000


@dataclass(frozen=True)
class Edit:
    """One document as it was written: `word` is in no other text. Done: the ingestion that read it had ended."""

    document: str
    word: str
    text: str
    replaced_word: str
    written: float
    done: float


def search(address: tuple[str, int], query: str, mode: str, where: Sequence[str] = ()) -> dict[str, Any]:
    """The answer of GET /search; `where` are key=value.

    Raises what the connection raises, and OSError for any status but 200.
    """
    given = urlencode({"q": query, "k": K, "mode": mode, "where": where}, doseq=True)
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"/search?{given}")
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"status {response.status}: {body[:200]!r}")
    found: dict[str, Any] = json.loads(body)
    return found


def ask(address: tuple[str, int], queries: Sequence[str], number: int, due: float) -> Answer:
    """The number-th query of a series: modes take turns, and so do the queries within each mode."""
    which, mode = (number // len(MODES)) % len(queries), MODES[number % len(MODES)]
    sent = time.time()
    try:
        found = search(address, queries[which], mode)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(which, mode, due, sent, time.time(), f"{type(error).__name__}: {error}")
    return Answer(
        which,
        mode,
        due,
        sent,
        time.time(),
        generation=found["generation"],
        model=found["model"],
        embedded_by=found.get("embedded_by"),
        degraded=found.get("degraded"),
        embed_ms=found["milliseconds"]["embed"],
        hits=[(hit["chunk_id"], hit["scores"]["vector"], hit["generation"]) for hit in found["hits"]],
    )


def send_queries(stop: Event, path: Path, address: tuple[str, int], queries: list[str], rate: float) -> None:
    """Send `rate` queries a second, whatever becomes of them, until told to stop; then wait for the last ones."""
    lock = threading.Lock()
    with path.open("a", encoding="utf-8") as file, ThreadPoolExecutor(WAITING) as pool:

        def record(number: int, due: float) -> None:
            line = json.dumps(asdict(ask(address, queries, number, due)))
            with lock:
                file.write(line + "\n")
                file.flush()

        began, number = time.time(), 0
        while not stop.is_set():
            due = began + number / rate
            time.sleep(max(0.0, due - time.time()))
            pool.submit(record, number, due)
            number += 1


def edit_documents(stop: Event, path: Path, home: Path, changes: dict[str, Any], texts: list[str]) -> None:
    """Write and ingest two notes every few seconds, a new one and a changed one, until told to stop."""
    from benchmarks.scratch import ingest_file, open_scratch
    from rag_pipeline.index.building import refresh_generation
    from rag_pipeline.index.store import list_generations

    rows: dict[str, dict[str, Any]] = {}
    words: dict[str, str] = {}
    with open_scratch(home, **changes) as (settings, database), path.open("a", encoding="utf-8") as file:
        for turn in range(1_000_000):
            began = time.time()
            names = (f"new-{turn}", f"edited-{turn % EDITED_NOTES}")
            edits = [make_edit(name, turn, texts[(2 * turn + n) % len(texts)], words) for n, name in enumerate(names)]
            for edit in edits:
                words[edit.document] = edit.word
                rows[edit.document] = {"id": edit.document, "title": "", "text": edit.text, "metadata": NOTE}
            ingest_file(database, settings, write_rows(home / "notes" / NOTES, list(rows.values())), source="notes")
            # what an ingestion run does next (asset index_deltas): one that is still building catches up by itself
            with database.connection() as connection:
                current = list_generations(connection, ["ready", "serving", "soaking"])
            for generation in current:
                refresh_generation(database, settings, generation)
            for edit in edits:
                file.write(json.dumps({**asdict(edit), "written": began, "done": time.time()}) + "\n")
            file.flush()
            if stop.wait(max(0.0, began + EDIT_SECONDS - time.time())):
                return


def make_edit(document: str, turn: int, text: str, words: dict[str, str]) -> Edit:
    """The next text of a note: a passage of the corpus with a word of its own, and about something else each time."""
    word = f"zq{document.replace('-', '')}x{turn}"
    return Edit(document, word, f"{text} Noted as {word}.", words.get(document, ""), 0.0, 0.0)


@contextmanager
def run_beside(work: Callable[..., None], path: Path, *arguments: Any) -> Iterator[Callable[[], None]]:
    """`work(stop, path, *arguments)` in a process of its own until the block ends.

    Yields a function that raises RuntimeError if the process has died.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=work, args=(stop, path, *arguments), daemon=True)
    process.start()

    def check() -> None:
        if not process.is_alive():
            raise RuntimeError(f"{work.__name__} died with exit code {process.exitcode}; its error is above")

    try:
        yield check
    finally:
        stop.set()
        process.join(2 * TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()


def read_answers(path: Path) -> list[Answer]:
    """All recorded answers in the order in which they were due."""
    rows = [{**row, "hits": [tuple(hit) for hit in row["hits"]]} for row in read_lines(path)]
    return sorted((Answer(**row) for row in rows), key=lambda answer: answer.due)


def read_edits(path: Path) -> list[Edit]:
    """All recorded edits, oldest first."""
    return [Edit(**row) for row in read_lines(path)] if path.exists() else []
