"""The SQL of the recall watch: what to ask, exact search over a whole table, and the measurements over time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
import psycopg
from psycopg import sql

from rag_pipeline.index.store import Generation
from rag_pipeline.serving.recall import FilterShare, RecallFigure, Scope
from rag_pipeline.serving.search_store import to_parameter
from rag_pipeline.serving.store import QUERIES


@dataclass(frozen=True)
class RecallMeasurement:
    """One measurement of one generation. `scope`: all, filtered (by `subject`) or tenant (`subject`)."""

    generation: int
    model: str
    state: str
    measured_at: datetime
    scope: Scope
    subject: str
    ef_search: int
    queries: int
    recall_at_10: float
    low: float
    high: float
    p95_ms: float

    @property
    def figure(self) -> RecallFigure:
        """The measurement without whose and when it is."""
        return RecallFigure(
            self.scope,
            self.subject,
            self.ef_search,
            self.queries,
            self.recall_at_10,
            self.low,
            self.high,
            self.p95_ms,
        )


def list_logged_queries(connection: psycopg.Connection, most: int) -> list[str]:
    """Different logged queries that were asked for meaning, a repeatable random sample of them."""
    return [row[0] for row in QUERIES.list_logged_queries(connection, most=most)]


def list_filter_shares(connection: psycopg.Connection, generation: Generation, least: float) -> list[FilterShare]:
    """Metadata values and the share of the served documents that have them, at least `least`; a pass over them."""
    rows = QUERIES.list_filter_shares(connection, generation_id=generation.id, least=least)
    return [FilterShare(*row) for row in rows]


def list_tenant_sizes(connection: psycopg.Connection, generation: Generation) -> list[tuple[str, int]]:
    """(tenant, chunks) of every tenant in a generation's table."""
    statement = sql.SQL("select tenant, count(*) from rag.{} group by tenant order by tenant")
    return connection.execute(statement.format(sql.Identifier(generation.table_name))).fetchall()


def search_whole_table(
    connection: psycopg.Connection, generation: Generation, query: np.ndarray, limit: int
) -> dict[int, float]:
    """Nearest chunks by comparing with every row: cosine similarity by chunk id, best first. query: (dimension,)."""
    statement = compose_whole_table(generation, limit)
    return dict(connection.execute(statement, {"query": to_parameter(query, generation)}).fetchall())


def compose_whole_table(generation: Generation, limit: int) -> sql.Composed:
    """Ordered by similarity and not by distance: no index offers that order, whatever the planner thinks."""
    return sql.SQL(
        "select i.chunk_id, 1 - (i.embedding <=> %(query)b::{type}) as score from rag.{table} i"
        " order by score desc limit {limit}"
    ).format(
        type=sql.Identifier(generation.index_recipe.vector_type),
        table=sql.Identifier(generation.table_name),
        limit=sql.Literal(limit),
    )


def insert_recall(connection: psycopg.Connection, generation_id: int, figures: Sequence[RecallFigure]) -> None:
    """Record what one watch measured of a generation; inside a transaction all have the same time."""
    for figure in figures:
        QUERIES.insert_recall(connection, generation_id=generation_id, **asdict(figure))


def list_recall(
    connection: psycopg.Connection, generation_id: int | None = None, most: int = 1000
) -> list[RecallMeasurement]:
    """The newest measurements of a generation, or of all, oldest first."""
    rows = QUERIES.list_recall(connection, generation_id=generation_id, most=most)
    return [RecallMeasurement(*row) for row in rows]


def read_latest_recall(connection: psycopg.Connection, generation_id: int) -> list[RecallMeasurement]:
    """What the last watch of a generation measured, the unfiltered search first; empty before the first."""
    return [RecallMeasurement(*row) for row in QUERIES.latest_recall(connection, generation_id=generation_id)]
