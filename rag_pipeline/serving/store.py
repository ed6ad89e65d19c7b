"""The SQL of the serving pointer, its evidence and its history."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from rag_pipeline.database.files import load_queries
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.comparing import FIGURES, SHOWN, ComparedQuery, Outcome

QUERIES = load_queries("serving")


@dataclass(frozen=True)
class Serving:
    """The pointer."""

    generation_id: int
    previous_id: int | None
    changed_at: datetime


@dataclass(frozen=True)
class Evaluation:
    """A verdict on a generation, against what served when it was made."""

    id: int
    generation_id: int
    baseline_id: int | None
    verdict: str
    allows: bool
    reason: str
    metrics: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Promotable:
    """The gate's conditions, as they stand in the transaction that would move the pointer."""

    state_allows: bool
    index_valid: bool
    evaluation_id: int | None
    verdict_allows: bool
    verdict: str | None
    reason: str | None


@dataclass(frozen=True)
class Promotion:
    """One move of the pointer."""

    id: int
    action: str
    generation_id: int
    previous_id: int | None
    evaluation_id: int | None
    forced: bool
    actor: str
    reason: str
    promoted_at: datetime


def read_serving(connection: psycopg.Connection) -> Serving | None:
    """The pointer, or None before the first promotion."""
    row = QUERIES.read_serving(connection)
    return Serving(*row) if row else None


def insert_evaluation(
    connection: psycopg.Connection,
    generation_id: int,
    baseline_id: int | None,
    verdict: str,
    allows: bool,
    reason: str,
    metrics: dict[str, Any],
) -> int:
    """Record a verdict; returns its number."""
    return int(
        QUERIES.insert_evaluation(
            connection,
            generation_id=generation_id,
            baseline_id=baseline_id,
            verdict=verdict,
            allows=allows,
            reason=reason,
            metrics=Jsonb(metrics),
        )
    )


def latest_evaluation(connection: psycopg.Connection, generation_id: int) -> Evaluation | None:
    """The newest verdict on a generation, or None."""
    row = QUERIES.latest_evaluation(connection, generation_id=generation_id)
    return Evaluation(*row) if row else None


def latest_comparison(connection: psycopg.Connection, generation_id: int, baseline_id: int | None) -> Evaluation | None:
    """The newest verdict on a generation against a certain other one (None: made while nothing served), or None."""
    row = QUERIES.latest_comparison(connection, generation_id=generation_id, baseline_id=baseline_id)
    return Evaluation(*row) if row else None


def insert_evaluation_queries(
    connection: psycopg.Connection, evaluation_id: int, queries: Sequence[ComparedQuery]
) -> None:
    """Record every query of an evaluation with what both sides made of it."""
    rows = [
        {
            "evaluation_id": evaluation_id,
            "kind": query.kind,
            "query_id": query.query_id,
            "query": query.query,
            "overlap_at_10": query.overlap_at_10,
            **{
                f"{side}_{name}": getattr(outcome, name)
                for side, outcome in (("candidate", query.candidate), ("baseline", query.baseline))
                for name in FIGURES
            },
            "candidate": query.candidate.results[:SHOWN],
            "baseline": query.baseline.results[:SHOWN],
        }
        for query in queries
    ]
    if rows:
        QUERIES.insert_evaluation_queries(connection, rows)


def list_evaluation_queries(connection: psycopg.Connection, evaluation_id: int) -> list[ComparedQuery]:
    """Every query of an evaluation; times are not kept."""
    found = []
    for kind, query_id, query, *figures, _overlap, candidate, baseline in QUERIES.list_evaluation_queries(
        connection, evaluation_id=evaluation_id
    ):
        found.append(
            ComparedQuery(kind, query_id, query, Outcome(candidate, *figures[0::2]), Outcome(baseline, *figures[1::2]))
        )
    return found


def list_known_names(connection: psycopg.Connection, tenant: str, names: Sequence[str]) -> set[str]:
    """Those of the names that are documents of the tenant now."""
    return {row[0] for row in QUERIES.list_documents_by_name(connection, tenant=tenant, names=list(names))}


def name_documents(connection: psycopg.Connection, document_ids: Sequence[int]) -> dict[int, str]:
    """What documents are called in search hits, by their numbers."""
    return dict(QUERIES.name_documents(connection, document_ids=list(document_ids)))


def sample_logged_searches(connection: psycopg.Connection, most: int) -> list[tuple[int, str, str, dict[str, str]]]:
    """(number, tenant, query, filters) of the logged searches asked last, each once."""
    return list(QUERIES.sample_logged_searches(connection, most=most))


def lock_pointer(connection: psycopg.Connection) -> None:
    """Hold the pointer until the transaction ends."""
    list(QUERIES.lock_pointer(connection))


def read_promotable(connection: psycopg.Connection, generation_id: int) -> Promotable | None:
    """The gate's conditions for a generation, or None if there is no such generation."""
    row = QUERIES.promotable(connection, generation_id=generation_id)
    return Promotable(*row) if row else None


def move_pointer(
    connection: psycopg.Connection,
    action: str,
    generation_id: int,
    previous_id: int | None,
    evaluation_id: int | None,
    forced: bool,
    actor: str,
    reason: str,
) -> None:
    """Move the pointer, the states of both generations, and write the history row."""
    QUERIES.soak_previous(connection)
    QUERIES.serve_generation(connection, generation_id=generation_id)
    QUERIES.move_pointer(connection, generation_id=generation_id)
    QUERIES.record_promotion(
        connection,
        action=action,
        generation_id=generation_id,
        previous_id=previous_id,
        evaluation_id=evaluation_id,
        forced=forced,
        actor=actor,
        reason=reason,
    )


def list_promotions(connection: psycopg.Connection) -> list[Promotion]:
    """All moves of the pointer, oldest first."""
    return [Promotion(*row) for row in QUERIES.list_promotions(connection)]


def sample_chunks(
    connection: psycopg.Connection, generation: Generation, seed: str, most: int
) -> list[tuple[str, int]]:
    """(text, document number) of a repeatable random sample of what a generation serves."""
    return list(
        QUERIES.sample_chunks(
            connection, generation_id=generation.id, chunker_id=generation.chunker_id, seed=seed, most=most
        )
    )


def locate_sentences(
    connection: psycopg.Connection, generation: Generation, sentences: Sequence[tuple[int, str]]
) -> list[tuple[int, int, str, list[str], str]]:
    """(place in the list given, chunk id, title, heading path, text) of the chunks that hold each sentence of a
    document, as the generation cuts it. sentences: (document number, sentence)."""
    return list(
        QUERIES.locate_sentences(
            connection,
            generation_id=generation.id,
            chunker_id=generation.chunker_id,
            document_ids=[document for document, _ in sentences],
            sentences=[sentence for _, sentence in sentences],
        )
    )


def list_holders(
    connection: psycopg.Connection, generation: Generation, chunk_ids: Sequence[int]
) -> dict[int, list[int]]:
    """The numbers of the documents that hold each chunk in what a generation serves."""
    rows = QUERIES.list_holders(
        connection, generation_id=generation.id, chunker_id=generation.chunker_id, chunk_ids=list(chunk_ids)
    )
    return dict(rows)


def forget_old_queries(connection: psycopg.Connection, days: float) -> int:
    """Delete the logged queries that are older than so many days; returns how many."""
    return int(QUERIES.forget_old_queries(connection, days=days))


def list_golden_queries(connection: psycopg.Connection) -> list[tuple[str, str, str, dict[str, float]]]:
    """(tenant, query id, text, relevant) of the judged queries users keep in the database."""
    return list(QUERIES.list_golden_queries(connection))


def upsert_golden_query(
    connection: psycopg.Connection, tenant: str, query_id: str, text: str, relevant: dict[str, float]
) -> None:
    """Add or replace a judged query."""
    QUERIES.upsert_golden_query(connection, tenant=tenant, query_id=query_id, text=text, relevant=Jsonb(relevant))
