"""The SQL of generations and of their tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from rag_pipeline.database.files import load_queries
from rag_pipeline.index.recipe import IndexRecipe

QUERIES = load_queries("index")
ACTIVE_STATES = ("building", "ready", "serving", "soaking")


@dataclass(frozen=True)
class Generation:
    """An immutable recipe with its own table and index. `space_id` names the ledger its vectors come from."""

    id: int
    model_id: int
    model: str
    space_id: int
    dimension: int
    chunker_id: int
    recipe: dict[str, Any]
    state: str
    table_name: str
    loaded_at: datetime | None
    metrics: dict[str, Any]
    created_at: datetime

    @property
    def index_recipe(self) -> IndexRecipe:
        return IndexRecipe(**self.recipe["index"])

    @property
    def stemmer(self) -> str:
        return str(self.recipe["stemmer"])

    @property
    def index_name(self) -> str:
        return f"{self.table_name}_hnsw"


@dataclass(frozen=True)
class IndexState:
    """What the catalogue says of an HNSW index."""

    valid: bool
    bytes: int


@dataclass(frozen=True)
class Pending:
    """Documents a generation has not caught up with, and since when."""

    documents: int
    oldest: datetime | None


def create_generation(
    connection: psycopg.Connection, model_id: int, chunker_id: int, dimension: int, recipe: dict[str, Any]
) -> int:
    """Create a building generation with its empty tables. Raises UniqueViolation while another one builds."""
    number = int(QUERIES.insert_generation(connection, model_id=model_id, chunker_id=chunker_id, recipe=Jsonb(recipe)))
    table = f"index_{number}"
    column_type = sql.SQL("{}({})").format(
        sql.Identifier(IndexRecipe(**recipe["index"]).vector_type), sql.Literal(dimension)
    )
    connection.execute(
        sql.SQL(
            "create table rag.{} (chunk_id bigint primary key, tenant text not null, embedding {} not null)"
        ).format(sql.Identifier(table), column_type)
    )
    connection.execute(
        sql.SQL("create index on rag.{} (tenant)").format(sql.Identifier(table))
    )  # tells a search at once whether there is more than one
    # attached and not created in place: that would make every search wait behind the longest reader there is
    versions = sql.Identifier(f"generation_version_{number}")
    connection.execute(sql.SQL("create table rag.{} (like rag.generation_version including all)").format(versions))
    connection.execute(
        sql.SQL("alter table rag.generation_version attach partition rag.{} for values in ({})").format(
            versions, sql.Literal(number)
        )
    )
    QUERIES.set_table_name(connection, id=number, table_name=table)
    return number


def wait_for_writers(connection: psycopg.Connection) -> None:
    """Return once every transaction that could have missed a new generation has ended."""
    with connection.transaction():
        list(QUERIES.wait_for_writers(connection))


def read_generation(connection: psycopg.Connection, number: int) -> Generation | None:
    """The generation of that number, or None."""
    row = QUERIES.read_generation(connection, id=number)
    return Generation(*row) if row else None


def list_generations(
    connection: psycopg.Connection, states: Sequence[str] = (*ACTIVE_STATES, "retired", "failed")
) -> list[Generation]:
    """Generations in some of the states, oldest first."""
    return [Generation(*row) for row in QUERIES.list_generations(connection, states=list(states))]


def find_candidate(connection: psycopg.Connection, model: str) -> Generation | None:
    """The generation of a model that a cutover would be about: the newest ready one, else the one that serves, else
    the newest that soaks."""
    order = ("ready", "serving", "soaking")
    own = [g for g in list_generations(connection, order) if g.model == model]
    return min(own, key=lambda g: (order.index(g.state), -g.id), default=None)


def lock_generation(connection: psycopg.Connection, number: int) -> str:
    """Lock a generation against other appliers until the transaction ends; returns its state."""
    return str(QUERIES.lock_generation(connection, id=number))


def lock_build(connection: psycopg.Connection, number: int) -> None:
    """Keep other builders of a generation's index out until this session ends; waits for one that builds."""
    list(QUERIES.lock_build(connection, id=number))


def set_state(connection: psycopg.Connection, number: int, state: str) -> None:
    """Move a generation to a state."""
    QUERIES.set_state(connection, id=number, state=state)


def set_loaded(connection: psycopg.Connection, number: int) -> None:
    """Record that the table holds everything there was to load."""
    QUERIES.set_loaded(connection, id=number)


def merge_metrics(connection: psycopg.Connection, number: int, metrics: dict[str, Any]) -> None:
    """Add figures to a generation's metrics."""
    QUERIES.merge_metrics(connection, id=number, metrics=Jsonb(metrics))


def count_churn(connection: psycopg.Connection, number: int, inserted: int, deleted: int) -> None:
    """Add to the rows that came and went since the generation's index was built."""
    QUERIES.count_churn(connection, id=number, inserted=inserted, deleted=deleted)


def count_pending(connection: psycopg.Connection) -> dict[int, Pending]:
    """The queue by generation."""
    return {row[0]: Pending(row[1], row[2]) for row in QUERIES.count_pending(connection)}


def read_index_state(connection: psycopg.Connection, generation: Generation) -> IndexState | None:
    """The state of the generation's HNSW index, or None where there is none."""
    row = QUERIES.index_state(connection, index_name=generation.index_name)
    return IndexState(*row) if row else None


def follows_recipe(connection: psycopg.Connection, generation: Generation) -> bool:
    """Whether the generation's index is what its recipe says: HNSW, type, dimension, distance, m, ef_construction."""
    recipe = generation.index_recipe
    wanted = (
        "hnsw",
        recipe.operator_class,
        f"{recipe.vector_type}({generation.dimension})",
        {f"m={recipe.m}", f"ef_construction={recipe.ef_construction}"},
    )
    row = QUERIES.index_definition(connection, index_name=generation.index_name)
    return row is not None and (*row[:3], set(row[3])) == wanted


def count_rows(connection: psycopg.Connection, generation: Generation) -> int:
    """Rows in the generation's table."""
    row = connection.execute(
        sql.SQL("select count(*) from rag.{}").format(sql.Identifier(generation.table_name))
    ).fetchone()
    return int(row[0]) if row else 0


def count_zero_vectors(connection: psycopg.Connection, generation: Generation) -> int:
    """Rows of the generation's table whose vector has no direction; costs a pass over it."""
    row = connection.execute(
        sql.SQL("select count(*) from rag.{} where l2_norm(embedding) = 0").format(
            sql.Identifier(generation.table_name)
        )
    ).fetchone()
    return int(row[0]) if row else 0


def drop_index(connection: psycopg.Connection, generation: Generation) -> None:
    """Drop the generation's HNSW index, if there is one."""
    connection.execute(sql.SQL("drop index if exists rag.{}").format(sql.Identifier(generation.index_name)))


def create_index(connection: psycopg.Connection, generation: Generation) -> None:
    """Build the HNSW index. In one transaction: a build that is killed leaves nothing behind."""
    recipe = generation.index_recipe
    connection.execute(
        sql.SQL("create index {} on rag.{} using hnsw (embedding {}) with (m = {}, ef_construction = {})").format(
            sql.Identifier(generation.index_name),
            sql.Identifier(generation.table_name),
            sql.Identifier(recipe.operator_class),
            sql.Literal(recipe.m),
            sql.Literal(recipe.ef_construction),
        )
    )


def detach_versions(connection: psycopg.Connection, number: int, longest_seconds: float) -> None:
    """Take a retired generation's list of versions out of the table that every search reads, and stall none of them.

    Waits for whoever reads it now, up to `longest_seconds` (then raises LockNotAvailable), and goes on where it was
    cut short. Not inside a transaction; leaves the session's lock_timeout set.
    """
    name = f"generation_version_{number}"
    pending = QUERIES.is_detach_pending(connection, name=name)
    if pending is None:
        return
    QUERIES.limit_session_lock_wait(connection, milliseconds=str(int(longest_seconds * 1000)))
    connection.execute(
        sql.SQL("alter table rag.generation_version detach partition rag.{} {}").format(
            sql.Identifier(name), sql.SQL("finalize" if pending else "concurrently")
        )
    )


def drop_generation_tables(connection: psycopg.Connection, generation: Generation) -> None:
    """Drop a retired generation's tables; the ledger keeps its vectors."""
    connection.execute(sql.SQL("drop table if exists rag.{}").format(sql.Identifier(generation.table_name)))
    connection.execute(
        sql.SQL("drop table if exists rag.{}").format(sql.Identifier(f"generation_version_{generation.id}"))
    )
    QUERIES.drop_pending(connection, generation_id=generation.id)


def vacuum_tables(connection: psycopg.Connection, tables: Sequence[str]) -> None:
    """VACUUM (ANALYZE) after a load: index-only scans and the planner need it. Not inside a transaction."""
    for table in tables:
        connection.execute(sql.SQL("vacuum (analyze) rag.{}").format(sql.Identifier(table)))


def list_soaked(connection: psycopg.Connection, hours: float) -> list[int]:
    """Generations that were replaced at least so many hours ago."""
    return [row[0] for row in QUERIES.list_soaked(connection, hours=hours)]


def list_undropped(connection: psycopg.Connection) -> list[int]:
    """Retired generations whose tables are still there: a retirement was cut short."""
    return [row[0] for row in QUERIES.list_undropped(connection)]


def forget_served(connection: psycopg.Connection, number: int) -> None:
    """Empty a retired generation's list of versions and its queue: it holds on to no words any more."""
    QUERIES.forget_served(connection, generation_id=number)
    QUERIES.drop_pending(connection, generation_id=number)


def limit_lock_wait(connection: psycopg.Connection, milliseconds: int) -> None:
    """Give up after so long instead of making others queue behind a lock; until the transaction ends."""
    list(QUERIES.limit_lock_wait(connection, milliseconds=milliseconds))
