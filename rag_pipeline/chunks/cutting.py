"""Cutting the versions that have no chunks yet, in batches that land whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from rag_pipeline.chunks import store
from rag_pipeline.chunks.chunking import Chunk, CountTokens, chunk_documents, content_address
from rag_pipeline.chunks.recipe import ChunkerRecipe
from rag_pipeline.chunks.store import IncomingChunk, VersionText
from rag_pipeline.database.engine import Database
from rag_pipeline.progress import track

BATCH_VERSIONS = 1000
BATCH_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Chunker:
    """A recorded recipe: how to cut, and the model whose tokenizer counts (None: tokens are estimated)."""

    id: int
    recipe: ChunkerRecipe
    tokenizer: str | None


@dataclass
class ChunkReport:
    """What cutting did."""

    versions: int = 0
    new: int = 0
    reused: int = 0


def record_chunker(connection: psycopg.Connection, recipe: ChunkerRecipe, tokenizer: str | None) -> Chunker:
    """The recorded chunker of a recipe; the tokenizer is part of it, as it decides where the ceiling cuts."""
    stored: dict[str, Any] = {**asdict(recipe), "tokenizer": tokenizer}
    identity = json.dumps([recipe.fingerprint, tokenizer])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    return Chunker(store.ensure_chunker(connection, fingerprint, stored), recipe, tokenizer)


def read_chunker(connection: psycopg.Connection, chunker_id: int) -> Chunker:
    """A recorded chunker by its number."""
    stored = store.read_chunker(connection, chunker_id)
    tokenizer = stored.pop("tokenizer")
    return Chunker(chunker_id, ChunkerRecipe(**stored), tokenizer)


def cut_missing_versions(
    database: Database,
    chunker: Chunker,
    buckets: int,
    open_counter: Callable[[str], CountTokens],
    *,
    only_pending: bool,
) -> ChunkReport:
    """Cut every current version that has no chunks under this chunker. Killed anywhere, it goes on next time.

    `open_counter` opens the named model's token counter; it is called only when there is something to cut.
    """
    with database.connection() as connection:
        missing = store.missing_versions(connection, chunker.id, only_pending=only_pending)
    report = ChunkReport()
    if not missing:
        return report
    count_tokens = open_counter(chunker.tokenizer) if chunker.tokenizer else None
    with track("chunking", len(missing), "versions") as advance:
        for ids in batch_versions(missing):
            with database.connection() as connection:
                texts = store.read_texts(connection, ids)
            incoming, counts = cut_texts(texts, chunker, buckets, count_tokens)
            with database.transaction() as connection:
                written = store.write_chunks(connection, chunker.id, counts, incoming)
            report.versions += written.versions
            report.new += written.new
            report.reused += written.reused
            advance(len(ids))
    return report


def batch_versions(missing: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Group (version id, characters) into batches of bounded count and size."""
    batch: list[int] = []
    characters = 0
    for version_id, length in missing:
        if batch and (len(batch) >= BATCH_VERSIONS or characters + length > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(version_id)
        characters += length
    if batch:
        yield batch


def cut_texts(
    texts: Sequence[VersionText], chunker: Chunker, buckets: int, count_tokens: CountTokens | None
) -> tuple[list[IncomingChunk], dict[int, int]]:
    """The chunks of some versions, and the number of chunks of each."""
    cut = chunk_documents([(t.title, t.text) for t in texts], chunker.recipe, count_tokens)
    incoming = [
        _incoming(version, ordinal, chunk, buckets)
        for version, chunks in zip(texts, cut, strict=True)
        for ordinal, chunk in enumerate(chunks)
    ]
    return incoming, {version.version_id: len(chunks) for version, chunks in zip(texts, cut, strict=True)}


def _incoming(version: VersionText, ordinal: int, chunk: Chunk, buckets: int) -> IncomingChunk:
    address = content_address(version.title, chunk.heading_path, chunk.text)
    return IncomingChunk(
        version.version_id,
        ordinal,
        version.tenant,
        address,
        int.from_bytes(address[:4], "big") % buckets,
        version.title,
        chunk.heading_path,
        chunk.text,
        chunk.token_count,
        chunk.start,
        chunk.end,
    )
