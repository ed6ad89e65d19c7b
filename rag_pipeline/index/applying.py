"""Applying changes to a generation: the vectors and the words of whole documents, in one transaction."""

import psycopg

from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.errors import ExpectedError
from rag_pipeline.index import delta_store, lexical_store, store
from rag_pipeline.index.analysis import Analyzer, open_analyzer
from rag_pipeline.index.delta_store import BornChunk, Moved
from rag_pipeline.index.lexical import LARGEST_FREQUENCY
from rag_pipeline.index.lexical_store import LexicalChunk
from rag_pipeline.index.store import Generation

MOST_TAKEN = 5_000
LEXICAL_BATCH = 5_000
LARGE_LOAD = 10_000


class RetiredGenerationError(ExpectedError):
    """The generation is not active any more; nothing was changed."""


def apply_changes(database: Database, generation: Generation) -> Moved:
    """Apply the queue of a generation until nothing in it can move. Killed anywhere, the queue still stands."""
    documents = inserted = deleted = waiting = 0
    position: int | None = 0
    while position is not None:
        with database.transaction() as connection:
            _lock_active(connection, generation)
            taken, position = delta_store.take_pending(connection, generation, position, MOST_TAKEN)
            if not taken:
                break
            moved = delta_store.move_documents(connection, generation, taken)
            _apply_words(connection, generation)
            delta_store.finish_pending(connection)
            if moved.inserted or moved.deleted:
                store.count_churn(connection, generation.id, moved.inserted, moved.deleted)
        documents += moved.documents
        inserted += moved.inserted
        deleted += moved.deleted
        waiting += moved.waiting
    return Moved(documents, waiting, inserted, deleted)


def load_generation(database: Database, generation: Generation) -> Moved:
    """Load everything there is into a building generation, in one transaction. A second call does nothing.

    Whoever changes documents without knowing of this generation is waited for first: nothing is queued for it.
    """
    if generation.loaded_at is None:
        with database.connection() as connection:
            store.wait_for_writers(connection)
    with database.transaction() as connection:
        _lock_active(connection, generation)
        current = store.read_generation(connection, generation.id)
        if current is None or current.loaded_at is not None:
            return Moved()
        taken = delta_store.take_everything(connection)
        moved = delta_store.move_documents(connection, generation, taken)
        _apply_words(connection, generation)
        waiting = delta_store.queue_unresolved(connection, generation)
        store.set_loaded(connection, generation.id)
    with database.connection() as connection:
        store.vacuum_tables(
            connection,
            [
                generation.table_name,
                f"generation_version_{generation.id}",
                f"posting_{generation.chunker_id}",
                "version_chunk",
                "chunk",
                "document",
                "document_version",
            ],
        )
    return Moved(moved.documents, waiting, moved.inserted, moved.deleted)


def _lock_active(connection: psycopg.Connection, generation: Generation) -> None:
    state = store.lock_generation(connection, generation.id)
    if state not in store.ACTIVE_STATES:
        raise RetiredGenerationError(f"Generation {generation.id} is {state}: changes are not applied to it")


def _apply_words(connection: psycopg.Connection, generation: Generation) -> None:
    """Bring the lexical index to the chunks that are served; must run after `move_documents`."""
    analyzer = open_analyzer(generation.stemmer)
    # locked before anything is compared: another generation may be giving up a chunk that this one takes up
    statistics = lexical_store.open_lexical_index(connection, generation.chunker_id, analyzer.name)
    born = delta_store.read_born_words(connection, generation)
    dead = delta_store.read_dead_words(connection, generation)
    lexical_store.delete_lexical_chunks(connection, generation.chunker_id, [(d.id, d.length, d.term_ids) for d in dead])
    # an index built after a large load is smaller and several times faster to build than one kept up to date
    first_load = statistics.chunk_count == 0 and len(born) >= LARGE_LOAD
    if first_load:
        lexical_store.drop_posting_index(connection, generation.chunker_id)
    for position in range(0, len(born), LEXICAL_BATCH):
        batch = born[position : position + LEXICAL_BATCH]
        chunks = _count_words(connection, generation.chunker_id, analyzer, batch)
        lexical_store.insert_lexical_chunks(connection, generation.chunker_id, chunks)
    lexical_store.create_posting_index(connection, generation.chunker_id)


def _count_words(
    connection: psycopg.Connection, chunker_id: int, analyzer: Analyzer, batch: list[BornChunk]
) -> list[LexicalChunk]:
    counted = [analyzer.count_terms(embedded_text(c.title, c.heading_path, c.text)) for c in batch]
    terms = sorted({term for counts in counted for term in counts})
    numbers = lexical_store.ensure_terms(connection, chunker_id, terms)
    return [
        LexicalChunk(
            chunk.id,
            counts.total(),
            [numbers[term] for term in counts],
            [min(n, LARGEST_FREQUENCY) for n in counts.values()],
        )
        for chunk, counts in zip(batch, counted, strict=True)
    ]
