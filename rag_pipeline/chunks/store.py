"""The SQL of chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from rag_pipeline.database.files import load_queries
from rag_pipeline.errors import MissingError

QUERIES = load_queries("chunks")
INCOMING_TYPES = (
    "int8",
    "int4",
    "text",
    "bytea",
    "int2",
    "text",
    "text[]",
    "text",
    "int4",
    "int4",
    "int4",
)


@dataclass(frozen=True)
class VersionText:
    """A version waiting to be cut."""

    version_id: int
    tenant: str
    title: str
    text: str


@dataclass(frozen=True)
class IncomingChunk:
    """A chunk of a version, on its way in."""

    version_id: int
    ordinal: int
    tenant: str
    content_sha256: bytes
    bucket: int
    title: str
    heading_path: tuple[str, ...]
    text: str
    token_count: int
    start: int
    end: int


@dataclass(frozen=True)
class WrittenChunks:
    """What one batch did: versions cut, chunks that were new, chunks that existed already."""

    versions: int
    new: int
    reused: int


def ensure_chunker(connection: psycopg.Connection, fingerprint: str, recipe: dict[str, Any]) -> int:
    """The number of a chunker recipe, made at first sight."""
    for _attempt in range(2):  # who waited for another's insert sees its row only in a second statement
        number = QUERIES.ensure_chunker(connection, fingerprint=fingerprint, recipe=Jsonb(recipe))
        if number is not None:
            return int(number)
    raise MissingError("The chunker recipe vanished while it was recorded; try again")


def read_chunker(connection: psycopg.Connection, chunker_id: int) -> dict[str, Any]:
    """The recipe of a chunker."""
    recipe: dict[str, Any] = QUERIES.read_chunker(connection, chunker_id=chunker_id)
    return recipe


def missing_versions(connection: psycopg.Connection, chunker_id: int, *, only_pending: bool) -> list[tuple[int, int]]:
    """(version id, characters) of the current versions to cut; `only_pending`: of documents in the queue."""
    query = QUERIES.missing_changed_versions if only_pending else QUERIES.missing_versions
    return list(query(connection, chunker_id=chunker_id))


def read_texts(connection: psycopg.Connection, version_ids: Sequence[int]) -> list[VersionText]:
    """The texts of some versions."""
    return [VersionText(*row) for row in QUERIES.read_texts(connection, version_ids=list(version_ids))]


def write_chunks(
    connection: psycopg.Connection, chunker_id: int, counts: dict[int, int], chunks: Sequence[IncomingChunk]
) -> WrittenChunks:
    """Write all chunks of some versions; `counts` has every version, those without chunks too. Idempotent."""
    QUERIES.create_incoming_chunks(connection)
    with connection.cursor() as cursor, cursor.copy("copy incoming_chunk from stdin (format binary)") as copy:
        copy.set_types(INCOMING_TYPES)
        for c in chunks:
            copy.write_row(
                (
                    c.version_id,
                    c.ordinal,
                    c.tenant,
                    c.content_sha256,
                    c.bucket,
                    c.title,
                    list(c.heading_path),
                    c.text,
                    c.token_count,
                    c.start,
                    c.end,
                )
            )
    claimed = [
        row[0]
        for row in QUERIES.claim_versions(
            connection, chunker_id=chunker_id, version_ids=list(counts), counts=list(counts.values())
        )
    ]
    new = QUERIES.insert_chunks(connection, version_ids=claimed)
    total = QUERIES.insert_version_chunks(connection, chunker_id=chunker_id, version_ids=claimed)
    return WrittenChunks(len(claimed), new, total - new)


def count_chunks(connection: psycopg.Connection) -> int:
    """Chunks ever written."""
    return int(QUERIES.count_chunks(connection))
