"""Filling the ledger: repeat until nothing is missing.

Workers share the work by leasing buckets (a session advisory lock on space and bucket, which ends with the
worker however it ends). What a killed worker had not landed is simply still missing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import psycopg

from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import store
from rag_pipeline.embeddings.aside import give_way
from rag_pipeline.embeddings.models import EmbeddingModel, PartialEmbeddingError
from rag_pipeline.embeddings.registry import DriftError, open_checked_model, refuse_changed_weights
from rag_pipeline.embeddings.store import ChunkText, MissingChunk, ModelRecord
from rag_pipeline.embeddings.vectors import check_vectors
from rag_pipeline.errors import MisuseError, RefusedError
from rag_pipeline.progress import Advance, track

# How much one worker leases at a time, and how much it may lose when it is killed.
LEASED_CHUNKS = 4096
LANDING_SECONDS = 2.0
FIRST_LANDING = 64
LARGEST_LANDING = 16_384


class BudgetError(MisuseError, ValueError):
    """A budget that cannot be applied, such as one of money without a price."""


class BudgetReachedError(RefusedError):
    """The budget of tokens is spent and chunks are left. What was embedded is in the ledger; a next call goes on."""


@dataclass
class Budget:
    """Tokens that may still be embedded; a filling takes from it and raises before it would go below zero."""

    tokens_left: int


def make_budget(max_tokens: int | None, max_cost: float | None, price_per_million: float | None) -> Budget | None:
    """The tighter of a budget of tokens and one of money; None where neither is given. Raises `BudgetError`."""
    limits = [] if max_tokens is None else [max_tokens]
    if max_cost is not None:
        if not price_per_million:
            raise BudgetError("A budget of money needs a price: --price-per-million, or RAG_PRICE_PER_MILLION")
        limits.append(int(max_cost / price_per_million * 1_000_000))
    return Budget(min(limits)) if limits else None


@dataclass
class EmbeddingReport:
    """What filling did: chunks embedded, refused by the model, characters and tokens embedded, seconds."""

    embedded: int = 0
    refused: int = 0
    characters: int = 0
    tokens: int = 0
    seconds: float = 0.0


def embed_missing(
    database: Database,
    record: ModelRecord,
    chunker_id: int,
    *,
    only_pending: bool,
    buckets: Sequence[int] | None = None,
    budget: Budget | None = None,
    report: EmbeddingReport | None = None,
) -> EmbeddingReport:
    """Embed every chunk that has no vector in the model's space; where nothing is missing no model is loaded.

    Raises `DriftError` before anything is spent if the model changed under its name, and `BudgetReachedError`
    where more is missing than `budget` allows: everything up to it is embedded and landed then, and counted in
    `report` if the caller gave one.
    """
    report, began = report or EmbeddingReport(), time.monotonic()
    space = record.space

    def find_missing() -> list[MissingChunk]:
        with database.connection() as connection:
            return store.missing_chunks(connection, space, chunker_id, only_pending=only_pending, buckets=buckets)

    missing = find_missing()
    if not missing:
        return report
    opened = _open_proven_model(database, record)
    with (
        # a handful of edits is wanted at once; a corpus must not slow down those who search meanwhile
        nullcontext(opened) if len(missing) <= FIRST_LANDING else give_way(opened, record.spec) as model,
        track(f"embedding with {record.slug}", len(missing), "chunks") as advance,
        database.session() as leases,
    ):
        while missing:
            progressed = False
            for leased, chunks in lease_buckets(leases, space, missing):
                try:
                    _embed_leased(database, model, record, [c.id for c in chunks], report, advance, budget)
                    progressed = True
                finally:
                    report.seconds = time.monotonic() - began
                    for bucket in leased:
                        store.unlock_bucket(leases, space, bucket)
            missing = find_missing()
            if missing and not progressed:
                time.sleep(0.5)  # other workers hold all that is left: our promise waits for theirs
    report.seconds = time.monotonic() - began
    return report


def _open_proven_model(database: Database, record: ModelRecord) -> EmbeddingModel:
    """The model, byte for byte and canary for canary the registered one; what was found is on its record."""
    try:
        refuse_changed_weights(record)
        model = open_checked_model(record)
    except DriftError as error:
        with database.connection() as connection:
            store.set_drift(connection, record.id, str(error))
        raise
    if record.drift is not None:
        with database.connection() as connection:
            store.set_drift(connection, record.id, None)
    return model


def lease_buckets(
    connection: psycopg.Connection, space_id: int, missing: Sequence[MissingChunk]
) -> Iterator[tuple[list[int], list[MissingChunk]]]:
    """Lease free buckets until enough work is held, hand it over, go on with the rest."""
    by_bucket: dict[int, list[MissingChunk]] = {}
    for chunk in missing:
        by_bucket.setdefault(chunk.bucket, []).append(chunk)
    leased: list[int] = []
    held: list[MissingChunk] = []
    for bucket, chunks in by_bucket.items():
        if store.try_lock_bucket(connection, space_id, bucket):
            leased.append(bucket)
            held += chunks
        if len(held) >= LEASED_CHUNKS:
            yield leased, held
            leased, held = [], []
    if held:
        yield leased, held


def _embed_leased(
    database: Database,
    model: EmbeddingModel,
    record: ModelRecord,
    chunk_ids: Sequence[int],
    report: EmbeddingReport,
    advance: Advance,
    budget: Budget | None,
) -> None:
    size = FIRST_LANDING
    position = 0
    with database.connection() as connection:
        texts = store.read_chunk_texts(connection, record.space, chunk_ids)
    advance(len(chunk_ids) - len(texts))
    while position < len(texts):
        batch = take_affordable(texts[position : position + size], budget)
        if not batch:
            raise BudgetReachedError(f"The budget is spent after {report.tokens:,} tokens ({report.embedded:,} chunks)")
        position += len(batch)
        began = time.monotonic()
        _embed_batch(database, model, record, batch, report)
        advance(len(batch))
        rate = len(batch) / max(time.monotonic() - began, 1e-3)
        size = int(min(max(rate * LANDING_SECONDS, 16), LARGEST_LANDING, size * 8))


def take_affordable(batch: Sequence[ChunkText], budget: Budget | None) -> Sequence[ChunkText]:
    """The beginning of a batch that the budget pays for, taken off it."""
    if budget is None:
        return batch
    taken = 0
    for chunk in batch:
        if chunk.token_count > budget.tokens_left:
            break
        budget.tokens_left -= chunk.token_count
        taken += 1
    return batch[:taken]


def _embed_batch(
    database: Database,
    model: EmbeddingModel,
    record: ModelRecord,
    batch: Sequence[ChunkText],
    report: EmbeddingReport,
) -> None:
    texts = [embedded_text(c.title, c.heading_path, c.text) for c in batch]
    refused: dict[int, str] = {}
    try:
        vectors = model.embed_documents(texts)
    except PartialEmbeddingError as error:
        vectors = error.vectors
        refused = {failure.row: failure.reason for failure in error.failures}
    check = check_vectors(vectors, record.dimension or model.dimension)
    for row, reason in enumerate(check.reasons):
        if reason is not None:
            refused.setdefault(row, reason)
    good = [row for row in range(len(batch)) if row not in refused]
    with database.transaction() as connection:
        landed = store.land_embeddings(
            connection, record.space, [batch[row].id for row in good], np.asarray(vectors)[good]
        )
        for row, reason in refused.items():
            store.record_embedding_failure(connection, record.space, batch[row].id, reason)
    report.embedded += landed
    report.refused += len(refused)
    report.characters += sum(len(texts[row]) for row in good)
    report.tokens += sum(batch[row].token_count for row in good)
