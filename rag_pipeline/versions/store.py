"""The SQL of document versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from rag_pipeline.database.files import load_queries
from rag_pipeline.documents import store as documents
from rag_pipeline.documents.store import Incoming

QUERIES = load_queries("versions")


@dataclass(frozen=True)
class VersionRow:
    """One line of a document's history."""

    ordinal: int
    title: str
    characters: int
    parser: str
    media_type: str
    content_sha256: str
    valid_from: datetime
    valid_to: datetime | None


@dataclass(frozen=True)
class Version:
    """One version with its text."""

    ordinal: int
    title: str
    text: str
    metadata: dict[str, Any]
    valid_from: datetime
    valid_to: datetime | None


@dataclass(frozen=True)
class WrittenVersions:
    """What one batch did: documents that are new, that have a next version, that were already there."""

    added: int
    changed: int
    unchanged: int


def read_clock(connection: psycopg.Connection) -> datetime:
    """The server's clock now, not the transaction's start."""
    clock: datetime = QUERIES.read_clock(connection)
    return clock


def write_versions(
    connection: psycopg.Connection, tenant: str, source: str, incoming: Sequence[Incoming]
) -> WrittenVersions:
    """Write a batch of changed content as next versions; idempotent, and safe beside another writer.

    Runs in the caller's transaction, which must hold the change lock (`documents.store.lock_changes`).
    """
    documents.stage_incoming(connection, incoming)
    documents.upsert_incoming_documents(connection, tenant, source)
    state = list(QUERIES.read_incoming_state(connection, tenant=tenant, source=source))
    fresh = [row for row in state if row[4]]
    at = read_clock(connection)
    if closing := [row[3] for row in fresh if row[3] is not None]:
        QUERIES.close_versions(connection, version_ids=closing, at=at)
    if fresh:
        QUERIES.insert_versions(
            connection, positions=[row[0] for row in fresh], document_ids=[row[1] for row in fresh], at=at
        )
    added = sum(1 for row in fresh if row[3] is None)
    return WrittenVersions(added, len(fresh) - added, len(state) - len(fresh))


def read_history(connection: psycopg.Connection, document_id: int) -> list[VersionRow]:
    """All versions of a document, oldest first, without their texts."""
    return [VersionRow(*row) for row in QUERIES.read_history(connection, document_id=document_id)]


def read_version(connection: psycopg.Connection, document_id: int, ordinal: int) -> Version | None:
    """One version with its text, or None."""
    row = QUERIES.read_version(connection, document_id=document_id, ordinal=ordinal)
    return Version(*row) if row else None


def count_versions(connection: psycopg.Connection) -> int:
    """Versions ever written."""
    return int(QUERIES.count_versions(connection))
