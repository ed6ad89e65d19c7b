"""The SQL of the serving pointer, its evidence and its history."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from rag_pipeline.database.files import load_queries
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.query_log import LoggedQuery

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
) -> list[tuple[int, str, list[str], str]]:
    """(chunk id, title, heading path, text) of a repeatable random sample of what a generation serves."""
    return list(
        QUERIES.sample_chunks(
            connection, generation_id=generation.id, chunker_id=generation.chunker_id, seed=seed, most=most
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


def list_served_chunks(connection: psycopg.Connection, generation: Generation, chunk_ids: Sequence[int]) -> set[int]:
    """Those of the chunks that a generation serves."""
    rows = QUERIES.list_served_chunks(
        connection, generation_id=generation.id, chunker_id=generation.chunker_id, chunk_ids=list(chunk_ids)
    )
    return {row[0] for row in rows}


def list_golden_queries(connection: psycopg.Connection, tenant: str) -> list[tuple[str, str, dict[str, float]]]:
    """(query id, text, relevant) of the judged queries users keep in the database."""
    return list(QUERIES.list_golden_queries(connection, tenant=tenant))


def upsert_golden_query(
    connection: psycopg.Connection, tenant: str, query_id: str, text: str, relevant: dict[str, float]
) -> None:
    """Add or replace a judged query."""
    QUERIES.upsert_golden_query(connection, tenant=tenant, query_id=query_id, text=text, relevant=Jsonb(relevant))


def insert_logged_queries(connection: psycopg.Connection, queries: Sequence[LoggedQuery]) -> None:
    """Append to the query log."""
    QUERIES.insert_logged_queries(connection, [asdict(q) | {"filters": Jsonb(q.filters)} for q in queries])


def forget_old_queries(connection: psycopg.Connection, days: float) -> int:
    """Delete logged queries that are older; returns how many."""
    return int(QUERIES.forget_old_queries(connection, days=days))


def list_warming_queries(connection: psycopg.Connection, most: int) -> list[tuple[str, str]]:
    """(tenant, query) to try a generation with: what was asked last, or else texts from all over the corpus."""
    return list(QUERIES.list_warming_queries(connection, most=most))


def record_heartbeat(connection: psycopg.Connection, process: str, warm: Sequence[int]) -> None:
    """Say that a serving process lives, and which generations it has ready."""
    QUERIES.record_heartbeat(connection, id=process, warm=list(warm))


def forget_process(connection: psycopg.Connection, process: str) -> None:
    """A serving process ends."""
    QUERIES.forget_process(connection, id=process)


def forget_dead_processes(connection: psycopg.Connection, seconds: float) -> None:
    """Delete processes that were not seen for so long."""
    QUERIES.forget_dead_processes(connection, seconds=seconds)


def list_cold_processes(connection: psycopg.Connection, generation_id: int, seconds: float) -> list[str]:
    """Processes seen in the last so many seconds that do not have a generation ready."""
    return [row[0] for row in QUERIES.list_cold_processes(connection, generation_id=generation_id, seconds=seconds)]
