"""The two legs of a search before they are fused: the words of a query, and the scores one leg lacks of the other."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import psycopg

from rag_pipeline.index import lexical_store
from rag_pipeline.index.lexical import WeightedTerm, choose_terms, score_terms
from rag_pipeline.index.store import Generation
from rag_pipeline.serving import search_store


def read_fusion_weight(generation: Generation) -> float:
    """The weight learned for a generation, or its recipe's before it was evaluated."""
    return float(generation.metrics.get("fusion_weight", generation.recipe["fusion_weight"]))


def read_ef_search(generation: Generation, least: int) -> int:
    """The HNSW candidate list that held the recall target when it was last measured, and never under `least`."""
    return max(least, int(generation.metrics.get("ef_search", least)))


def read_similarity_floor(generation: Generation) -> float | None:
    """The cosine below which a hit is usually unrelated, as an evaluation fitted it; None before it did."""
    floor = generation.metrics.get("similarity_floor")
    return None if floor is None else float(floor)


@dataclass(frozen=True)
class QueryTerms:
    """The terms of a query to read, and what else BM25 needs. `names` are the terms by id."""

    terms: list[WeightedTerm]
    names: Mapping[int, str]
    average_length: float


def read_query_terms(connection: psycopg.Connection, generation: Generation, counts: Counter[str]) -> QueryTerms:
    """Look the query's terms up in the generation's lexical index and choose which to read."""
    statistics = lexical_store.read_lexical_statistics(connection, generation.chunker_id) if counts else None
    if statistics is None:
        return QueryTerms([], {}, 1.0)
    known = lexical_store.read_terms(connection, generation.chunker_id, list(counts))
    terms = choose_terms(counts, [(t.term, t.id, t.chunk_count) for t in known], statistics.chunk_count)
    return QueryTerms(terms, {t.id: t.term for t in known}, statistics.average_length)


def score_text(query_terms: QueryTerms, counts: Counter[str]) -> float:
    """The BM25 score of a text that is not in the index."""
    frequencies = [(term.weight, counts[query_terms.names[term.term_id]]) for term in query_terms.terms]
    return score_terms(frequencies, counts.total(), query_terms.average_length)


def complete_legs(
    connection: psycopg.Connection,
    generation: Generation,
    vector: np.ndarray,
    near: Mapping[int, float],
    words: Mapping[int, float],
    query_terms: QueryTerms,
) -> tuple[dict[int, float], dict[int, float]]:
    """Give each chunk that one leg returned its score in the other leg too: fusion compares scores, and a chunk
    just below a leg's cut is not worth 0 there. A chunk without any of the query's words stays out of BM25."""
    without_vector = [chunk for chunk in words if chunk not in near]
    without_words = [chunk for chunk in near if chunk not in words]
    vectors, scores = dict(near), dict(words)
    if without_vector:
        vectors |= search_store.search_vectors_exactly(
            connection, generation, vector, len(without_vector), without_vector
        )
    if without_words:
        scores |= search_store.search_words(
            connection,
            generation,
            query_terms.terms,
            query_terms.average_length,
            len(without_words),
            chunk_ids=without_words,
        )
    return vectors, scores
