"""Which servers are accepted, and what is said of those that are not."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from rag_pipeline.database import engine
from rag_pipeline.database.engine import (
    Database,
    DatabaseError,
    check_server,
    dagster_storage_url,
    ensure_database,
    open_database,
)
from rag_pipeline.settings import Settings, load_settings
from rag_pipeline_tests.conftest import Server, make_settings

OLD_SERVER = Path("/usr/lib/postgresql/15/bin")  # where Debian puts it


@pytest.fixture(scope="module")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The machine's PostgreSQL 15 without pgvector, started on a socket of its own."""
    if not (OLD_SERVER / "postgres").exists():
        pytest.skip(f"no PostgreSQL 15 under {OLD_SERVER}")
    if os.getuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    folder = Path(tempfile.gettempdir()) / f"rag-old-{os.getpid()}"  # short: a socket's path has at most 107 bytes
    folder.mkdir()
    prefix: list[str] = []
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]
    data, options = folder / "data", f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run(
        [*prefix, OLD_SERVER / "initdb", "-A", "trust", "-U", "postgres", data], check=True, capture_output=True
    )
    subprocess.run(
        [*prefix, OLD_SERVER / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    yield f"postgresql://postgres@/postgres?host={folder}"
    subprocess.run(
        [*prefix, OLD_SERVER / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=True, capture_output=True
    )
    shutil.rmtree(folder)


def test_a_server_that_is_too_old_is_refused_with_the_fix(old_server: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"PostgreSQL 15 is too old: 16.*unset RAG_DATABASE_URL"):
        open_database(load_settings(home=tmp_path, database_url=old_server))


def test_a_server_without_pgvector_is_refused_with_the_fix(
    old_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OLDEST_POSTGRESQL", 150_000)
    with pytest.raises(DatabaseError, match=r"no pgvector.*postgresql-NN-pgvector.*unset RAG_DATABASE_URL"):
        open_database(load_settings(home=tmp_path, database_url=old_server))
    with psycopg.connect(old_server) as connection:
        assert connection.execute("select to_regnamespace('rag')").fetchone() == (None,)


def test_a_pgvector_that_is_too_old_is_refused_with_the_fix(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OLDEST_PGVECTOR", (99, 0))
    with database.connection() as connection, pytest.raises(DatabaseError, match="alter extension vector update"):
        check_server(connection)


def test_the_embedded_server_is_new_enough(database: Database) -> None:
    with database.connection() as connection:
        check_server(connection)
        assert connection.info.server_version >= 180_000


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "is not a database URL; it looks like postgresql://"),
        ("mysql://x@h/d", "names mysql; only PostgreSQL is supported"),
        ("postgresql://nobody:secret@127.0.0.1:1/x", "(?s)Cannot connect to.*unset it to use the embedded server"),
    ],
)
def test_a_url_that_leads_nowhere_is_explained_without_its_password(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as caught:
        open_database(load_settings(home=tmp_path, database_url=url))
    assert "secret" not in str(caught.value)


def test_the_number_of_buckets_is_fixed_at_first_run(server: Server, settings: Settings, database: Database) -> None:
    other = make_settings(server, database.url, buckets=32)
    with pytest.raises(DatabaseError, match=r"RAG_BUCKETS is 32, but this database was set up with 16.*Set it back"):
        open_database(other)
    open_database(settings).close()


def test_a_transaction_is_all_or_nothing_and_a_connection_commits_each_statement(database: Database) -> None:

    def fail_halfway() -> None:
        with database.transaction() as connection:
            connection.execute("insert into rag.parameter values ('a', '1')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with database.connection() as connection:
        connection.execute("insert into rag.parameter values ('b', '1')")
    with database.connection() as connection:
        rows = connection.execute("select name from rag.parameter where name in ('a', 'b')").fetchall()
    assert rows == [("b",)]


def test_more_users_than_connections_wait_and_do_not_fail(server: Server, database: Database) -> None:
    import threading

    small = open_database(make_settings(server, database.url, pool_size=1))
    done: list[int] = []

    def use() -> None:
        with small.transaction() as connection:
            connection.execute("select pg_sleep(0.05)")
            done.append(1)

    users = [threading.Thread(target=use) for _ in range(12)]
    for user in users:
        user.start()
    for user in users:
        user.join(timeout=30)
    small.close()
    assert len(done) == 12


def test_a_restarted_server_costs_one_failure_and_not_the_pool(database: Database) -> None:
    with database.connection() as first, database.connection() as second, database.session() as other:
        for connection in (first, second):
            other.execute("select pg_terminate_backend(%s)", (connection.info.backend_pid,))
    failures = 0
    for _ in range(5):
        try:
            with database.connection() as connection:
                connection.execute("select 1")
        except psycopg.OperationalError:
            failures += 1
    assert failures == 1


def test_dagster_gets_a_database_of_its_own_with_its_own_driver(server: Server, settings: Settings) -> None:
    url = dagster_storage_url(settings)
    assert url.startswith("postgresql+psycopg2://")
    assert make_url(url).database == "dagster"
    ensure_database(server.url, "dagster")  # a second time is no error
