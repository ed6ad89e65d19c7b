"""The SQL of a search. Limits are literals: with an unknown limit a prepared plan would sort the whole table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector, Vector
from psycopg import sql

from rag_pipeline.index.lexical import K1, B, WeightedTerm
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.scope import Scope, compose_joins, compose_scope

ANYTHING = sql.SQL("")
HIT_COLUMNS = sql.SQL(
    "f.score, f.vector, f.lexical, coalesce(d.external_id, d.uri), d.uri, d.id, v.title, v.ordinal, f.chunk_id,"
    " coalesce(vc.own_text, c.text) as text, vc.start_offset, vc.end_offset, vc.heading_path, v.metadata"
)


@dataclass(frozen=True)
class FoundHit:
    """A chunk in the document that holds it, with its scores."""

    score: float
    vector: float | None
    lexical: float | None
    document_id: str
    uri: str
    document_number: int
    title: str
    version: int
    chunk_id: int
    text: str
    start: int
    end: int
    heading_path: list[str]
    metadata: dict[str, Any]


def read_pointer(connection: psycopg.Connection) -> int | None:
    """The generation that serves, or None."""
    row = connection.execute("select generation_id from rag.serving").fetchone()
    return int(row[0]) if row else None


def can_be_searched(connection: psycopg.Connection, number: int) -> bool:
    """Whether a generation is there and neither retired nor failed."""
    row = connection.execute(
        "select state not in ('retired', 'failed') from rag.generation where id = %s", (number,)
    ).fetchone()
    return bool(row and row[0])


def list_tenant_bounds(connection: psycopg.Connection, generation: Generation) -> tuple[str | None, str | None]:
    """The first and the last tenant with rows in the generation's table: equal where there is only one."""
    row = connection.execute(
        sql.SQL("select min(tenant), max(tenant) from rag.{}").format(sql.Identifier(generation.table_name))
    ).fetchone()
    return row or (None, None)


def set_search_width(connection: psycopg.Connection, width: int, *, iterative: bool) -> None:
    """Set HNSW's candidate list and iterative scan for the session, unless they are set so already."""
    wanted = (width, iterative)
    if getattr(connection, "_rag_search_width", None) == wanted:
        return
    connection.execute(
        "select set_config('hnsw.ef_search', %s, false), set_config('hnsw.iterative_scan', %s, false),"
        " set_config('hnsw.max_scan_tuples', '1000000', false)",
        (str(width), "strict_order" if iterative else "off"),
    )
    connection._rag_search_width = wanted  # type: ignore[attr-defined]


def compose_nearest(generation: Generation, limit: int, condition: sql.Composable = ANYTHING) -> sql.Composed:
    """The statement every vector search is made of; its parameter `query` is a vector of the column's type."""
    return _compose_nearest(generation.table_name, generation.index_recipe.vector_type, limit, condition)


def _compose_nearest(table: str, vector_type: str, limit: int, condition: sql.Composable) -> sql.Composed:
    return sql.SQL(
        "select i.chunk_id, 1 - (i.embedding <=> %(query)b::{type}) as score from rag.{table} i {condition}"
        " order by i.embedding <=> %(query)b::{type} limit {limit}"
    ).format(
        type=sql.Identifier(vector_type),
        table=sql.Identifier(table),
        condition=condition,
        limit=sql.Literal(limit),
    )


def to_parameter(query: np.ndarray, generation: Generation) -> HalfVector | Vector:
    """The query as the column's type, so that it is sent in binary."""
    return HalfVector(query) if generation.index_recipe.vector_type == "halfvec" else Vector(query)


def search_vectors(
    connection: psycopg.Connection, generation: Generation, query: np.ndarray, limit: int
) -> dict[int, float]:
    """Nearest chunks through the HNSW index, unfiltered: cosine similarity by chunk id. query: (dimension,)."""
    rows = connection.execute(compose_nearest(generation, limit), {"query": to_parameter(query, generation)})
    return dict(rows.fetchall())


def search_vectors_exactly(
    connection: psycopg.Connection,
    generation: Generation,
    query: np.ndarray,
    limit: int,
    chunk_ids: Sequence[int],
) -> dict[int, float]:
    """Nearest among some chunks, by comparing with each of them."""
    statement = sql.SQL(
        "with allowed as materialized (select chunk_id, embedding from rag.{table} where chunk_id = any(%(ids)s))"
        " select chunk_id, 1 - (embedding <=> %(query)b::{type}) from allowed"
        " order by embedding <=> %(query)b::{type} limit {limit}"
    ).format(
        type=sql.Identifier(generation.index_recipe.vector_type),
        table=sql.Identifier(generation.table_name),
        limit=sql.Literal(limit),
    )
    return dict(
        connection.execute(statement, {"query": to_parameter(query, generation), "ids": list(chunk_ids)}).fetchall()
    )


def search_vectors_filtered(
    connection: psycopg.Connection, generation: Generation, query: np.ndarray, limit: int, scope: Scope
) -> dict[int, float]:
    """Nearest chunks in scope: the HNSW scan goes on until the limit is full."""
    joins, parameters = compose_scope(scope, generation)
    # 'offset 0' keeps this a test per candidate; as a join the planner would sort every chunk in scope
    condition = sql.SQL(
        "where exists (select 1 from rag.version_chunk vc {joins} and vc.chunk_id = i.chunk_id offset 0)"
    ).format(joins=joins)
    statement = compose_nearest(generation, limit, condition)
    return dict(connection.execute(statement, {"query": to_parameter(query, generation), **parameters}).fetchall())


def search_ledger(
    connection: psycopg.Connection, generation: Generation, query: np.ndarray, limit: int, scope: Scope
) -> dict[int, float]:
    """Nearest among all chunks in scope by the ledger's vectors, exactly: for times the index does not hold."""
    joins, parameters = compose_scope(scope, generation)
    statement = sql.SQL(
        "with allowed as materialized (select distinct vc.chunk_id from rag.version_chunk vc {joins})"
        " select e.chunk_id, 1 - (e.vector <=> %(query)b::vector) from allowed a"
        " join rag.embedding e on e.space_id = {space} and e.chunk_id = a.chunk_id"
        " order by e.vector <=> %(query)b::vector limit {limit}"
    ).format(joins=joins, space=sql.Literal(generation.space_id), limit=sql.Literal(limit))
    return dict(connection.execute(statement, {"query": Vector(query), **parameters}).fetchall())


def list_scope_chunks(
    connection: psycopg.Connection, generation: Generation, scope: Scope, most: int | None
) -> list[int]:
    """The chunks in scope; with `most`, more than `most` rows are not read on, and their list is longer than it."""
    joins, parameters = compose_scope(scope, generation)
    statement = sql.SQL("select vc.chunk_id from rag.version_chunk vc {joins}").format(joins=joins)
    if most is not None:
        statement = statement + sql.SQL(" limit {}").format(sql.Literal(most + 1))
    rows = connection.execute(statement, parameters).fetchall()
    # sorting in the database to find the doubles would read everything in scope before the first row
    return (
        list(dict.fromkeys(row[0] for row in rows)) if most is None or len(rows) <= most else [row[0] for row in rows]
    )


def search_words(
    connection: psycopg.Connection,
    generation: Generation,
    terms: Sequence[WeightedTerm],
    average_length: float,
    limit: int,
    *,
    chunk_ids: Sequence[int] | None = None,
    scope: Scope | None = None,
) -> dict[int, float]:
    """BM25 score by chunk id, best first. `chunk_ids` or `scope` narrow it down."""
    if not terms:
        return {}
    scored = sql.SQL(
        "select p.chunk_id, sum(q.weight * p.frequency * {k1_plus_1}"
        " / (p.frequency + {k1} * ({one_minus_b} + {b} * p.length / %(average)s::float8))) as score"
        " from unnest(%(terms)s::int[], %(weights)s::float8[]) as q(term_id, weight)"
        " join rag.{posting} p on p.term_id = q.term_id {only} group by p.chunk_id"
        " order by score desc, p.chunk_id"
    ).format(
        k1_plus_1=sql.Literal(K1 + 1),
        k1=sql.Literal(K1),
        one_minus_b=sql.Literal(1 - B),
        b=sql.Literal(B),
        posting=sql.Identifier(f"posting_{generation.chunker_id}"),
        only=sql.SQL("where p.chunk_id = any(%(ids)s)") if chunk_ids is not None else sql.SQL(""),
    )
    parameters: dict[str, Any] = {
        "average": average_length,
        "terms": [t.term_id for t in terms],
        "weights": [t.weight for t in terms],
    }
    if chunk_ids is not None:
        parameters["ids"] = list(chunk_ids)
    statement = scored
    if scope is not None:
        joins, more = compose_scope(scope, generation)
        parameters |= more
        statement = sql.SQL(
            "select s.chunk_id, s.score from ({scored}) s"
            " where exists (select 1 from rag.version_chunk vc {joins} and vc.chunk_id = s.chunk_id offset 0)"
        ).format(scored=scored, joins=joins)
    statement = statement + sql.SQL(" limit {}").format(sql.Literal(limit))
    return {chunk: float(score) for chunk, score in connection.execute(statement, parameters).fetchall()}


def find_hits(
    connection: psycopg.Connection,
    generation: Generation,
    scope: Scope,
    scores: Mapping[int, tuple[float, float | None, float | None]],
    limit: int,
) -> list[FoundHit]:
    """The documents in scope that hold the chunks, best first. `scores`: chunk id -> (score, vector, BM25)."""
    joins, parameters = compose_scope(scope, generation)
    statement = sql.SQL(
        "select {columns} from unnest(%(ids)s::bigint[], %(scores)s::float8[], %(vectors)s::float8[],"
        " %(words)s::float8[]) as f(chunk_id, score, vector, lexical)"
        " join rag.chunk c on c.id = f.chunk_id"
        " join rag.version_chunk vc on vc.chunk_id = f.chunk_id {joins}"
        " order by f.score desc, d.id, vc.ordinal limit {limit}"
    ).format(columns=HIT_COLUMNS, joins=joins, limit=sql.Literal(limit))
    parameters |= {
        "ids": list(scores),
        "scores": [s[0] for s in scores.values()],
        "vectors": [s[1] for s in scores.values()],
        "words": [s[2] for s in scores.values()],
    }
    return [FoundHit(*row) for row in connection.execute(statement, parameters).fetchall()]


def find_nearest_hits(
    connection: psycopg.Connection,
    generation: Generation,
    tenant: str,
    query: np.ndarray,
    width: int,
    limit: int,
) -> tuple[int | None, list[FoundHit]]:
    """Unfiltered vector search and its hits in one round trip, with the pointer in the same snapshot.

    Returns (generation that serves, hits); the caller starts again where the pointer is another one.
    """
    recipe = generation.index_recipe.vector_type
    statement = _nearest_hits(generation.id, generation.table_name, generation.chunker_id, recipe, width, limit)
    rows = connection.execute(statement, {"query": to_parameter(query, generation), "scope_tenant": tenant}).fetchall()
    pointer = rows[0][0] if rows else None
    return pointer, [FoundHit(*row[1:]) for row in rows if row[1] is not None]


@lru_cache(maxsize=256)
def _nearest_hits(number: int, table: str, chunker_id: int, vector_type: str, width: int, limit: int) -> bytes:
    """The statement, put together once: composing it anew takes longer than the database needs for the rows."""
    joins, _ = compose_joins(Scope(), number, chunker_id)
    return (
        sql.SQL(
            "with f as materialized (select n.chunk_id, n.score, n.score as vector, null::float8 as lexical"
            " from ({nearest}) n), hits as (select {columns} from f join rag.chunk c on c.id = f.chunk_id"
            " join rag.version_chunk vc on vc.chunk_id = f.chunk_id {joins}"
            " order by f.score desc, d.id, vc.ordinal limit {limit})"
            " select s.generation_id, hits.* from rag.serving s left join hits on true"
        )
        .format(
            nearest=_compose_nearest(table, vector_type, width, ANYTHING),
            columns=HIT_COLUMNS,
            joins=joins,
            limit=sql.Literal(limit),
        )
        .as_bytes(None)
    )
