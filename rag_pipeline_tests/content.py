"""Documents without files: what a reading would write, from texts at hand."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import psycopg

from rag_pipeline.database.engine import Database
from rag_pipeline.documents import store as documents
from rag_pipeline.documents.store import Incoming
from rag_pipeline.versions.store import WrittenVersions, read_clock, write_versions

SOURCE = "test"


def make_incoming(uri: str, text: str, metadata: dict[str, Any] | None = None, title: str = "") -> Incoming:
    content = json.dumps([title, text, metadata or {}], sort_keys=True).encode()
    return Incoming(uri, hashlib.sha256(content).digest(), "test@1", "text/plain", title, text, metadata or {})


def write_texts(
    connection: psycopg.Connection,
    texts: Mapping[str, str],
    *,
    tenant: str = "default",
    metadata: Mapping[str, dict[str, Any]] | None = None,
) -> WrittenVersions:
    """Add or change documents in the caller's transaction."""
    documents.lock_changes(connection)
    incoming = [make_incoming(uri, text, (metadata or {}).get(uri)) for uri, text in texts.items()]
    return write_versions(connection, tenant, SOURCE, incoming)


def put_texts(database: Database, texts: Mapping[str, str], **more: Any) -> WrittenVersions:
    """Add or change documents, committed."""
    with database.transaction() as connection:
        return write_texts(connection, texts, **more)


def delete_texts(database: Database, *uris: str, tenant: str = "default") -> int:
    """Delete documents, committed; returns how many were alive."""
    with database.transaction() as connection:
        documents.lock_changes(connection)
        known = documents.read_known_documents(connection, tenant, SOURCE, "")
        ids = [known[uri].id for uri in uris]
        return len(documents.delete_documents(connection, ids, read_clock(connection)))


def read_served(database: Database, generation_id: int) -> dict[str, str]:
    """What a generation serves: text by URI, deletions that were not applied yet left out as a search does."""
    with database.connection() as connection:
        rows = connection.execute(
            "select d.uri, v.text from rag.generation_version g join rag.document_version v on v.id = g.version_id"
            " join rag.document d on d.id = v.document_id where g.generation_id = %s and d.deleted_at is null",
            (generation_id,),
        )
        return dict(rows.fetchall())
