"""The SQL of the BM25 tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import sql

from rag_pipeline.index.store import QUERIES

POSTING_FIELDS = (
    ("chunker", ">i4"),
    ("term", ">i4"),
    ("chunk", ">i8"),
    ("frequency", ">i2"),
    ("length", ">i4"),
)
LEXICAL_CHUNK_TYPES = ("int4", "int8", "int4", "int4[]", "int2[]")


@dataclass(frozen=True)
class LexicalStatistics:
    """What BM25 needs of the collection: number of chunks, and their total length in terms."""

    analyzer: str
    chunk_count: int
    total_length: int

    @property
    def average_length(self) -> float:
        return self.total_length / self.chunk_count if self.chunk_count else 1.0


@dataclass(frozen=True)
class Term:
    """A term of the index and in how many chunks it occurs."""

    term: str
    id: int
    chunk_count: int


@dataclass(frozen=True)
class LexicalChunk:
    """The terms of one chunk: parallel lists of term ids and frequencies; length is their sum."""

    chunk_id: int
    length: int
    term_ids: list[int]
    frequencies: list[int]


def open_lexical_index(connection: psycopg.Connection, chunker_id: int, analyzer: str) -> LexicalStatistics:
    """Create the index of a chunker if need be, and lock it until the transaction ends."""
    QUERIES.ensure_lexical_index(connection, chunker_id=chunker_id, analyzer=analyzer)
    statistics = LexicalStatistics(*QUERIES.lock_lexical_index(connection, chunker_id=chunker_id))
    connection.execute(
        sql.SQL("create table if not exists rag.{} partition of rag.posting for values in ({})").format(
            sql.Identifier(f"posting_{chunker_id}"), sql.Literal(chunker_id)
        )
    )
    return statistics


def read_lexical_statistics(connection: psycopg.Connection, chunker_id: int) -> LexicalStatistics | None:
    """The statistics of a chunker's index, or None where nothing was indexed yet."""
    row = QUERIES.read_lexical_index(connection, chunker_id=chunker_id)
    return LexicalStatistics(*row) if row else None


def ensure_terms(connection: psycopg.Connection, chunker_id: int, terms: Sequence[str]) -> dict[str, int]:
    """The numbers of some terms, new ones included."""
    QUERIES.ensure_terms(connection, chunker_id=chunker_id, terms=list(terms))
    return {t.term: t.id for t in read_terms(connection, chunker_id, terms)}


def read_terms(connection: psycopg.Connection, chunker_id: int, terms: Sequence[str]) -> list[Term]:
    """Those of the terms that the index knows."""
    return [Term(*row) for row in QUERIES.read_terms(connection, chunker_id=chunker_id, terms=list(terms))]


def drop_posting_index(connection: psycopg.Connection, chunker_id: int) -> None:
    """Before a large load into empty postings."""
    connection.execute(sql.SQL("drop index if exists rag.{}").format(sql.Identifier(f"posting_{chunker_id}_term")))


def create_posting_index(connection: psycopg.Connection, chunker_id: int) -> None:
    """The index a search reads alone: term, chunk, and all that the score needs. Does nothing where it is there.

    Looked up first: even 'create index if not exists' takes a lock that a vacuum would wait for.
    """
    name = f"rag.posting_{chunker_id}_term"
    row = connection.execute("select to_regclass(%s) is null", (name,)).fetchone()
    if row is not None and not row[0]:
        return
    connection.execute(
        sql.SQL("create unique index {} on rag.{} (term_id, chunk_id) include (frequency, length)").format(
            sql.Identifier(f"posting_{chunker_id}_term"), sql.Identifier(f"posting_{chunker_id}")
        )
    )


def insert_lexical_chunks(connection: psycopg.Connection, chunker_id: int, chunks: Sequence[LexicalChunk]) -> None:
    """Write chunks and their postings, and add them to the statistics."""
    if not chunks:
        return
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy rag.lexical_chunk (chunker_id, chunk_id, length, term_ids, frequencies) from stdin (format binary)"
        ) as copy,
    ):
        copy.set_types(LEXICAL_CHUNK_TYPES)
        for c in chunks:
            copy.write_row((chunker_id, c.chunk_id, c.length, c.term_ids, c.frequencies))
    with (
        connection.cursor() as cursor,
        cursor.copy(
            sql.SQL("copy rag.{} (chunker_id, term_id, chunk_id, frequency, length) from stdin (format binary)").format(
                sql.Identifier(f"posting_{chunker_id}")
            )
        ) as copy,
    ):
        copy.write(encode_postings(chunker_id, chunks))
    _shift(connection, [term for c in chunks for term in c.term_ids], +1)
    QUERIES.shift_lexical_index(
        connection, chunker_id=chunker_id, chunks=len(chunks), length=sum(c.length for c in chunks)
    )


def encode_postings(chunker_id: int, chunks: Sequence[LexicalChunk]) -> bytes:
    """Postings in PostgreSQL's binary COPY format, sorted by term, built by numpy.

    Format: https://www.postgresql.org/docs/18/sql-copy.html#id-1.9.3.55.9.4
    """
    sizes = [len(c.term_ids) for c in chunks]
    terms = np.concatenate([np.asarray(c.term_ids, dtype=np.int32) for c in chunks])
    order = np.argsort(terms, kind="stable")
    layout = np.dtype(
        [
            ("fields", ">i2"),
            *(field for name, kind in POSTING_FIELDS for field in ((f"{name}_size", ">i4"), (name, kind))),
        ]
    )
    rows = np.zeros(len(terms), dtype=layout)
    rows["fields"] = len(POSTING_FIELDS)
    for name, kind in POSTING_FIELDS:
        rows[f"{name}_size"] = np.dtype(kind).itemsize
    rows["chunker"] = chunker_id
    rows["term"] = terms[order]
    rows["chunk"] = np.repeat(np.asarray([c.chunk_id for c in chunks], dtype=np.int64), sizes)[order]
    rows["frequency"] = np.concatenate([np.asarray(c.frequencies, dtype=np.int16) for c in chunks])[order]
    rows["length"] = np.repeat(np.asarray([c.length for c in chunks], dtype=np.int32), sizes)[order]
    return b"PGCOPY\n\xff\r\n\x00" + bytes(8) + rows.tobytes() + b"\xff\xff"


def delete_lexical_chunks(
    connection: psycopg.Connection, chunker_id: int, dead: Sequence[tuple[int, int, list[int]]]
) -> None:
    """Remove (chunk id, length, term ids) and their postings, and take them off the statistics."""
    if not dead:
        return
    term_ids = [term for _, _, terms in dead for term in terms]
    QUERIES.delete_postings(
        connection,
        chunker_id=chunker_id,
        chunk_ids=[chunk for chunk, _, terms in dead for _ in terms],
        term_ids=term_ids,
    )
    QUERIES.delete_lexical_chunks(connection, chunker_id=chunker_id, chunk_ids=[chunk for chunk, _, _ in dead])
    _shift(connection, term_ids, -1)
    QUERIES.shift_lexical_index(
        connection, chunker_id=chunker_id, chunks=-len(dead), length=-sum(length for _, length, _ in dead)
    )


def _shift(connection: psycopg.Connection, term_ids: Sequence[int], sign: int) -> None:
    ids, counts = np.unique(np.asarray(term_ids, dtype=np.int64), return_counts=True)
    if len(ids):
        QUERIES.shift_term_counts(connection, term_ids=ids.tolist(), shifts=(sign * counts).tolist())


def find_wrong_words(connection: psycopg.Connection, chunker_id: int) -> list[int]:
    """Chunks whose words nobody serves, or whose postings differ from their words. A pass over all postings."""
    return [row[0] for row in QUERIES.wrong_words(connection, chunker_id=chunker_id)]


def count_lost_words(connection: psycopg.Connection, chunker_id: int) -> int:
    """Chunks in the temporary table `served` whose words the index does not know."""
    return len(list(QUERIES.lost_words(connection, chunker_id=chunker_id)))


def count_wrong_statistics(connection: psycopg.Connection, chunker_id: int) -> int:
    """Terms and totals that are not what a recount gives."""
    return int(QUERIES.wrong_statistics(connection, chunker_id=chunker_id))


def forget_wrong_words(connection: psycopg.Connection, chunker_id: int) -> None:
    """Delete what `find_wrong_words` finds and recount the statistics; what is served must be indexed again."""
    QUERIES.lock_lexical_index(connection, chunker_id=chunker_id)
    wrong = find_wrong_words(connection, chunker_id)
    if wrong:
        QUERIES.delete_lexical_chunks(connection, chunker_id=chunker_id, chunk_ids=wrong)
        QUERIES.forget_postings(connection, chunker_id=chunker_id, chunk_ids=wrong)
    QUERIES.recount_terms(connection, chunker_id=chunker_id)
    QUERIES.recount_lexical_index(connection, chunker_id=chunker_id)


def forget_orphaned_words(connection: psycopg.Connection, chunker_id: int) -> int:
    """Remove the words of chunks that no generation serves; returns how many chunks. Waits for other appliers.

    A chunker that nothing serves any more loses its words whole, without a pass over them.
    """
    if QUERIES.lock_lexical_index(connection, chunker_id=chunker_id) is None:
        return 0
    if QUERIES.serves_chunker(connection, chunker_id=chunker_id):
        dead = [(row[0], row[1], row[2]) for row in QUERIES.orphaned_words(connection, chunker_id=chunker_id)]
        delete_lexical_chunks(connection, chunker_id, dead)
        return len(dead)
    connection.execute(sql.SQL("truncate rag.{}").format(sql.Identifier(f"posting_{chunker_id}")))
    gone = int(QUERIES.forget_all_words(connection, chunker_id=chunker_id))
    QUERIES.forget_all_terms(connection, chunker_id=chunker_id)
    QUERIES.recount_lexical_index(connection, chunker_id=chunker_id)
    return gone
