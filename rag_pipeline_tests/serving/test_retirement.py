"""After the soak the disk is given back: tables and words go, the ledger and the history stay."""

import threading
import time
from pathlib import Path

import pytest

from rag_pipeline.chunks.store import count_chunks
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.embeddings.store import count_embeddings
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation, refresh_generation
from rag_pipeline.index.reconciliation import find_discrepancies
from rag_pipeline.index.store import Generation, detach_versions, list_undropped, read_generation, set_state
from rag_pipeline.serving.promotion import GateRefusedError, promote, rollback
from rag_pipeline.serving.retirement import retire_generation, retire_model, retire_soaked
from rag_pipeline.serving.search import Searcher
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.whole_run import add_generation, bring_up


@pytest.fixture
def serving(database: Database, settings: Settings) -> Generation:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    return bring_up(database, settings)


@pytest.fixture
def candidate(database: Database, settings: Settings, serving: Generation, other_tiny_model: Path) -> Generation:
    return add_generation(database, settings, "other", other_tiny_model)


def state_of(database: Database, number: int) -> str:
    with database.connection() as connection:
        generation = read_generation(connection, number)
    assert generation is not None
    return generation.state


def count(database: Database, query: str) -> int:
    with database.connection() as connection:
        row = connection.execute(query).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def tables_of(database: Database, number: int) -> int:
    return count(
        database,
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'rag'"
        f" and c.relname in ('index_{number}', 'generation_version_{number}', 'index_{number}_hnsw')",
    )


def test_what_soaked_long_enough_is_retired_and_nothing_else(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    with database.connection() as connection:
        vectors = count_embeddings(connection)
        connection.execute("update rag.generation set changed_at = changed_at - interval '23 hours' where id = 1")
    assert retire_soaked(database, 24) == []
    assert state_of(database, serving.id) == "soaking"
    with database.connection() as connection:
        connection.execute("update rag.generation set changed_at = changed_at - interval '1 hour' where id = 1")
    assert [(r.generation, r.model, r.was) for r in retire_soaked(database, 24)] == [(serving.id, "tiny", "soaking")]
    assert (state_of(database, serving.id), tables_of(database, serving.id)) == ("retired", 0)
    assert (state_of(database, candidate.id), tables_of(database, candidate.id)) == ("serving", 3)
    with database.connection() as connection:
        assert count_embeddings(connection) == vectors, "the ledger is kept"
    assert Searcher(database).search("red valve", k=1).hits[0].uri == "a"
    assert find_discrepancies(database, candidate).clean
    assert retire_soaked(database, 24) == []


def test_a_rollback_to_a_retired_generation_says_why_not(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    retire_soaked(database, 0)
    with pytest.raises(GateRefusedError, match=r"generation 1 \(tiny\) is retired.*rag model swap tiny"):
        rollback(database, actor="me", reason="test")
    assert state_of(database, candidate.id) == "serving"


def test_a_retired_recipe_is_built_again_without_embedding(
    database: Database, settings: Settings, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    retire_soaked(database, 0)
    again = ensure_generation(database, settings, add_model(database, ModelSpec("tiny", settings.model)))
    assert again.id not in (serving.id, candidate.id)
    assert fill_generation(database, settings, again).embedded == 0
    build_generation(database, settings, again)
    assert find_discrepancies(database, again).clean


def test_the_serving_one_is_never_retired(database: Database, serving: Generation) -> None:
    with pytest.raises(GateRefusedError, match="serves; promote another one first"):
        retire_generation(database, serving.id)
    with pytest.raises(GateRefusedError, match="only generation of tiny serves"):
        retire_model(database, "tiny")
    assert tables_of(database, serving.id) == 3


@pytest.mark.parametrize("state", ["building", "failed", "ready"])
def test_one_that_builds_failed_or_waits_can_be_dropped_and_gives_way_to_another(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path, state: str
) -> None:
    record = add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    building = ensure_generation(database, settings, record)
    with database.connection() as connection:
        set_state(connection, building.id, state)
    assert [r.generation for r in retire_model(database, "other")] == [building.id]
    assert (state_of(database, building.id), tables_of(database, building.id)) == ("retired", 0)
    assert ensure_generation(database, settings, record).id != building.id


def test_words_of_a_chunker_that_nothing_serves_any_more_go_and_those_in_use_stay(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path
) -> None:
    other_cut = settings.model_copy(update={"chunk_size": 300})
    second = add_generation(database, other_cut, "other", other_tiny_model)
    assert second.chunker_id != serving.chunker_id
    promote(database, second.id, actor="me", reason="test", force=True)
    assert count(database, f"select count(*) from rag.posting where chunker_id = {serving.chunker_id}") > 0
    (retired,) = retire_soaked(database, 0)
    assert retired.words == 2
    for table in ("posting", "lexical_chunk", "lexical_term"):
        assert count(database, f"select count(*) from rag.{table} where chunker_id = {serving.chunker_id}") == 0
    assert find_discrepancies(database, second).clean
    assert Searcher(database).search("red valve", k=1, mode="lexical").hits[0].uri == "a"
    again = ensure_generation(database, settings, add_model(database, ModelSpec("tiny", settings.model)))
    fill_generation(database, settings, again)
    build_generation(database, settings, again)
    assert find_discrepancies(database, again).clean


def test_words_that_only_the_retired_one_still_served_go(
    database: Database, settings: Settings, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    put_texts(database, {"a": "green boiler"})
    refresh_generation(database, settings, candidate)  # the soaking one still serves "red valve"
    before = count(database, "select count(*) from rag.lexical_chunk")
    (retired,) = retire_soaked(database, 0)
    assert retired.words == 1
    assert count(database, "select count(*) from rag.lexical_chunk") == before - 1
    assert find_discrepancies(database, candidate).clean


def test_a_retirement_that_was_cut_short_is_finished(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    with database.connection() as connection:
        set_state(connection, serving.id, "retired")  # as killed after the first step
        assert list_undropped(connection) == [serving.id]
    assert [r.generation for r in retire_soaked(database, 24)] == [serving.id]
    assert tables_of(database, serving.id) == 0
    assert retire_generation(database, serving.id) is None


def test_what_was_rolled_back_to_meanwhile_is_not_retired(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    rollback(database, actor="me", reason="test")
    with pytest.raises(GateRefusedError):
        retire_generation(database, serving.id, only_soaking=True)
    assert state_of(database, serving.id) == "serving"


def test_a_search_that_holds_the_tables_delays_the_drop_and_is_not_disturbed(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    done = threading.Event()

    def retire() -> None:
        retire_soaked(database, 0)
        done.set()

    with database.session() as reader, reader.transaction():
        reader.execute("select count(*) from rag.index_1").fetchone()
        worker = threading.Thread(target=retire)
        worker.start()
        assert not done.wait(1.5)
        assert Searcher(database).search("red valve", k=1).hits[0].uri == "a"
    worker.join(timeout=30)
    assert done.is_set()
    assert tables_of(database, serving.id) == 0
    with database.connection() as connection:
        assert count_chunks(connection) == 2


def test_searches_go_on_at_full_speed_while_a_drop_or_a_creation_waits_for_a_long_reader(
    database: Database, settings: Settings, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    searcher = Searcher(database)
    searcher.search("red valve")
    slowest: list[float] = []
    with database.session() as reader, reader.transaction():
        reader.execute("select count(*) from rag.generation_version").fetchone()
        again = add_model(database, ModelSpec("tiny", settings.model))
        ensure_generation(database, settings.model_copy(update={"hnsw_m": 20}), again)
        worker = threading.Thread(target=retire_soaked, args=(database, 0))
        worker.start()
        give_up = time.monotonic() + 1.5
        while time.monotonic() < give_up:
            began = time.monotonic()
            assert searcher.search("red valve", k=1).hits[0].uri == "a"
            slowest.append(time.monotonic() - began)
        assert worker.is_alive(), "it waits for the reader"
    worker.join(timeout=30)
    assert tables_of(database, serving.id) == 0
    assert len(slowest) > 20, "no search waited behind the drop"


def test_a_detachment_that_was_cut_short_is_finished(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    with database.session() as reader, reader.transaction():
        reader.execute("select count(*) from rag.generation_version").fetchone()
        with database.session() as session, pytest.raises(Exception, match="lock timeout"):
            detach_versions(session, serving.id, 0.2)
    assert count(database, "select count(*) from pg_inherits where inhdetachpending") == 1
    assert Searcher(database).search("red valve", k=1).hits[0].uri == "a"
    retire_soaked(database, 0)
    assert tables_of(database, serving.id) == 0
    assert find_discrepancies(database, candidate).clean
