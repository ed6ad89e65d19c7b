"""A generation is ready in the processes that answer before it serves, and dead processes hold nobody up."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import registry
from rag_pipeline.index.store import Generation
from rag_pipeline.serving import store
from rag_pipeline.serving.promotion import promote, rollback
from rag_pipeline.serving.retirement import retire_soaked
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.warming import ServingProcess, ask_around, wait_until_warm
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.serving.api_process import run_api, wait_until
from rag_pipeline_tests.whole_run import add_generation, bring_up


@pytest.fixture
def serving(database: Database, settings: Settings) -> Generation:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    return bring_up(database, settings)


def list_processes(database: Database) -> list[tuple[str, list[int]]]:
    with database.connection() as connection:
        return connection.execute("select id, warm from rag.serving_process order by id").fetchall()


def record(database: Database, process: str, warm: list[int], age: float = 0) -> None:
    with database.connection() as connection:
        store.record_heartbeat(connection, process, warm)
        connection.execute(
            "update rag.serving_process set seen_at = seen_at - make_interval(secs => %s) where id = %s",
            (age, process),
        )


def test_a_process_gets_a_new_generation_ready_and_a_promotion_waits_for_it(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path
) -> None:
    with run_api(settings, RAG_QUERY_LOG_SHARE="1") as api:
        assert api.search("red valve")["embedded_by"] == "tiny"
        candidate = add_generation(database, settings, "other", other_tiny_model)
        assert promote(database, candidate.id, actor="me", reason="test", force=True, warm_seconds=30) == []
        ((_, warm),) = list_processes(database)
        assert candidate.id in warm, "the pointer moved after it was ready"
        found = api.search("red valve", k=1)
        assert (found["generation"], found["model"], found["embedded_by"]) == (candidate.id, "other", "other")
        began = time.monotonic()
        assert rollback(database, actor="me", reason="test", warm_seconds=30) == serving.id
        assert time.monotonic() - began < 1, "what soaks is ready all along"
        assert api.search("red valve", k=1)["generation"] == serving.id
        retire_soaked(database, 0)
        wait_until(lambda: list_processes(database)[0][1] == [serving.id])
    assert list_processes(database) == [], "a process that ends takes its row along"
    with database.connection() as connection:
        logged = connection.execute("select count(*) from rag.query_log where query = 'red valve'").fetchone()
    assert logged == (3,), "and what it had to log is written"


def test_a_killed_process_is_not_waited_for(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path
) -> None:
    with run_api(settings) as api:
        wait_until(lambda: bool(list_processes(database)))
        api.process.send_signal(signal.SIGKILL)
        api.process.wait(timeout=10)
    candidate = add_generation(database, settings, "other", other_tiny_model)
    began = time.monotonic()
    assert promote(database, candidate.id, actor="me", reason="test", force=True, warm_seconds=60) == []
    assert time.monotonic() - began < 10, "six seconds after its last beat it is dead"
    record(database, list_processes(database)[0][0], [], age=61)
    record(database, "living", [])
    ServingProcess(database, Searcher(database)).beat()
    assert "living" in dict(list_processes(database))
    assert len(list_processes(database)) == 2, "the dead one's row is gone"


def test_who_is_not_ready_in_time_is_named_and_the_promotion_goes_on(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path, caplog: Any
) -> None:
    candidate = add_generation(database, settings, "other", other_tiny_model)
    record(database, "slow", [serving.id])
    record(database, "quick", [serving.id, candidate.id])
    record(database, "dead", [], age=7)
    began = time.monotonic()
    assert promote(database, candidate.id, actor="me", reason="test", force=True, warm_seconds=1) == ["slow"]
    assert 1 <= time.monotonic() - began < 3
    assert f"Generation {candidate.id} is not ready in slow" in caplog.text
    with database.connection() as connection:
        pointer = store.read_serving(connection)
    assert pointer is not None
    assert pointer.generation_id == candidate.id
    assert wait_until_warm(database, serving.id, 0) == []


def test_a_refused_promotion_waits_for_nobody(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path
) -> None:
    candidate = add_generation(database, settings, "other", other_tiny_model)
    record(database, "slow", [])
    began = time.monotonic()
    with pytest.raises(Exception, match="was not compared"):
        promote(database, candidate.id, actor="me", reason="test", warm_seconds=30)
    assert time.monotonic() - began < 5


def test_warm_is_loaded_checked_and_searched_and_what_retired_leaves_the_memory(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path
) -> None:
    candidate = add_generation(database, settings, "other", other_tiny_model)
    searcher = Searcher(database)
    process = ServingProcess(database, searcher)
    process.warm_up()
    assert process.warm == {serving.id, candidate.id}
    promote(database, candidate.id, actor="me", reason="test", force=True)
    old = searcher._opened[serving.id].model.record.spec
    loaded = registry.open_model(old)
    retire_soaked(database, 0)
    process.warm_up()
    assert process.warm == {candidate.id}
    assert list(searcher._opened) == [candidate.id]
    assert registry.open_model(old) is not loaded
    assert searcher.search("red valve", k=1).embedded_by == "other"


def test_a_generation_whose_model_cannot_be_used_is_not_warm_until_it_can(
    database: Database, settings: Settings, serving: Generation, tmp_path: Path, caplog: Any
) -> None:
    from rag_pipeline_tests.tiny_model import save_tiny_model

    path = save_tiny_model(tmp_path / "model", seed=12)
    candidate = add_generation(database, settings, "mine", path)
    path.rename(tmp_path / "away")
    searcher = Searcher(database)
    registry.open_model.cache_clear()  # a process that starts now
    process = ServingProcess(database, searcher)
    process.warm_up()
    process.warm_up()
    assert process.warm == {serving.id}
    assert caplog.text.count(f"generation {candidate.id} is not ready in this process") == 1
    (tmp_path / "away").rename(path)
    searcher._opened[candidate.id].model._try_again_at = 0.0  # some seconds later
    process.warm_up()
    assert process.warm == {serving.id, candidate.id}


def test_what_was_asked_last_is_asked_again_and_texts_of_the_corpus_where_nothing_was(
    database: Database, serving: Generation
) -> None:
    def texts(most: int) -> list[tuple[str, str]]:
        with database.connection() as connection:
            return store.list_warming_queries(connection, most)

    assert len(texts(6)) == 6
    assert set(texts(6)) == {("default", "red valve"), ("default", "blue pump")}
    with database.connection() as connection:
        for query in ("old", "twice", "twice", "new"):
            connection.execute(
                "insert into rag.query_log (tenant, query, mode, k, generation_id, chunk_ids, milliseconds)"
                " values ('default', %s, 'hybrid', 10, 1, '{}', 1)",
                (query,),
            )
    assert [query for _, query in texts(2)] == ["new", "twice"]
    assert [query for _, query in texts(4)][:3] == ["new", "twice", "old"]
    ask_around(database, Searcher(database), serving.id, 4)


def test_an_empty_corpus_needs_no_warming(database: Database) -> None:
    ask_around(database, Searcher(database), 1)
