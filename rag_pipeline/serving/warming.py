"""Getting generations ready before they serve: a serving process says what it has ready, a promotion waits for it."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelError
from rag_pipeline.index.store import list_generations
from rag_pipeline.serving import store
from rag_pipeline.serving.search import Searcher

LOG = logging.getLogger(__name__)
BEAT_SECONDS = 2.0
# Three beats missed: the process is dead, or as good as dead.
ALIVE_SECONDS = 6.0
# A row of a process that ended without a word is kept so long, so that someone may see it.
FORGOTTEN_SECONDS = 60.0
POLL_SECONDS = 0.1
WARMING_QUERIES = 50
READY_STATES = ("serving", "soaking", "ready")


class ServingProcess:
    """Tells promotions what this process has ready, and gets ready what may serve next.

    Two threads: one beats (a row in rag.serving_process), one works through the generations that are ready, soak or
    serve, so that a slow model delays no beat. Models of generations that are gone leave the memory.
    """

    def __init__(self, database: Database, searcher: Searcher) -> None:
        self.database, self.searcher = database, searcher
        self.id = f"{socket.gethostname()}:{os.getpid()}:{time.time():.3f}"
        self.warm: frozenset[int] = frozenset()
        self._told: dict[str, str] = {}
        self._closing, self._news = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, wake), name=name, daemon=True)
            for name, work, wake in (("heartbeat", self.beat, self._news), ("warming", self.warm_up, self._closing))
        ]

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop, and take the row back: nobody waits for this process any more."""
        self._closing.set()
        self._news.set()
        for thread in self._threads:
            thread.join(timeout=BEAT_SECONDS)  # a thread that waits for an endpoint ends with the process
        try:
            with self.database.connection() as connection:
                store.forget_process(connection, self.id)
        except Exception as error:  # the database is gone before us: the row will be forgotten as a dead process's
            LOG.warning("The row of this process stays in rag.serving_process: %s", error)

    def beat(self) -> None:
        """Say that this process lives and what it has ready."""
        with self.database.connection() as connection:
            store.record_heartbeat(connection, self.id, sorted(self.warm))
            store.forget_dead_processes(connection, FORGOTTEN_SECONDS)

    def warm_up(self) -> None:
        """Get every generation ready that serves or may serve next, and let go of the others."""
        with self.database.connection() as connection:
            numbers = [g.id for g in list_generations(connection, READY_STATES)]
        self.searcher.keep_only(numbers)
        self.warm &= frozenset(numbers)
        failures = []
        for number in numbers:
            try:
                self.searcher.make_ready(number)
                if number not in self.warm:
                    ask_around(self.database, self.searcher, number)
                    self.warm |= {number}
                    self._news.set()
            except (ModelError, LookupError) as error:  # LookupError: retired meanwhile
                failures.append(f"generation {number} is not ready in this process: {error}")
        self._tell("warming", "; ".join(failures))

    def _repeat(self, work: Callable[[], None], wake: threading.Event) -> None:
        while not self._closing.is_set():
            try:
                work()
            except Exception as error:  # the database is away: the next round will tell
                self._tell(work.__name__, str(error))
            wake.wait(BEAT_SECONDS)
            if wake is self._news:
                wake.clear()

    def _tell(self, what: str, problem: str) -> None:
        """Log what is wrong, once until it changes."""
        if problem and problem != self._told.get(what):
            LOG.warning("%s: %s", what, problem)
        self._told[what] = problem


def ask_around(database: Database, searcher: Searcher, generation: int, most: int = WARMING_QUERIES) -> None:
    """Run real searches in a generation, so that the pages they need are in the caches."""
    with database.connection() as connection:
        asked = store.list_warming_queries(connection, most)
    if not asked:
        return
    vectors = searcher.embed_queries([query for _, query in asked], generation)
    for (tenant, query), vector in zip(asked, vectors, strict=True):
        searcher.search(query, tenant=tenant, generation=generation, vector=vector)


def wait_until_warm(database: Database, generation: int, seconds: float) -> list[str]:
    """Wait up to `seconds` until every serving process alive has a generation ready; returns those that have not.

    Processes that were not seen for `ALIVE_SECONDS` count as dead and hold nobody up.
    """
    give_up = time.monotonic() + seconds
    while True:
        with database.connection() as connection:
            cold = store.list_cold_processes(connection, generation, ALIVE_SECONDS)
        if not cold or time.monotonic() >= give_up:
            return cold
        time.sleep(POLL_SECONDS)
