"""A process that searches all along and looks at every moment whether what must always hold does hold."""

import json
import os
import random
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

from rag_pipeline.database.engine import Database, driver_url, open_database
from rag_pipeline.index.reconciliation import Discrepancies, find_discrepancies
from rag_pipeline.index.store import Generation, list_generations, list_undropped, read_generation
from rag_pipeline.serving.search import NothingServesError, Searcher, SearchResult
from rag_pipeline.serving.search_store import read_pointer
from rag_pipeline_tests.faults.corpus import make_anchors
from rag_pipeline_tests.faults.life import Place, is_away, redirect_output

# A query of an anchor's own words finds it among these many.
ANCHOR_DEPTH = 10
# Searches that may fail one after the other while the server is up: one for each dead connection in the pool.
MOST_FAILURES = 12
PAUSE_SECONDS = 0.05

# What must hold in every committed state: each statement finds what breaks it.
BROKEN = {
    "documents without their current version": """
        select 1 from rag.document d where deleted_at is null and current_version_id is null""",
    "deleted documents with an open version": """
        select 1 from rag.document d join rag.document_version v on v.document_id = d.id
        where d.deleted_at is not null and v.valid_to is null""",
    "documents with two open versions, or a current one that is closed": """
        select 1 from rag.document d join rag.document_version v on v.document_id = d.id
        where (v.valid_to is null) <> (v.id is not distinct from d.current_version_id)""",
    "versions with fewer chunks than recorded": """
        select 1 from rag.version_chunking n
        where n.chunk_count <> (select count(*) from rag.version_chunk c
                                where c.version_id = n.version_id and c.chunker_id = n.chunker_id)""",
    "chunks of no version": """
        select 1 from rag.chunk c where not exists (select from rag.version_chunk vc where vc.chunk_id = c.id)""",
    "the pointer and the states disagree": """
        select 1 from rag.generation g full join rag.serving s on s.generation_id = g.id
        where (g.state = 'serving') is distinct from (s.generation_id is not null)""",
    "the pointer and its history disagree": """
        select 1 from rag.serving s
        where (s.generation_id, s.previous_id) is distinct from
              (select (p.generation_id, p.previous_id) from rag.promotion p order by p.id desc limit 1)""",
    "what serves was never allowed": """
        select 1 from rag.promotion p left join rag.evaluation e on e.id = p.evaluation_id
        where p.action = 'promote' and not coalesce(e.allows and e.generation_id = p.generation_id, false)""",
    "what serves has no table, was not loaded or has no valid index": """
        select 1 from rag.serving s join rag.generation g on g.id = s.generation_id
        left join pg_class c on c.oid = to_regclass('rag.' || g.table_name || '_hnsw')
        left join pg_index i on i.indexrelid = c.oid
        where to_regclass('rag.' || g.table_name) is null or g.loaded_at is null
           or not coalesce(i.indisvalid and i.indisready, false)""",
    "two generations build": """
        select 1 from rag.generation where state = 'building' having count(*) > 1""",
}


class BreachError(Exception):
    """Something that must always hold does not."""


class Observer:
    """Looks again and again; counts its looks, and how often the server was away."""

    def __init__(self, place: Place, database: Database, counts: Counter[str]) -> None:
        self.database, self.counts = database, counts
        self.searcher = Searcher(database)
        self.anchors = make_anchors(place.seed)
        self.chosen = random.Random(place.seed)
        self.served = False

    def look(self) -> None:
        """One look: the committed state, every active generation whole, and a search. Raises `BreachError`."""
        with self.database.transaction() as connection:
            connection.execute("set transaction isolation level repeatable read")
            for what, statement in BROKEN.items():
                if connection.execute(statement).fetchall():  # type: ignore[call-overload]
                    raise BreachError(what)
        self.counts["committed states"] += 1
        with self.database.connection() as connection:
            generations = list_generations(connection, ("building", "ready", "soaking", "serving"))
        for generation in generations:
            self.look_at(generation)
        self.search()

    def look_at(self, generation: Generation) -> None:
        """Whether a generation is complete and true but for what is in its queue."""
        try:
            found = find_discrepancies(self.database, generation)
        except psycopg.errors.UndefinedTable:
            found = None  # retired between the list and the look
        with self.database.connection() as connection:
            now = read_generation(connection, generation.id)
            retiring = bool(list_undropped(connection))
        assert now is not None
        if now.state == "retired":
            return
        if found is None:
            raise BreachError(f"generation {now.id} is {now.state} and has no table")
        wrong = {name: value for name, value in vars(found).items() if value != getattr(Discrepancies(), name)}
        if generation.state == "building":
            wrong.pop("index_valid", None)  # that is what it is being built for
        if generation.loaded_at is None or "soaking" in (generation.state, now.state):
            # not loaded yet: empty; soaking: the life damages it on purpose, and mends it before it serves again
            for name in ("stale", "missing", "orphaned", "altered", "duplicate"):
                wrong.pop(name, None)
        if retiring:
            wrong.pop("words", None)  # of a generation that is gone: its retirement goes on with them
        if wrong:
            raise BreachError(f"generation {generation.id} ({generation.model}, {now.state}): {wrong}")
        self.counts[f"generations {generation.state}"] += 1

    def search(self) -> None:
        """Ask for an anchor: it is found, and every hit is what its document says, by the generation that serves."""
        uri, text = self.chosen.choice(sorted(self.anchors.items()))
        with self.database.connection() as connection:
            before = read_pointer(connection)
        try:
            result = self.searcher.search(text, k=ANCHOR_DEPTH)
        except NothingServesError:
            if self.served:
                raise
            return
        with self.database.connection() as connection:
            after = read_pointer(connection)
        self.served = True
        if before == after and result.generation != after:
            raise BreachError(f"generation {result.generation} answered while {after} served")
        if not any(hit.uri.endswith(uri) for hit in result.hits):
            raise BreachError(f"generation {result.generation} does not find {uri}: {[h.uri for h in result.hits]}")
        self._check_hits(result)
        self.counts["searches"] += 1

    def _check_hits(self, result: SearchResult) -> None:
        for hit in result.hits:
            with self.database.connection() as connection:
                texts = connection.execute(  # both sources have documents of that name
                    "select substr(v.text, %s, %s) from rag.document_version v"
                    " join rag.document d on d.id = v.document_id where d.uri = %s and v.ordinal = %s",
                    (hit.start + 1, hit.end - hit.start, hit.uri, hit.version),
                ).fetchall()
            if (hit.text,) not in texts or hit.generation != result.generation:
                raise BreachError(f"a hit is not what its document says: {hit}, {texts}")


def observe(place: Place, url: str | None, looks: Any) -> None:
    """The main function of the observing process: until the file `stop` is there, or something is broken.

    `looks` is a shared number of looks. Without a URL it is a user of the embedded server like any other, and
    keeps it up.
    """
    os.setsid()
    redirect_output(place.folder / "observer.log")
    counts: Counter[str] = Counter()
    code = 0
    try:
        _observe(place, url, counts, looks)
    except Exception as error:
        traceback.print_exc()
        (place.folder / "breach").write_text(f"{type(error).__name__}: {error}")
        code = 1
    (place.folder / "observed.json").write_text(json.dumps(counts))
    os._exit(code)


def _observe(place: Place, url: str | None, counts: Counter[str], looks: Any) -> None:
    observer: Observer | None = None
    failures = 0
    while not (place.folder / "stop").exists():
        try:
            if observer is None:
                database = open_database(place.settings(**{"database_url": url} if url else {}))
                observer, url = Observer(place, database, counts), driver_url(database.url)
            observer.look()
            looks.value += 1
            failures = 0
            time.sleep(PAUSE_SECONDS)
        except Exception as error:
            if not is_away(error):
                raise
            counts["looks cut short by a stop"] += 1
            failures = failures + 1 if url and is_up(url) else 0
            if failures > MOST_FAILURES:
                raise BreachError("the server is up again, and searches still fail") from error
            time.sleep(0.1)


def is_up(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def read_counts(folder: Path) -> Counter[str]:
    """What an observer has counted."""
    file = folder / "observed.json"
    return Counter(json.loads(file.read_text())) if file.exists() else Counter()
