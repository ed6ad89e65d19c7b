"""The recall watch: HNSW against exact search on a sample of queries, and the ef_search that holds the target."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import psycopg

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.aside import rest_after
from rag_pipeline.embeddings.models import ModelError
from rag_pipeline.embeddings.registry import open_checked_model
from rag_pipeline.embeddings.store import read_model_by_id
from rag_pipeline.errors import MissingError
from rag_pipeline.index.store import Generation, list_generations, merge_metrics
from rag_pipeline.progress import track
from rag_pipeline.serving import recall_store, retrieval, search_store
from rag_pipeline.serving.known_items import pick_sentences
from rag_pipeline.serving.legs import read_ef_search
from rag_pipeline.serving.recall import (
    FEWEST_QUERIES,
    FURTHEST_SHARE,
    SHARES,
    K,
    RecallFigure,
    Scope,
    WidthChoice,
    choose_filters,
    choose_tenants,
    choose_width,
    is_enough,
    list_widths,
    score_recall,
    summarise_recall,
)
from rag_pipeline.serving.scope import Scope as SearchScope
from rag_pipeline.settings import Settings

WATCHED = ("serving", "ready")
QUERIES = 100
# Exact search in a tenth of a large table costs more than through the graph: fewer queries are enough there.
SCOPED_QUERIES = 50

Leg = Callable[[np.ndarray], dict[int, float]]


@dataclass(frozen=True)
class Watched:
    """What the watch found of one generation: the choice made of the unfiltered queries, and every figure at the
    ef_search chosen. `failure`: why nothing could be measured."""

    generation: Generation
    before: int
    choice: WidthChoice | None = None
    figures: list[RecallFigure] = field(default_factory=list)
    tried: list[RecallFigure] = field(default_factory=list)
    asked: str = ""
    seconds: float = 0.0
    failure: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it was measured, and the target holds."""
        return self.choice is not None and self.choice.holds

    def describe(self) -> str:
        """One line for a log: the ef_search, what it was, and why."""
        name = f"generation {self.generation.id} ({self.generation.model}, {self.generation.state})"
        if self.choice is None:
            return f"{name}: recall was not measured: {self.failure}"
        was = "" if self.before == self.choice.ef_search else f", was {self.before}"
        return f"{name}: ef_search {self.choice.ef_search}{was}; {self.choice.reason}"


def watch_recall(database: Database, settings: Settings, generation: int | None = None) -> list[Watched]:
    """Measure every generation that serves or is ready (or the one of that number), set its ef_search and record it.

    A generation whose model cannot be opened has a `failure` and costs the others nothing. Raises MissingError for
    a number that neither serves nor is ready.
    """
    with database.connection() as connection:
        found = list_generations(connection, WATCHED)
    chosen = [g for g in found if generation in (None, g.id)]
    if generation is not None and not chosen:
        raise MissingError(f"Generation {generation} neither serves nor is ready: see `rag status`")
    return [_watch(database, settings, one) for one in chosen]


def _watch(database: Database, settings: Settings, generation: Generation) -> Watched:
    began = time.monotonic()
    before = read_ef_search(generation, settings.ef_search)
    with database.connection() as connection:
        queries, asked = _sample_queries(connection, generation)
        record = read_model_by_id(connection, generation.model_id)
    try:
        vectors = open_checked_model(record).embed_queries(queries) if queries else np.zeros((0, generation.dimension))
    except ModelError as error:
        return Watched(generation, before, failure=f"{generation.model} cannot embed queries: {error}")
    choice, tried = fit_ef_search(database, settings, generation, vectors, resting=True)
    scoped = measure_scopes(database, generation, vectors[:SCOPED_QUERIES], choice.ef_search)
    figures = [choice.figure, *scoped]
    with database.transaction() as connection:
        recall_store.insert_recall(connection, generation.id, figures)
    return Watched(generation, before, choice, figures, tried, asked, round(time.monotonic() - began, 1))


def _sample_queries(connection: psycopg.Connection, generation: Generation) -> tuple[list[str], str]:
    logged = recall_store.list_logged_queries(connection, QUERIES)
    if len(logged) >= QUERIES // 2:
        return logged, "logged queries"
    return [sentence for _, sentence in pick_sentences(connection, generation, QUERIES)], "sentences of the corpus"


def measure_recall(
    database: Database,
    settings: Settings,
    generation: Generation,
    vectors: np.ndarray,
    *,
    ef_search: int | None = None,
) -> RecallFigure:
    """recall@10 of a generation's unfiltered vector search against exact search over the same rows.

    vectors: (n, dimension) queries; those without direction are left out. ef_search: default, the generation's.
    """
    width = ef_search or read_ef_search(generation, settings.ef_search)
    with database.connection() as connection:
        return _Sample(connection, generation, vectors).measure(width)


def fit_ef_search(
    database: Database, settings: Settings, generation: Generation, vectors: np.ndarray, *, resting: bool = False
) -> tuple[WidthChoice, list[RecallFigure]]:
    """Climb the ladder until settings.recall_target holds, and keep the ef_search found with the generation.

    Searchers read it from the generation's metrics within seconds. Returns the choice and what was tried.
    vectors: (n, dimension) queries. `resting`: give way to others who search.
    """
    tried: list[RecallFigure] = []
    with database.connection() as connection:
        sample = _Sample(connection, generation, vectors, resting)
        for width in list_widths(settings.ef_search):
            tried.append(sample.measure(width))
            if is_enough(tried[-1], settings.recall_target):
                break
    choice = choose_width(tried, settings.recall_target)
    found = {
        **choice.figure.to_json(),
        "target": settings.recall_target,
        "holds": choice.holds,
        "lost": choice.lost,
        "reason": choice.reason,
        "ladder": {str(f.ef_search): round(f.recall_at_10, 4) for f in tried},
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    with database.transaction() as connection:
        merge_metrics(connection, generation.id, {"ef_search": choice.ef_search, "recall": found})
    return choice, tried


class _Sample:
    """Queries with their exact results over the whole table, computed once for every width."""

    def __init__(
        self, connection: psycopg.Connection, generation: Generation, vectors: np.ndarray, resting: bool = False
    ) -> None:
        self.connection, self.generation = connection, generation
        self.queries = _drop_directionless(vectors)
        with track(f"exact search in generation {generation.id}", len(self.queries), "queries") as advance:
            self.exact = []
            for query in self.queries:
                with rest_after(resting):
                    self.exact.append(recall_store.search_whole_table(connection, generation, query, K))
                advance(1)

    def measure(self, width: int) -> RecallFigure:
        search_store.set_search_width(self.connection, width, iterative=False)

        def leg(query: np.ndarray) -> dict[int, float]:
            return search_store.search_vectors(self.connection, self.generation, query, K)

        return _compare("all", "", width, self.queries, self.exact, leg)


def measure_scopes(
    database: Database, generation: Generation, vectors: np.ndarray, ef_search: int
) -> list[RecallFigure]:
    """recall@10 of filtered searches (metadata values that about a tenth and a hundredth of the documents have) and
    of the smallest tenants, each by the path a search takes, against exact search in scope. None of a kind: none."""
    with database.connection() as connection:
        shares = recall_store.list_filter_shares(connection, generation, min(SHARES) / FURTHEST_SHARE)
        tenants = choose_tenants(recall_store.list_tenant_sizes(connection, generation))
        asked: list[tuple[Scope, str, SearchScope]] = [
            ("filtered", f"{f.tenant}: {f.key}={f.value}", SearchScope(f.tenant, {f.key: f.value}))
            for f in choose_filters(shares)
        ]
        asked += [("tenant", tenant, SearchScope(tenant)) for tenant in tenants]
        return [_measure_scope(connection, generation, vectors, ef_search, *one) for one in asked]


def _measure_scope(
    connection: psycopg.Connection,
    generation: Generation,
    vectors: np.ndarray,
    ef_search: int,
    kind: Scope,
    subject: str,
    scope: SearchScope,
) -> RecallFigure:
    queries = _drop_directionless(vectors)
    chunks = search_store.list_scope_chunks(connection, generation, scope, None)
    exact = [search_store.search_vectors_exactly(connection, generation, query, K, chunks) for query in queries]
    width = max(retrieval.FILTERED_EF_SEARCH, ef_search) if len(chunks) > retrieval.MOST_EXACT else ef_search

    def leg(query: np.ndarray) -> dict[int, float]:
        narrow = retrieval.narrow_to_scope(connection, generation, scope)
        return retrieval.search_narrowed(connection, generation, query, K, scope, narrow, ef_search)

    return _compare(kind, subject, width, queries, exact, leg)


def _compare(
    scope: Scope,
    subject: str,
    width: int,
    queries: Sequence[np.ndarray],
    exact: Sequence[dict[int, float]],
    leg: Leg,
) -> RecallFigure:
    for query in queries[:FEWEST_QUERIES]:
        leg(query)  # the pages of the graph come into the caches, as they are where it serves
    recalls, milliseconds = [], []
    for query, nearest in zip(queries, exact, strict=True):
        began = time.perf_counter()
        found = leg(query)
        milliseconds.append((time.perf_counter() - began) * 1000)
        if nearest:
            recalls.append(score_recall(list(found.values()), list(nearest.values())))
    return summarise_recall(scope, subject, width, recalls, milliseconds)


def _drop_directionless(vectors: np.ndarray) -> list[np.ndarray]:
    """A query of words the model does not know has no neighbours to find."""
    return [vector for vector in vectors if np.any(vector)]
