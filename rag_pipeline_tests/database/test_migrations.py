"""Migrations: applied once each, in order, by one of several starters; a history that disagrees is refused."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from rag_pipeline.database.engine import driver_url
from rag_pipeline.database.files import sql_folder
from rag_pipeline.database.migrations import (
    Migration,
    MigrationError,
    apply_migrations,
    pending_migrations,
    read_migrations,
)
from rag_pipeline_tests.conftest import Server

SCHEMA = """
    select c.relname, c.relkind, pg_get_expr(c.relpartbound, c.oid), obj_description(c.oid),
           (select array_agg(row (a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                                  a.attidentity, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
                              order by a.attnum)::text
            from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
           (select array_agg(row (k.conname, pg_get_constraintdef(k.oid)) order by k.conname)::text
            from pg_constraint k where k.conrelid = c.oid),
           (select array_agg(pg_get_triggerdef(t.oid) order by t.tgname)::text from pg_trigger t
            where t.tgrelid = c.oid and not t.tgisinternal),
           case when c.relkind = 'i' then pg_get_indexdef(c.oid) end,
           c.relrowsecurity, c.relforcerowsecurity, c.relacl::text
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'rag' order by c.relname
"""
FUNCTIONS = (
    "select proname, pg_get_functiondef(p.oid) from pg_proc p where pronamespace = 'rag'::regnamespace order by 1"
)
START = "from rag_pipeline.settings import load_settings; from rag_pipeline.database.engine import open_database; "


@pytest.fixture
def empty(server: Server) -> Iterator[URL]:
    """A database that nothing was done to."""
    url = server.create(template="template1")
    yield url
    server.drop(url)


def connect(url: URL) -> psycopg.Connection:
    return psycopg.connect(driver_url(url), autocommit=True)


def read_schema(url: URL) -> list[object]:
    with connect(url) as connection:
        return [*connection.execute(SCHEMA).fetchall(), *connection.execute(FUNCTIONS).fetchall()]


def copy_migrations(tmp_path: Path, **more: str) -> Path:
    folder = Path(shutil.copytree(sql_folder() / "migrations", tmp_path / "migrations"))
    for name, text in more.items():
        (folder / f"{name}.sql").write_text(text)
    return folder


def test_a_database_migrated_step_by_step_equals_a_fresh_one(server: Server, empty: URL, tmp_path: Path) -> None:
    whole = sorted((sql_folder() / "migrations").glob("*.sql"))
    folder = tmp_path / "grows"
    folder.mkdir()
    for path in whole:
        shutil.copy(path, folder)
        with connect(empty) as connection:
            assert apply_migrations(connection, folder) == [path.stem]
    fresh = server.create(template="template1")
    with connect(fresh) as connection:
        assert apply_migrations(connection) == [path.stem for path in whole]
    schema = read_schema(fresh)
    assert len(schema) > 40
    assert read_schema(empty) == schema
    server.drop(fresh)


def test_a_second_start_applies_nothing(empty: URL) -> None:
    with connect(empty) as connection:
        assert len(apply_migrations(connection)) > 0
        assert apply_migrations(connection) == []


def test_a_changed_applied_file_is_refused_and_named(empty: URL, tmp_path: Path) -> None:
    folder = copy_migrations(tmp_path)
    with connect(empty) as connection:
        apply_migrations(connection, folder)
        first = sorted(folder.glob("*.sql"))[0]
        first.write_text(first.read_text() + "-- a word more\n")
        with pytest.raises(MigrationError, match=f"{first.stem} changed after it was applied.*new migration"):
            apply_migrations(connection, folder)


def test_a_newer_database_is_refused_with_the_way_out(empty: URL, tmp_path: Path) -> None:
    number = len(read_migrations()) + 1
    folder = copy_migrations(tmp_path, **{f"{number:04}_from_the_future": "create table rag.future ()"})
    with connect(empty) as connection:
        assert apply_migrations(connection, folder)[-1].endswith("from_the_future")
        with pytest.raises(MigrationError, match=f"migration {number}, which this version does not know.*Upgrade"):
            apply_migrations(connection)


def test_a_migration_that_fails_leaves_nothing_of_itself(empty: URL, tmp_path: Path) -> None:
    number = len(read_migrations()) + 1
    folder = copy_migrations(tmp_path, **{f"{number:04}_bad": "create table rag.half (); select 1 / 0"})
    with connect(empty) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            apply_migrations(connection, folder)
        assert connection.execute("select to_regclass('rag.half'), to_regclass('rag.migration')").fetchone() == (
            None,
            None,
        )
        assert len(apply_migrations(connection)) == number - 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_a", "0003_b"], "not numbered 1 to 2 without a gap"),
        (["0001_a", "0001_b"], "not numbered 1 to 2 without a gap"),
        (["1_a"], "1_a.sql is not named"),
        (["0001_A"], "0001_A.sql is not named"),
    ],
)
def test_misnumbered_files_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / f"{name}.sql").write_text("select 1")
    with pytest.raises(MigrationError, match=message):
        read_migrations(tmp_path)


def test_what_is_pending_is_what_was_not_applied() -> None:
    first, second = Migration(1, "0001_a", "x", ""), Migration(2, "0002_b", "y", "")
    assert pending_migrations([first, second], {}) == [first, second]
    assert pending_migrations([first, second], {1: "x"}) == [second]
    assert pending_migrations([first, second], {1: "x", 2: "y"}) == []


def test_processes_that_start_at_once_all_succeed(server: Server, empty: URL) -> None:
    environment = {**os.environ, "RAG_DATABASE_URL": driver_url(empty), "RAG_HOME": str(server.home)}
    starters = [
        subprocess.Popen([sys.executable, "-c", START + "open_database(load_settings())"], env=environment)
        for _ in range(3)
    ]
    assert [starter.wait(timeout=60) for starter in starters] == [0, 0, 0]
    with connect(empty) as connection:
        row = connection.execute("select count(*) from rag.migration").fetchone()
    assert row == (len(read_migrations()),)
