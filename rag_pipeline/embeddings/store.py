"""The SQL of models and of the embedding ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from rag_pipeline.database.files import load_queries
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.errors import MissingError

QUERIES = load_queries("embeddings")


@dataclass(frozen=True)
class ModelRecord:
    """A registered model. `space_id` names the ledger it reads and writes; None before it was probed."""

    id: int
    spec: ModelSpec
    max_tokens: int | None
    dimension: int | None
    fingerprint: bytes | None
    canaries: bytes | None
    space_id: int | None
    state: str
    reason: str | None
    probe: dict[str, Any]
    checked_at: datetime | None = None
    drift: str | None = None

    @property
    def slug(self) -> str:
        return self.spec.slug

    @property
    def space(self) -> int:
        """The ledger's number of a probed model. Raises MissingError for one that was not."""
        if self.space_id is None:
            raise MissingError(f"model {self.slug!r} is {self.state}: {self.reason or 'it has not been probed'}")
        return self.space_id


@dataclass(frozen=True)
class MissingChunk:
    """A chunk without a vector."""

    id: int
    bucket: int
    token_count: int


@dataclass(frozen=True)
class ChunkText:
    """What is needed to embed a chunk."""

    id: int
    title: str
    heading_path: list[str]
    text: str
    token_count: int


@dataclass(frozen=True)
class Coverage:
    """Chunks of current versions under one chunker, and how many of them one space covers."""

    chunks: int
    embedded: int
    refused: int

    @property
    def missing(self) -> int:
        return self.chunks - self.embedded - self.refused

    @property
    def share(self) -> float:
        """Share of the chunks that have a vector, 1 where there are none."""
        return self.embedded / self.chunks if self.chunks else 1.0


def _record(row: Sequence[Any]) -> ModelRecord:
    id_, slug, source, base_url, query_prompt, document_prompt, normalise, weights = row[:8]
    spec = ModelSpec(slug, source, query_prompt, document_prompt, normalise, base_url, weights)
    return ModelRecord(id_, spec, *row[8:])


def register_model(connection: psycopg.Connection, spec: ModelSpec) -> bool:
    """Record a model under its slug; False if the slug is taken."""
    return (
        QUERIES.insert_model(
            connection,
            slug=spec.slug,
            source=spec.source,
            base_url=spec.base_url,
            query_prompt=spec.query_prompt,
            document_prompt=spec.document_prompt,
            normalise=spec.normalise,
            weights_sha256=spec.weights_sha256,
        )
        is not None
    )


def read_model(connection: psycopg.Connection, slug: str) -> ModelRecord | None:
    """The model of that slug, or None."""
    row = QUERIES.read_model(connection, slug=slug)
    return _record(row) if row else None


def read_model_by_id(connection: psycopg.Connection, model_id: int) -> ModelRecord:
    """The model of that number."""
    return _record(QUERIES.read_model_by_id(connection, id=model_id))


def list_models(connection: psycopg.Connection) -> list[ModelRecord]:
    """All registered models in the order they came."""
    return [_record(row) for row in QUERIES.list_models(connection)]


def record_probe(
    connection: psycopg.Connection,
    model_id: int,
    *,
    max_tokens: int | None,
    dimension: int,
    fingerprint: bytes,
    canaries: bytes,
    space_id: int,
    probe: dict[str, Any],
) -> None:
    """Record what a probe found, and make the ledger's partition for a new space."""
    QUERIES.record_probe(
        connection,
        id=model_id,
        max_tokens=max_tokens,
        dimension=dimension,
        fingerprint=fingerprint,
        canaries=canaries,
        space_id=space_id,
        probe=Jsonb(probe),
    )
    connection.execute(
        sql.SQL(
            "create table if not exists rag.{} partition of rag.embedding"
            " (check (vector_dims(vector) = {}), check (vector_norm(vector) > 0)) for values in ({})"
        ).format(sql.Identifier(f"embedding_{space_id}"), sql.Literal(dimension), sql.Literal(space_id))
    )


def refuse_model(connection: psycopg.Connection, model_id: int, reason: str) -> None:
    """Record that a model must not be used, and why."""
    QUERIES.refuse_model(connection, id=model_id, reason=reason)


def set_drift(connection: psycopg.Connection, model_id: int, drift: str | None) -> None:
    """Record that a model was checked now, and what is wrong with it; None: nothing."""
    QUERIES.set_drift(connection, id=model_id, drift=drift)


def set_paused(connection: psycopg.Connection, model_id: int, reason: str | None) -> None:
    """Note that a model's embedding stopped at its budget, so that no schedule goes on with it; None: it may."""
    QUERIES.set_paused(connection, id=model_id, reason=reason)


def missing_chunks(
    connection: psycopg.Connection,
    space_id: int,
    chunker_id: int,
    *,
    only_pending: bool,
    buckets: Sequence[int] | None = None,
) -> list[MissingChunk]:
    """Chunks of current versions without a vector; `only_pending`: of documents in the queue only."""
    query = QUERIES.missing_changed_chunks if only_pending else QUERIES.missing_chunks
    rows = query(
        connection,
        space_id=space_id,
        chunker_id=chunker_id,
        buckets=list(buckets) if buckets is not None else None,
    )
    return [MissingChunk(*row) for row in rows]


def read_chunk_texts(connection: psycopg.Connection, space_id: int, chunk_ids: Sequence[int]) -> list[ChunkText]:
    """The texts of those chunks that still have no vector, longest first."""
    rows = QUERIES.read_chunk_texts(connection, space_id=space_id, chunk_ids=list(chunk_ids))
    return [ChunkText(*row) for row in rows]


def try_lock_bucket(connection: psycopg.Connection, space_id: int, bucket: int) -> bool:
    """Lease a bucket of a space for this session; the lease ends with `unlock_bucket` or with the session."""
    return bool(QUERIES.try_lock_bucket(connection, space_id=space_id, bucket=bucket))


def unlock_bucket(connection: psycopg.Connection, space_id: int, bucket: int) -> None:
    """End the lease of a bucket."""
    QUERIES.unlock_bucket(connection, space_id=space_id, bucket=bucket)


def encode_vectors(chunk_ids: Sequence[int], vectors: np.ndarray) -> bytes:
    """(chunk id, vector) rows in PostgreSQL's binary COPY format, built by numpy: no Python loop per row.

    Format: https://www.postgresql.org/docs/18/sql-copy.html#id-1.9.3.55.9.4 and pgvector's vector_recv
    (int16 dimension, int16 unused, float32 values, all big-endian).
    """
    count, dimension = vectors.shape
    layout = np.dtype(
        [
            ("fields", ">i2"),
            ("id_size", ">i4"),
            ("id", ">i8"),
            ("vector_size", ">i4"),
            ("dimension", ">i2"),
            ("unused", ">i2"),
            ("values", ">f4", (dimension,)),
        ]
    )
    rows = np.zeros(count, dtype=layout)
    rows["fields"], rows["id_size"], rows["id"] = 2, 8, np.asarray(chunk_ids)
    rows["vector_size"], rows["dimension"], rows["values"] = 4 + 4 * dimension, dimension, vectors
    return b"PGCOPY\n\xff\r\n\x00" + bytes(8) + rows.tobytes() + b"\xff\xff"


def land_embeddings(
    connection: psycopg.Connection, space_id: int, chunk_ids: Sequence[int], vectors: np.ndarray
) -> int:
    """Write vectors (n, dimension) float32 to the ledger through a staging table; returns how many were new.

    The partition's checks refuse zero vectors and other dimensions, pgvector refuses NaN and infinity.
    """
    if not len(chunk_ids):
        return 0
    QUERIES.create_staging(connection)
    with (
        connection.cursor() as cursor,
        cursor.copy("copy staged_embedding (chunk_id, vector) from stdin (format binary)") as copy,
    ):
        copy.write(encode_vectors(chunk_ids, vectors))
    return int(QUERIES.land_embeddings(connection, space_id=space_id))


def record_embedding_failure(connection: psycopg.Connection, space_id: int, chunk_id: int, reason: str) -> None:
    """Record that the model refused a chunk; it is not tried again until the row is deleted."""
    QUERIES.record_embedding_failure(connection, space_id=space_id, chunk_id=chunk_id, reason=reason)


def count_embeddings(connection: psycopg.Connection) -> dict[int, int]:
    """Vectors in the ledger by space."""
    return dict(QUERIES.count_embeddings(connection))


def read_coverage(connection: psycopg.Connection, space_id: int, chunker_id: int) -> Coverage:
    """How much of the current text a space covers."""
    return Coverage(*QUERIES.coverage(connection, space_id=space_id, chunker_id=chunker_id))


def read_gaps(connection: psycopg.Connection, generation_id: int, space_id: int, chunker_id: int) -> tuple[int, int]:
    """(chunks without a vector that nothing will embed, those of documents in the generation's queue), at one moment.

    Read at two moments they would disagree while documents are edited.
    """
    lost, queued = QUERIES.gaps(connection, generation_id=generation_id, space_id=space_id, chunker_id=chunker_id)
    return int(lost), int(queued)


def list_embedding_failures(connection: psycopg.Connection) -> list[tuple[str, int, str, Any]]:
    """(model, chunk id, reason, failed_at) of every refused chunk."""
    return list(QUERIES.list_embedding_failures(connection))
