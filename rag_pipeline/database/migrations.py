"""Numbered SQL migrations, applied once each under an advisory lock."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg

from rag_pipeline.database.files import sql_folder
from rag_pipeline.errors import ExpectedError

MIGRATION_LOCK = 7461000
FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class MigrationError(ExpectedError):
    """The database's history and the files disagree; the message names the migration."""


@dataclass(frozen=True)
class Migration:
    """One file under sql/migrations."""

    number: int
    name: str
    sha256: str
    sql: str


def read_migrations(folder: Path | None = None) -> list[Migration]:
    """All migrations in order. Raises `MigrationError` for a gap or a misnamed file."""
    migrations = []
    for path in sorted((folder or sql_folder() / "migrations").glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named NNNN_words.sql")
        sql = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(sql.encode()).hexdigest()
        migrations.append(Migration(int(match[1]), path.stem, digest, sql))
    if [m.number for m in migrations] != list(range(1, len(migrations) + 1)):
        raise MigrationError(f"Migrations are not numbered 1 to {len(migrations)} without a gap")
    return migrations


def pending_migrations(migrations: list[Migration], applied: dict[int, str]) -> list[Migration]:
    """Those not applied yet. Raises `MigrationError` if an applied file changed or is gone."""
    known = {m.number: m for m in migrations}
    for number, digest in applied.items():
        if number not in known:
            raise MigrationError(
                f"The database has migration {number}, which this version does not know: "
                "it was written by a newer rag_pipeline. Upgrade the package."
            )
        if known[number].sha256 != digest:
            raise MigrationError(
                f"Migration {known[number].name} changed after it was applied. "
                "Restore the file and put the change into a new migration."
            )
    return [m for m in migrations if m.number not in applied]


def apply_migrations(connection: psycopg.Connection, folder: Path | None = None) -> list[str]:
    """Bring the database up to date and return the names applied. Safe when several processes start at once."""
    migrations = read_migrations(folder)
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        connection.execute("create schema if not exists rag")
        connection.execute(
            "create table if not exists rag.migration (number int primary key, name text not null,"
            " sha256 text not null, applied_at timestamptz not null default clock_timestamp())"
        )
        rows = connection.execute("select number, sha256 from rag.migration").fetchall()
        todo = pending_migrations(migrations, dict(rows))
        for migration in todo:
            connection.execute(migration.sql)  # type: ignore[call-overload]
            connection.execute(
                "insert into rag.migration (number, name, sha256) values (%s, %s, %s)",
                (migration.number, migration.name, migration.sha256),
            )
    return [m.name for m in todo]
