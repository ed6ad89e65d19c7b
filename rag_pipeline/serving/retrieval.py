"""One search on one connection: both legs in scope, fused, and joined to the documents that hold the hits."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import psycopg

from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index.analysis import open_analyzer
from rag_pipeline.index.delta_store import read_unindexed_texts
from rag_pipeline.index.store import Generation, read_generation
from rag_pipeline.serving import search_store
from rag_pipeline.serving.fusion import Fused, fuse
from rag_pipeline.serving.hits import Hit, Mode
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

# Up to this many chunks in scope are compared one by one; more go through the index.
MOST_EXACT = 2_000
# What each leg hands to fusion, at least: deep enough that a chunk good in one leg is normalised fairly.
CANDIDATES = 100
SLACK = 1.5
# An iterative scan that starts narrow finds the limit and not the nearest: recall@10 at a tenth of 145 k chunks was
# .89 from 40, .97 from 200, .99 from 400.
FILTERED_EF_SEARCH = 400
TENANTS_KNOWN_SECONDS = 5.0


class OpenGeneration:
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


@dataclass(frozen=True)
class Narrow:
    """How a scope is applied: not at all, chunk by chunk, inside the scans, or over the ledger for another time."""

    how: Literal["none", "few", "many", "ledger"]
    chunk_ids: list[int] = field(default_factory=list)


def narrow_to_scope(connection: psycopg.Connection, generation: Generation, scope: Scope) -> Narrow:
    """Few chunks in scope are compared one by one, many are found by scans that pass over the others."""
    ids = search_store.list_scope_chunks(connection, generation, scope, MOST_EXACT)
    return Narrow("few", ids) if len(ids) <= MOST_EXACT else Narrow("many")


def search_narrowed(
    connection: psycopg.Connection,
    generation: Generation,
    vector: np.ndarray,
    width: int,
    scope: Scope,
    narrow: Narrow,
    ef_search: int,
) -> dict[int, float]:
    """The vector leg: cosine by chunk id of the nearest `width` chunks in scope. vector: (dimension,)."""
    if narrow.how == "ledger":
        return search_store.search_ledger(connection, generation, vector, width, scope)
    if narrow.how == "few":
        return search_store.search_vectors_exactly(connection, generation, vector, width, narrow.chunk_ids)
    many = narrow.how == "many"
    search_width = min(1000, max(FILTERED_EF_SEARCH if many else 0, ef_search, int(width * SLACK)))
    search_store.set_search_width(connection, search_width, iterative=many or width > search_width)
    if many:
        return search_store.search_vectors_filtered(connection, generation, vector, width, scope)
    return search_store.search_vectors(connection, generation, vector, width)


class Retrieval:
    """One search on one connection."""

    def __init__(
        self, connection: psycopg.Connection, opened: OpenGeneration, scope: Scope, k: int, floor: float | None
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

    def _narrow(self) -> Narrow:
        """How the scope is applied: not at all, chunk by chunk, or inside the scans."""
        if self.scope.as_of is not None:
            return Narrow("ledger")
        if not self.scope.where and self.opened.has_only_tenant(self.connection, self.scope.tenant):
            return Narrow("none")
        return self._narrow_to_scope()

    def _narrow_to_scope(self) -> Narrow:
        return narrow_to_scope(self.connection, self.generation, self.scope)

    def _vectors(self, vector: np.ndarray, width: int, narrow: Narrow) -> dict[int, float]:
        return search_narrowed(
            self.connection, self.generation, vector, width, self.scope, narrow, self.opened.ef_search
        )

    def _terms(self, query: str) -> QueryTerms:
        if self._query_terms is None:
            self._query_terms = read_query_terms(
                self.connection, self.generation, self.opened.analyzer.count_terms(query)
            )
        return self._query_terms

    def _words(self, query: str, width: int, narrow: Narrow) -> dict[int, float]:
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
