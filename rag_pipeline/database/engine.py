"""Connections: which server, is it new enough, is it migrated; and the one pool of a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import set_json_loads
from sqlalchemy import URL, Engine, create_engine, event, make_url

from rag_pipeline.database.embedded import start_embedded_server
from rag_pipeline.database.migrations import apply_migrations
from rag_pipeline.errors import ExpectedError
from rag_pipeline.settings import Settings

OLDEST_POSTGRESQL = 160_000
OLDEST_PGVECTOR = (0, 8)
DATABASE_NAME = "rag"
DAGSTER_DATABASE_NAME = "dagster"


class DatabaseError(ExpectedError):
    """The database cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Database:
    """A migrated database and its connection pool."""

    url: URL
    engine: Engine

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """A pooled psycopg connection outside any transaction: each statement commits by itself."""
        with self.engine.connect() as pooled:
            driver = pooled.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            try:
                yield driver
            finally:
                if driver.closed:  # the server went away: the pool's other connections are dead too
                    pooled.invalidate()
                    self.engine.dispose(close=False)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """A pooled psycopg connection inside one transaction: committed at the end, rolled back on an error."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection]:
        """A connection of its own, closed afterwards: for session locks and session settings."""
        connection = psycopg.connect(driver_url(self.url), autocommit=True)
        try:
            prepare_connection(connection)
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def driver_url(url: URL) -> str:
    """The URL as libpq reads it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def dagster_url(url: URL) -> str:
    """The URL as dagster-postgres needs it: a bare `postgresql://` would select psycopg 3, which it cannot use."""
    return url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


def server_url(settings: Settings) -> tuple[URL, bool]:
    """The product database's URL, and whether the server is the embedded one (started if need be)."""
    if settings.database_url is not None:
        try:
            url = make_url(settings.database_url.get_secret_value())
        except Exception as error:
            raise DatabaseError(
                "RAG_DATABASE_URL is not a database URL; it looks like postgresql://user:password@host:5432/name"
            ) from error
        if not url.drivername.startswith("postgres"):
            raise DatabaseError(f"RAG_DATABASE_URL names {url.drivername}; only PostgreSQL is supported")
        return url.set(drivername="postgresql"), False
    return make_url(start_embedded_server(settings.home)).set(database=DATABASE_NAME), True


def ensure_database(url: URL, name: str) -> None:
    """Create database `name` on the server of `url` unless it exists (two starters may race)."""
    with _connect(url.set(database="postgres")) as connection:
        exists = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
        if exists is None:
            try:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                pass  # the other starter won
            except psycopg.errors.InsufficientPrivilege as error:
                raise DatabaseError(
                    f"This role may not create database {name!r}. Create it, or set RAG_DAGSTER_DATABASE_URL."
                ) from error


def _connect(url: URL) -> psycopg.Connection:
    try:
        return psycopg.connect(driver_url(url), autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise DatabaseError(
            f"Cannot connect to {url.render_as_string(hide_password=True)}: {str(error).strip()}. "
            "Check RAG_DATABASE_URL; unset it to use the embedded server."
        ) from error


def check_server(connection: psycopg.Connection) -> None:
    """Raise `DatabaseError` if the server or its pgvector is too old or absent; the message names the fix."""
    version = connection.info.server_version
    if version < OLDEST_POSTGRESQL:
        raise DatabaseError(
            f"PostgreSQL {version // 10_000} is too old: 16 or newer is needed. "
            "Upgrade it, or unset RAG_DATABASE_URL to use the embedded server."
        )
    row = connection.execute(
        "select coalesce((select extversion from pg_extension where extname = 'vector'),"
        " (select default_version from pg_available_extensions where name = 'vector'))"
    ).fetchone()
    found = row[0] if row else None
    if found is None:
        raise DatabaseError(
            "This server has no pgvector. Install it (Debian: postgresql-NN-pgvector; or the image pgvector/pgvector), "
            "or unset RAG_DATABASE_URL to use the embedded server."
        )
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_PGVECTOR:
        raise DatabaseError(
            f"pgvector {found} is too old: 0.8 or newer is needed for iterative scans. "
            "Install it and run: alter extension vector update"
        )


def prepare_connection(connection: psycopg.Connection) -> None:
    """What every connection of ours needs: pgvector's types, and neither JIT nor parallel plans.

    Both cost a search more than they give it; index builds have workers of their own.
    """
    from pgvector.psycopg import register_vector

    register_vector(connection)
    set_json_loads(orjson.loads, connection)
    connection.execute(
        "select set_config('jit', 'off', false), set_config('max_parallel_workers_per_gather', '0', false)"
    )


def open_database(settings: Settings) -> Database:
    """Start the server if it is ours, check it, migrate it, and return its pool. Raises `DatabaseError`."""
    url, embedded = server_url(settings)
    if embedded:
        ensure_database(url, DATABASE_NAME)
    with _connect(url) as connection:
        check_server(connection)
        apply_migrations(connection)
        _fix_parameter(connection, "buckets", str(settings.buckets))
    return Database(url, _create_engine(url, settings.pool_size))


def _create_engine(url: URL, pool_size: int) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=False,
        pool_reset_on_return=None,
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: psycopg.Connection, _record: object) -> None:
        connection.autocommit = True
        prepare_connection(connection)

    return engine


def _fix_parameter(connection: psycopg.Connection, name: str, value: str) -> None:
    connection.execute("insert into rag.parameter (name, value) values (%s, %s) on conflict do nothing", (name, value))
    row = connection.execute("select value from rag.parameter where name = %s", (name,)).fetchone()
    if row is None or row[0] != value:
        raise DatabaseError(
            f"RAG_{name.upper()} is {value}, but this database was set up with {row and row[0]}, "
            "which cannot change later. Set it back."
        )


def dagster_storage_url(settings: Settings) -> str:
    """Dagster's storage URL: its own database on the same server, created if need be."""
    if settings.dagster_database_url is not None:
        return dagster_url(make_url(settings.dagster_database_url.get_secret_value()))
    url, _ = server_url(settings)
    ensure_database(url, DAGSTER_DATABASE_NAME)
    return dagster_url(url.set(database=DAGSTER_DATABASE_NAME))


__all__ = ["Database", "DatabaseError", "dagster_storage_url", "driver_url", "open_database"]
