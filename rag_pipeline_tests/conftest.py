"""One embedded server and one tiny model for the whole session, one fresh database for every test.

A test gets its database as a copy of a migrated template, which takes a few hundredths of a second.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, make_url

from rag_pipeline.database.embedded import start_embedded_server
from rag_pipeline.database.engine import Database, driver_url, open_database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.settings import Settings, load_settings
from rag_pipeline_tests.tiny_model import save_tiny_model

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TEMPLATE = "rag_template"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Server:
    """The session's server. `create` makes a database and returns its URL."""

    home: Path
    url: URL

    def create(self, template: str = TEMPLATE) -> URL:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        statement = sql.SQL("create database {} template {}")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url.set(database=name)

    def drop(self, url: URL) -> None:
        self._execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(str(url.database))))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(driver_url(self.url.set(database="postgres")), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A real PostgreSQL with pgvector under a folder of its own, with a migrated template database."""
    home = tmp_path_factory.mktemp("home")
    server = Server(home, make_url(start_embedded_server(home)))
    with psycopg.connect(driver_url(server.url.set(database="postgres")), autocommit=True) as connection:
        # the tests kill clients, never the server: no need to wait for the disk
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(sql.SQL("alter system set {} = off").format(sql.Identifier(name)))
        connection.execute("select pg_reload_conf()")
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    open_database(make_settings(server, server.url.set(database=TEMPLATE))).close()
    return server


def make_settings(server: Server, url: URL, **more: object) -> Settings:
    """Settings for a database of the session's server; nothing is taken from a rag.toml or the environment."""
    return load_settings(**{"home": server.home, "database_url": driver_url(url), "model_slug": "tiny", **more})


@pytest.fixture
def database_url(server: Server) -> Iterator[URL]:
    """The URL of a fresh, migrated database of this test's own."""
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def settings(server: Server, database_url: URL, tiny_model: Path) -> Settings:
    """Settings of this test's database, with the tiny model as the first generation's."""
    return make_settings(server, database_url, model=f"model2vec:{tiny_model}")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """This test's own database, open."""
    database = open_database(settings)
    yield database
    database.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a real static model that knows the words of the tests."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another space: the same words, other vectors."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=2)


@pytest.fixture
def tiny_spec(tiny_model: Path) -> ModelSpec:
    return ModelSpec("tiny", f"model2vec:{tiny_model}")


@pytest.fixture
def make_database(server: Server, tiny_model: Path) -> Iterator[Callable[[], tuple[Settings, Database]]]:
    """More databases for one test: each call makes a fresh one with its settings."""
    made: list[tuple[URL, Database]] = []

    def make(**more: object) -> tuple[Settings, Database]:
        url = server.create()
        settings = make_settings(server, url, **{"model": f"model2vec:{tiny_model}", **more})
        made.append((url, open_database(settings)))
        return settings, made[-1][1]

    yield make
    for url, database in made:
        database.close()
        server.drop(url)


def find_data(name: str) -> Path:
    """A folder of the shared test data, or a skip with the reason."""
    base = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "shared/data")
    if not (base / name).exists():
        pytest.skip(f"no test data {name} under {base}; set RAG_TEST_DATA")
    return base / name
