"""The SQL behind what runs show and checks look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from rag_pipeline.database.files import load_queries
from rag_pipeline.errors import MissingError

QUERIES = load_queries("automation")


@dataclass(frozen=True)
class VectorFigures:
    """All vectors of a space: count, those of another dimension, extreme norms, those without length."""

    vectors: int
    other_dimension: int
    shortest: float | None
    longest: float | None
    without_length: int


@dataclass(frozen=True)
class PendingChunks:
    """Chunks of the documents that a generation waits for, and how many of them have their vector already."""

    chunks: int
    embedded: int


def sample_documents(connection: psycopg.Connection, most: int = 5) -> list[tuple[Any, ...]]:
    """(uri, source, version, media type, characters, since) of the documents that changed last."""
    return list(QUERIES.sample_documents(connection, most=most))


def sample_chunks(connection: psycopg.Connection, most: int = 5) -> list[tuple[Any, ...]]:
    """(id, title, heading path, tokens, beginning) of the chunks written last."""
    return list(QUERIES.sample_chunks(connection, most=most))


def sample_embeddings(
    connection: psycopg.Connection, space_id: int, buckets: Sequence[int], most: int = 5
) -> list[tuple[Any, ...]]:
    """(chunk id, title, tokens, dimension, norm, beginning) of some vectors."""
    return list(QUERIES.sample_embeddings(connection, space_id=space_id, buckets=list(buckets), most=most))


def read_vector_figures(connection: psycopg.Connection, space_id: int, dimension: int) -> VectorFigures:
    """Count and measure every vector of a space; costs a pass over it."""
    return VectorFigures(*QUERIES.vector_figures(connection, space_id=space_id, dimension=dimension))


def count_pending_chunks(
    connection: psycopg.Connection, generation_id: int, chunker_id: int, space_id: int
) -> PendingChunks:
    """What a generation's queue means in chunks; costs what the queue costs."""
    row = QUERIES.pending_chunks(connection, generation_id=generation_id, chunker_id=chunker_id, space_id=space_id)
    return PendingChunks(*row)


def read_any_vector(connection: psycopg.Connection, space_id: int) -> np.ndarray | None:
    """One vector of a space, (dimension,) float32, or None."""
    found: str | None = QUERIES.any_vector(connection, space_id=space_id)
    return None if found is None else np.fromstring(found.strip("[]"), dtype=np.float32, sep=",")


def explain(connection: psycopg.Connection, statement: sql.Composed, parameters: dict[str, Any]) -> dict[str, Any]:
    """The plan PostgreSQL makes for a statement."""
    row = connection.execute(sql.SQL("explain (format json) ") + statement, parameters).fetchone()
    if row is None:
        raise MissingError("PostgreSQL returned no plan")
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan
