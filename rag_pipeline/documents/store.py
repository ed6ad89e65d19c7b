"""The SQL of documents, sources and failures."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from rag_pipeline.database.files import load_queries
from rag_pipeline.documents.locations import Location

QUERIES = load_queries("documents")
INCOMING_COLUMNS = (
    "position",
    "uri",
    "external_id",
    "stat_token",
    "content_sha256",
    "parser",
    "media_type",
    "title",
    "text",
    "metadata",
)
INCOMING_TYPES = ("int4", "text", "text", "text", "bytea", "text", "text", "text", "text", "jsonb")


@dataclass(frozen=True)
class KnownDocument:
    """What the database holds of a document: `content_sha256` is None where nothing is current."""

    id: int
    content_sha256: bytes | None
    stat_token: str | None


@dataclass(frozen=True)
class KnownFailure:
    """Input that failed before."""

    content_sha256: bytes
    code: str
    reason: str


@dataclass(frozen=True)
class Incoming:
    """Content on its way to becoming a version."""

    uri: str
    content_sha256: bytes
    parser: str
    media_type: str
    title: str
    text: str
    metadata: dict[str, Any]
    external_id: str | None = None
    stat_token: str | None = None


@dataclass(frozen=True)
class SourceRecord:
    """A registered source location."""

    id: int
    tenant: str
    name: str
    location: str
    include: list[str]
    prune: bool
    token: str | None


@dataclass(frozen=True)
class DocumentRecord:
    """A document's identity."""

    id: int
    tenant: str
    source: str
    uri: str
    external_id: str | None
    deleted_at: datetime | None


def lock_changes(connection: psycopg.Connection) -> None:
    """Announce that this transaction will change documents. Call it first: it orders us with new generations."""
    list(QUERIES.lock_changes(connection))


def read_known_documents(
    connection: psycopg.Connection, tenant: str, source: str, prefix: str
) -> dict[str, KnownDocument]:
    """All known documents of a location by URI, deleted ones included."""
    rows = QUERIES.read_known_documents(connection, tenant=tenant, source=source, prefix=prefix)
    return {uri: KnownDocument(id_, sha, token) for uri, id_, sha, token in rows}


def read_known_failures(
    connection: psycopg.Connection, tenant: str, source: str, prefix: str
) -> dict[str, KnownFailure]:
    """All recorded failures of a location by URI."""
    rows = QUERIES.read_known_failures(connection, tenant=tenant, source=source, prefix=prefix)
    return {uri: KnownFailure(sha, code, reason) for uri, sha, code, reason in rows}


def stage_incoming(connection: psycopg.Connection, incoming: Sequence[Incoming]) -> None:
    """COPY the batch into the transaction's temporary table `incoming`."""
    QUERIES.create_incoming(connection)
    columns = ", ".join(INCOMING_COLUMNS)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"copy incoming ({columns}) from stdin (format binary)") as copy,  # type: ignore[arg-type]
    ):
        copy.set_types(INCOMING_TYPES)
        for position, item in enumerate(incoming):
            copy.write_row(
                (
                    position,
                    item.uri,
                    item.external_id,
                    item.stat_token,
                    item.content_sha256,
                    item.parser,
                    item.media_type,
                    item.title,
                    item.text,
                    Jsonb(item.metadata),
                )
            )


def upsert_incoming_documents(connection: psycopg.Connection, tenant: str, source: str) -> None:
    """Make sure every staged row has its document, lock it, and drop its recorded failure."""
    QUERIES.upsert_incoming_documents(connection, tenant=tenant, source=source)
    QUERIES.forget_failures(connection, tenant=tenant, source=source)


def update_stat_tokens(connection: psycopg.Connection, tokens: dict[int, str]) -> None:
    """Remember the new look of files whose content did not change."""
    if tokens:
        QUERIES.update_stat_tokens(connection, ids=list(tokens), tokens=list(tokens.values()))


def record_failure(
    connection: psycopg.Connection, tenant: str, source: str, uri: str, sha256: bytes, code: str, reason: str
) -> None:
    """Record input that could not be read; the document's last good version, if any, stays."""
    QUERIES.record_failure(
        connection, tenant=tenant, source=source, uri=uri, content_sha256=sha256, code=code, reason=reason
    )


def forget_failures_of(connection: psycopg.Connection, tenant: str, source: str, uris: Sequence[str]) -> None:
    """Drop the failures of input that is gone or read well now."""
    if uris:
        QUERIES.forget_failures_of(connection, tenant=tenant, source=source, uris=list(uris))


def delete_documents(connection: psycopg.Connection, ids: Sequence[int], at: datetime) -> list[int]:
    """Mark documents deleted and close their versions; returns the ids that were alive."""
    list(QUERIES.lock_documents(connection, ids=list(ids)))
    return [row[0] for row in QUERIES.delete_documents(connection, ids=list(ids), at=at)]


def register_source(connection: psycopg.Connection, location: Location, prune: bool, token: str) -> None:
    """Remember a location that was read whole, so that schedules and sensors can read it again."""
    QUERIES.register_source(
        connection,
        tenant=location.tenant,
        name=location.source,
        location=location.path,
        kind=location.kind,
        include=list(location.include),
        prune=prune,
        token=token,
    )


def forget_other_folders(connection: psycopg.Connection, tenant: str, source: str, folders: Sequence[str]) -> None:
    """Unregister folders this source was read from before, other than the given ones."""
    QUERIES.forget_other_folders(connection, tenant=tenant, name=source, locations=list(folders))


def list_sources(connection: psycopg.Connection) -> list[SourceRecord]:
    """All registered source locations."""
    return [SourceRecord(*row) for row in QUERIES.list_sources(connection)]


def list_failures(connection: psycopg.Connection) -> list[tuple[str, str, str, str, str, datetime]]:
    """(tenant, source, uri, code, reason, failed_at) of everything that could not be read."""
    return list(QUERIES.list_failures(connection))


def find_documents(connection: psycopg.Connection, name: str) -> list[DocumentRecord]:
    """Documents whose URI, external id or number is `name`; live ones first."""
    return [DocumentRecord(*row) for row in QUERIES.find_documents(connection, name=name)]


def count_documents(connection: psycopg.Connection) -> tuple[int, int]:
    """(live, deleted)."""
    live, deleted = QUERIES.count_documents(connection)
    return live, deleted
