"""Writing the query log: in batches beside the searches of a process that serves, or once from the command line.

The log never makes a search fail or wait: what cannot be written is dropped, counted and told.
"""

import contextlib
import logging
import queue
import random
import threading

import psycopg

from rag_pipeline.database.engine import Database
from rag_pipeline.serving import store
from rag_pipeline.serving.query_log import LoggedQuery, describe_search, is_sampled
from rag_pipeline.serving.search import SearchResult

LOG = logging.getLogger(__name__)
MOST_WAITING = 1_000
MOST_WRITTEN = 200
# A batch is what came in while one waited so long after its first.
BATCH_SECONDS = 0.5


class QueryWriter:
    """Keeps a share of the searches of this process; at share 0 nothing is started and nothing kept.

    `written` and `dropped` count.
    """

    def __init__(self, database: Database, share: float) -> None:
        self.database, self.share = database, share
        self.written = self.dropped = 0
        self._waiting: queue.Queue[LoggedQuery | None] = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="query-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        if self.share > 0:
            self._thread.start()

    def offer(self, result: SearchResult, *, tenant: str, k: int, where: dict[str, str] | None) -> None:
        """Take a search into the sample or not; returns at once."""
        if not is_sampled(self.share, random.random()):
            return
        try:
            self._waiting.put_nowait(describe_search(result, tenant=tenant, k=k, where=where))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and stop."""
        self._closing.set()
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # then it is awake
                self._waiting.put_nowait(None)
            self._thread.join()

    def _write_until_closed(self) -> None:
        told = 0
        while not (self._closing.is_set() and self._waiting.empty()):
            first = self._waiting.get()
            self._closing.wait(BATCH_SECONDS)
            batch = [first, *self._take_waiting()]
            self._write([entry for entry in batch if entry is not None])
            if self.dropped > told:
                LOG.warning("%d searches were not logged: they came faster than they are written", self.dropped - told)
                told = self.dropped

    def _take_waiting(self) -> list[LoggedQuery | None]:
        taken: list[LoggedQuery | None] = []
        while len(taken) < MOST_WRITTEN:
            try:
                taken.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return taken

    def _write(self, entries: list[LoggedQuery]) -> None:
        if not entries:
            return
        try:
            with self.database.transaction() as connection:
                store.insert_logged_queries(connection, entries)
            self.written += len(entries)
        except Exception as error:  # the database is away, or the pool is empty: searches matter more than their log
            self.dropped += len(entries)
            LOG.warning("The query log cannot be written: %s", error)


def log_search(
    database: Database, share: float, result: SearchResult, *, tenant: str, k: int, where: dict[str, str] | None
) -> None:
    """Keep a single search if the sample says so: one insert. A role that may only read is told so and goes on."""
    if not is_sampled(share, random.random()):
        return
    try:
        with database.connection() as connection:
            store.insert_logged_queries(connection, [describe_search(result, tenant=tenant, k=k, where=where)])
    except psycopg.Error as error:
        LOG.warning("The query log cannot be written: %s", error)


def forget_old_queries(database: Database, days: float) -> int:
    """Delete what was asked more than `days` ago; returns how many rows. For a daily job."""
    with database.connection() as connection:
        return store.forget_old_queries(connection, days)
