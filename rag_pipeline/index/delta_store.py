"""The SQL of deltas: from documents that changed to rows of one generation's tables, set by set.

Every function runs inside the applier's one transaction, in the order in which they stand here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from rag_pipeline.index.store import QUERIES, Generation


@dataclass(frozen=True)
class BornChunk:
    """A chunk whose words are new to the lexical index."""

    id: int
    title: str
    heading_path: list[str]
    text: str


@dataclass(frozen=True)
class DeadChunk:
    """A chunk whose words leave the lexical index."""

    id: int
    length: int
    term_ids: list[int]


@dataclass(frozen=True)
class Moved:
    """What a delta did: documents moved and left waiting, rows inserted into and deleted from the index."""

    documents: int = 0
    waiting: int = 0
    inserted: int = 0
    deleted: int = 0


def take_pending(
    connection: psycopg.Connection, generation: Generation, after: int, most: int
) -> tuple[int, int | None]:
    """Take queued changes behind position `after`; returns how many documents they touch, and the last position."""
    QUERIES.take_pending(connection)
    QUERIES.fill_taken(connection, generation_id=generation.id, after=after, most=most)
    return int(QUERIES.fill_touched_from_taken(connection)), QUERIES.last_taken(connection)


def take_everything(connection: psycopg.Connection) -> int:
    """Take every document there is, for a first load; returns how many."""
    QUERIES.take_pending(connection)
    return int(QUERIES.fill_touched_from_all(connection))


def move_documents(connection: psycopg.Connection, generation: Generation, touched: int) -> Moved:
    """Bring what was taken to its target: which versions are served, which rows the index table has."""
    # without statistics a temporary table of one row is planned as one of thousands
    QUERIES.analyze_touched(connection)
    targets = QUERIES.create_target(connection, chunker_id=generation.chunker_id, space_id=generation.space_id)
    QUERIES.analyze_target(connection)
    QUERIES.create_affected(connection, generation_id=generation.id, chunker_id=generation.chunker_id)
    QUERIES.analyze_affected(connection)
    removed = QUERIES.remove_generation_versions(connection, generation_id=generation.id)
    added = QUERIES.insert_generation_versions(connection, generation_id=generation.id)
    QUERIES.create_dead(connection, generation_id=generation.id, chunker_id=generation.chunker_id)
    table = sql.Identifier(generation.table_name)
    deleted = connection.execute(
        sql.SQL("delete from rag.{} i using dead d where i.chunk_id = d.chunk_id").format(table)
    ).rowcount
    inserted = connection.execute(
        sql.SQL(
            "insert into rag.{table} (chunk_id, tenant, embedding)"
            " select a.chunk_id, a.tenant, e.vector::{type}({dimension})"
            " from affected a"
            " join rag.embedding e on e.space_id = {space} and e.chunk_id = a.chunk_id"
            " where not exists (select from dead d where d.chunk_id = a.chunk_id)"
            " and not exists (select from rag.{table} i where i.chunk_id = a.chunk_id)"
            " order by a.chunk_id"
        ).format(
            table=table,
            type=sql.Identifier(generation.index_recipe.vector_type),
            dimension=sql.Literal(generation.dimension),
            space=sql.Literal(generation.space_id),
        )
    ).rowcount
    return Moved(max(removed, added), touched - targets, inserted, deleted)


def read_dead_words(connection: psycopg.Connection, generation: Generation) -> list[DeadChunk]:
    """Chunks whose words must leave the lexical index."""
    rows = QUERIES.dead_everywhere(connection, chunker_id=generation.chunker_id)
    return [DeadChunk(*row) for row in rows]


def read_born_words(connection: psycopg.Connection, generation: Generation) -> list[BornChunk]:
    """Chunks whose words must enter the lexical index."""
    rows = QUERIES.born_for_words(connection, chunker_id=generation.chunker_id)
    return [BornChunk(*row) for row in rows]


def read_unindexed_texts(
    connection: psycopg.Connection, generation: Generation, chunk_ids: Sequence[int]
) -> list[BornChunk]:
    """Those of the chunks that the lexical index does not hold, with their texts."""
    rows = QUERIES.read_unindexed_texts(connection, chunker_id=generation.chunker_id, chunk_ids=list(chunk_ids))
    return [BornChunk(*row) for row in rows]


def finish_pending(connection: psycopg.Connection) -> int:
    """Delete the queued changes that were resolved; those that could not move stay queued."""
    return int(QUERIES.finish_taken(connection))


def queue_unresolved(connection: psycopg.Connection, generation: Generation) -> int:
    """After a first load, queue the documents that could not move yet."""
    return int(QUERIES.queue_unresolved(connection, generation_id=generation.id))
