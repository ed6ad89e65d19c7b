"""Search: query -> vector leg and BM25 leg -> fusion -> hits in the documents the generation serves."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import psycopg

from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelError
from rag_pipeline.embeddings.registry import forget_model
from rag_pipeline.embeddings.store import ModelRecord, read_model_by_id
from rag_pipeline.index.analysis import open_analyzer
from rag_pipeline.index.delta_store import read_unindexed_texts
from rag_pipeline.index.store import ACTIVE_STATES, Generation, list_generations, read_generation
from rag_pipeline.serving import search_store
from rag_pipeline.serving.fusion import Fused, fuse
from rag_pipeline.serving.legs import (
    QueryTerms,
    complete_legs,
    read_ef_search,
    read_fusion_weight,
    read_query_terms,
    read_similarity_floor,
    score_text,
)
from rag_pipeline.serving.query_model import QueryModel
from rag_pipeline.serving.scope import Scope
from rag_pipeline.serving.search_store import FoundHit

Mode = Literal["hybrid", "vector", "lexical"]

# Up to this many chunks in scope are compared one by one; more go through the index.
MOST_EXACT = 2_000
# What each leg hands to fusion, at least: deep enough that a chunk good in one leg is normalised fairly.
CANDIDATES = 100
SLACK = 1.5
# An iterative scan that starts narrow finds the limit and not the nearest: recall@10 at a tenth of 145 k chunks was
# .89 from 40, .97 from 200, .99 from 400.
FILTERED_EF_SEARCH = 400
MOST_ATTEMPTS = 20
TENANTS_KNOWN_SECONDS = 5.0


class NothingServesError(Exception):
    """No generation serves yet; the message says what to do."""


class _MovedError(Exception):
    """The generation that served when a search began does so no more."""


@dataclass(frozen=True)
class Hit:
    """One result. Offsets are in characters of the version's text; scores are cosine and BM25."""

    rank: int
    score: float
    document_id: str
    uri: str
    title: str
    version: int
    chunk_id: int
    text: str
    start: int
    end: int
    heading_path: list[str]
    metadata: dict[str, Any]
    generation: int
    scores: dict[str, float | None]


@dataclass(frozen=True)
class SearchResult:
    """Hits with where they came from; `milliseconds` has embed, and retrieve for the rest.

    `model` is the generation's; `embedded_by` the one that embedded this query, None where words alone answered or
    the caller brought the vector. `degraded` says why words alone answered what asked for vectors too.
    """

    query: str
    mode: Mode
    generation: int
    model: str
    hits: list[Hit]
    milliseconds: dict[str, float] = field(default_factory=dict)
    embedded_by: str | None = None
    degraded: str | None = None


@dataclass(frozen=True)
class _Embedded:
    """A query's vector (dimension,), or None and perhaps why; `by` names the model that made it."""

    vector: np.ndarray | None = None
    by: str | None = None
    failure: str | None = None


class Searcher:
    """Answers searches from the generation that serves, or from a given one. Safe to share between threads.

    What belongs to a generation (its model, its statistics) is kept and dropped with it; every search checks
    the pointer, so that a cutover shows in the very next one.
    """

    def __init__(self, database: Database, *, ef_search: int = 40) -> None:
        self.database, self.ef_search = database, ef_search
        self._opened: dict[int, _Opened] = {}
        self._pointer: int | None = None

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        tenant: str = "default",
        where: Mapping[str, str] | None = None,
        as_of: datetime | None = None,
        generation: int | None = None,
        vector: np.ndarray | None = None,
        relevant_only: bool = False,
    ) -> SearchResult:
        """The best k hits. `vector` (dimension,) saves embedding the query where the caller has it.

        `relevant_only` leaves out hits whose cosine is below the generation's similarity floor, where one was fitted;
        hits by words without a cosine stay. Index, hits and model are always those of `generation` in the result,
        which served when the search ended. Where its model cannot be used now, a hybrid search answers by words alone
        and says so in `degraded`; a vector search raises `ModelError`.
        Raises `NothingServesError` before the first generation serves, `LookupError` for an unknown one.
        """
        scope = Scope(tenant, dict(where or {}), as_of)
        for _attempt in range(MOST_ATTEMPTS):
            try:
                opened = self._open_generation(generation)
                began = time.perf_counter()
                embedded = _embed(opened.model, mode, query, vector)
                embed_ms = (time.perf_counter() - began) * 1000
                began = time.perf_counter()
                hits = self._search(opened, scope, k, mode, query, embedded.vector, relevant_only, generation)
            except _MovedError:
                self._pointer = None
                continue
            return SearchResult(
                query,
                mode,
                opened.generation.id,
                opened.generation.model,
                hits,
                {"embed": embed_ms, "retrieve": (time.perf_counter() - began) * 1000},
                embedded.by,
                embedded.failure,
            )
        raise NothingServesError(f"The serving pointer moved {MOST_ATTEMPTS} times during one search; try again")

    def _search(
        self,
        opened: "_Opened",
        scope: Scope,
        k: int,
        mode: Mode,
        query: str,
        vector: np.ndarray | None,
        relevant_only: bool,
        wanted: int | None,
    ) -> list[Hit]:
        """Hits of one generation. Raises `_MovedError` where it is not (or no more) the one to search.

        A generation that serves is never retired, and one that was retired never serves again: if it serves at the
        end, everything in between was whole. Where the caller wants a certain one, its state says so.
        """
        number = opened.generation.id
        try:
            with self.database.connection() as connection:
                search = _Search(connection, opened, scope, k, opened.similarity_floor if relevant_only else None)
                pointer, hits = search.run(mode, query, vector)
                whole = pointer == number if wanted is None else search_store.can_be_searched(connection, number)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InternalError_):
            if self._is_active(number):
                raise
            whole = False  # retired and dropped between two statements, or while one was planned
        if not whole:
            raise _MovedError
        return hits

    def _is_active(self, number: int) -> bool:
        with self.database.connection() as connection:
            return search_store.can_be_searched(connection, number)

    def embed_queries(self, queries: Sequence[str], generation: int | None = None) -> np.ndarray:
        """(n, dimension) float32 by the model of the generation that serves, or of the given one."""
        return self._open_generation(generation).model.embed(list(queries))

    def make_ready(self, generation: int) -> None:
        """Open a generation, and load and check its model, before a search needs it.

        Called again, it checks what is due and tries again what failed. Raises `ModelError`, `LookupError`.
        """
        self._open_generation(generation).model.check()

    def keep_only(self, generations: Collection[int]) -> None:
        """Let go of all other generations, and of the models that only they use."""
        for number in list(self._opened):
            if number in generations or (dropped := self._opened.pop(number, None)) is None:
                continue
            spec = dropped.model.record.spec
            if all(opened.model.record.spec != spec for opened in list(self._opened.values())):
                forget_model(spec)

    def _open_generation(self, generation: int | None) -> "_Opened":
        if generation is None and (opened := self._opened.get(self._pointer or 0)) is not None:
            return opened
        with self.database.connection() as connection:
            if generation is not None:
                return self._open(connection, generation)
            number = search_store.read_pointer(connection)
            if number is None:
                raise NothingServesError(
                    "Nothing serves yet: no generation was promoted. Run `rag ingest PATH` first, or see `rag status`."
                )
            self.keep_only({g.id for g in list_generations(connection, ACTIVE_STATES)})
            try:
                opened = self._open(connection, number)
            except LookupError:  # replaced and retired since the line before
                raise _MovedError from None
        self._pointer = number
        return opened

    def _open(self, connection: psycopg.Connection, number: int) -> "_Opened":
        generation = read_generation(connection, number)
        if generation is None or generation.state in ("retired", "failed"):
            self.keep_only({kept for kept in list(self._opened) if kept != number})
            raise LookupError(f"Generation {number} cannot be searched: see `rag status` for those that can")
        if (opened := self._opened.get(number)) is None:
            record = read_model_by_id(connection, generation.model_id)
            opened = self._opened.setdefault(number, _Opened(generation, record, self.ef_search))
        return opened


def _embed(model: QueryModel, mode: Mode, query: str, vector: np.ndarray | None) -> _Embedded:
    if mode == "lexical":
        return _Embedded()
    by = None
    if vector is None:
        try:
            vector = model.embed([query])[0]
        except ModelError as error:
            if mode == "vector":
                raise
            return _Embedded(failure=f"words alone answered: {error}")
        by = model.record.slug
    # no word the model knows: it has no direction, and nothing is near it
    return _Embedded(vector, by) if np.any(vector) else _Embedded()


class _Opened:
    """A generation in use, with its model (loaded at the first query that needs it)."""

    def __init__(self, generation: Generation, record: ModelRecord, least_ef_search: int) -> None:
        self.generation, self._least_ef_search = generation, least_ef_search
        self.model = QueryModel(record)
        self.analyzer = open_analyzer(generation.stemmer)
        self._only_tenant: str | None = None
        self._looked_at = float("-inf")
        self._take_fitted(generation)

    def _take_fitted(self, generation: Generation) -> None:
        """What an evaluation or the recall watch fits, again and again, for a generation that serves."""
        self.fusion_weight = read_fusion_weight(generation)
        self.ef_search = read_ef_search(generation, self._least_ef_search)
        self.similarity_floor = read_similarity_floor(generation)

    def has_only_tenant(self, connection: psycopg.Connection, tenant: str) -> bool:
        """Whether the table held rows of this tenant only, some seconds ago. An old answer costs depth, never
        privacy: hits are joined to the tenant's documents in any case."""
        if time.monotonic() - self._looked_at > TENANTS_KNOWN_SECONDS:
            first, last = search_store.list_tenant_bounds(connection, self.generation)
            if (current := read_generation(connection, self.generation.id)) is not None:
                self._take_fitted(current)
            self._only_tenant = first if first == last else None
            self._looked_at = time.monotonic()
        return self._only_tenant == tenant


class _Search:
    """One search on one connection."""

    def __init__(
        self, connection: psycopg.Connection, opened: _Opened, scope: Scope, k: int, floor: float | None
    ) -> None:
        self.connection, self.opened, self.generation = connection, opened, opened.generation
        self.floor = floor
        self.scope, self.k, self.ef_search = scope, k, opened.ef_search
        self._query_terms: QueryTerms | None = None

    def run(self, mode: Mode, query: str, vector: np.ndarray | None) -> tuple[int | None, list[Hit]]:
        """(the generation that serves at the end of the search, hits)."""
        narrow = self._narrow()
        width = self.k if mode != "hybrid" else max(CANDIDATES, self.k)
        if mode == "vector" and vector is not None and narrow.how == "none":
            pointer, found = self._run_short(vector, width)
            if len(found) >= self.k:
                return pointer, self._hits([hit for hit in found if self._is_relevant(hit.vector)])
        while True:
            near = self._vectors(vector, width, narrow) if vector is not None else {}
            words = self._words(query, width, narrow) if mode != "vector" else {}
            # deleted documents leave the index a moment later: look deeper rather than return less
            full = len(near) >= width or len(words) >= width
            if self.floor is not None:  # what lies deeper is farther away still
                full = len(near) >= width and min(near.values()) >= self.floor
            if mode == "hybrid" and vector is not None and narrow.how != "ledger":
                near, words = complete_legs(self.connection, self.generation, vector, near, words, self._terms(query))
            fused = fuse(near, words, self.opened.fusion_weight)
            found = self._find(mode, [one for one in fused if self._is_relevant(one.vector)])
            if len(found) >= self.k or not full or width > 100 * self.k + 1000:
                return search_store.read_pointer(self.connection), self._hits(found)
            width *= 4
            if narrow.how == "none":  # and pass over what is out of scope inside the scans
                narrow = self._narrow_to_scope()

    def _is_relevant(self, cosine: float | None) -> bool:
        return self.floor is None or cosine is None or cosine >= self.floor

    def _run_short(self, vector: np.ndarray, width: int) -> tuple[int | None, list[FoundHit]]:
        """The common case in one round trip."""
        ef_search = min(1000, max(self.ef_search, width))
        search_store.set_search_width(self.connection, ef_search, iterative=False)
        return search_store.find_nearest_hits(
            self.connection, self.generation, self.scope.tenant, vector, width, self.k
        )

    def _narrow(self) -> "_Narrow":
        """How the scope is applied: not at all, chunk by chunk, or inside the scans."""
        if self.scope.as_of is not None:
            return _Narrow("ledger")
        if not self.scope.where and self.opened.has_only_tenant(self.connection, self.scope.tenant):
            return _Narrow("none")
        return self._narrow_to_scope()

    def _narrow_to_scope(self) -> "_Narrow":
        ids = search_store.list_scope_chunks(self.connection, self.generation, self.scope, MOST_EXACT)
        return _Narrow("few", ids) if len(ids) <= MOST_EXACT else _Narrow("many")

    def _vectors(self, vector: np.ndarray, width: int, narrow: "_Narrow") -> dict[int, float]:
        if narrow.how == "ledger":
            return search_store.search_ledger(self.connection, self.generation, vector, width, self.scope)
        if narrow.how == "few":
            return search_store.search_vectors_exactly(
                self.connection, self.generation, vector, width, narrow.chunk_ids
            )
        many = narrow.how == "many"
        search_width = min(1000, max(FILTERED_EF_SEARCH if many else self.ef_search, int(width * SLACK)))
        search_store.set_search_width(self.connection, search_width, iterative=many or width > search_width)
        if many:
            return search_store.search_vectors_filtered(self.connection, self.generation, vector, width, self.scope)
        return search_store.search_vectors(self.connection, self.generation, vector, width)

    def _terms(self, query: str) -> "QueryTerms":
        if self._query_terms is None:
            self._query_terms = read_query_terms(
                self.connection, self.generation, self.opened.analyzer.count_terms(query)
            )
        return self._query_terms

    def _words(self, query: str, width: int, narrow: "_Narrow") -> dict[int, float]:
        ids = narrow.chunk_ids if narrow.how == "few" else None
        if narrow.how == "ledger":
            ids = search_store.list_scope_chunks(self.connection, self.generation, self.scope, None)
        query_terms = self._terms(query)
        scores = search_store.search_words(
            self.connection,
            self.generation,
            query_terms.terms,
            query_terms.average_length,
            width,
            chunk_ids=ids,
            scope=self.scope if narrow.how == "many" else None,
        )
        if narrow.how == "ledger" and ids:
            scores = self._add_unindexed(scores, ids, query_terms, width)
        return scores

    def _add_unindexed(
        self, scores: dict[int, float], chunk_ids: Sequence[int], query_terms: QueryTerms, width: int
    ) -> dict[int, float]:
        """Chunks that were served at another time and are not now are scored from their texts."""
        scores = dict(scores)
        for chunk in read_unindexed_texts(self.connection, self.generation, chunk_ids):
            text = embedded_text(chunk.title, chunk.heading_path, chunk.text)
            if score := score_text(query_terms, self.opened.analyzer.count_terms(text)):
                scores[chunk.id] = score
        return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:width])

    def _find(self, mode: Mode, fused: list[Fused]) -> list[FoundHit]:
        def score(item: Fused) -> float:
            raw = item.score if mode == "hybrid" else item.vector if mode == "vector" else item.lexical
            return raw or 0.0

        scores = {item.chunk_id: (score(item), item.vector, item.lexical) for item in fused}
        if len(scores) > 2 * self.k:
            best = dict(list(scores.items())[: 2 * self.k])
            found = search_store.find_hits(self.connection, self.generation, self.scope, best, self.k)
            if len(found) >= self.k:
                return found
        return search_store.find_hits(self.connection, self.generation, self.scope, scores, self.k)

    def _hits(self, found: list[FoundHit]) -> list[Hit]:
        return [self._hit(rank, hit) for rank, hit in enumerate(found, start=1)]

    def _hit(self, rank: int, hit: FoundHit) -> Hit:
        return Hit(
            rank,
            hit.score,
            hit.document_id,
            hit.uri,
            hit.title,
            hit.version,
            hit.chunk_id,
            hit.text,
            hit.start,
            hit.end,
            hit.heading_path,
            hit.metadata,
            self.generation.id,
            {"vector": hit.vector, "lexical": hit.lexical},
        )


@dataclass(frozen=True)
class _Narrow:
    how: Literal["none", "few", "many", "ledger"]
    chunk_ids: list[int] = field(default_factory=list)
