"""The gate: no proof, no cutover; a rollback loses nothing; there is always exactly one that serves."""

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.building import ensure_generation, refresh_generation
from rag_pipeline.index.reconciliation import find_discrepancies
from rag_pipeline.index.store import Generation, read_generation
from rag_pipeline.serving.promotion import GateRefusedError, explain_refusal, promote, rollback
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.store import Promotable, insert_evaluation, list_promotions, read_serving
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import delete_texts, put_texts, read_served
from rag_pipeline_tests.whole_run import add_generation, bring_up


@pytest.fixture
def serving(database: Database, settings: Settings) -> Generation:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    return bring_up(database, settings)


@pytest.fixture
def candidate(database: Database, settings: Settings, serving: Generation, other_tiny_model: Path) -> Generation:
    return add_generation(database, settings, "other", other_tiny_model)


def judge(database: Database, candidate: Generation, baseline: Generation | None, *, allows: bool) -> None:
    with database.transaction() as connection:
        verdict = "not_worse" if allows else "worse"
        insert_evaluation(connection, candidate.id, baseline and baseline.id, verdict, allows, "as judged", {})


def assert_serves(database: Database, generation: Generation) -> None:
    with database.connection() as connection:
        pointer = read_serving(connection)
        states = connection.execute("select id from rag.generation where state = 'serving'").fetchall()
        rows = connection.execute("select count(*) from rag.serving").fetchone()
    assert pointer is not None
    assert pointer.generation_id == generation.id
    assert states == [(generation.id,)]
    assert rows == (1,)


def test_no_verdict_no_promotion(database: Database, serving: Generation, candidate: Generation) -> None:
    with pytest.raises(GateRefusedError, match="was not compared with what serves now"):
        promote(database, candidate.id, actor="me", reason="test")
    assert_serves(database, serving)


def test_a_bad_verdict_is_no_promotion(database: Database, serving: Generation, candidate: Generation) -> None:
    judge(database, candidate, serving, allows=False)
    with pytest.raises(GateRefusedError, match=r"is worse: as judged\. --force overrides it"):
        promote(database, candidate.id, actor="me", reason="test")
    assert_serves(database, serving)


def test_the_newest_verdict_counts(database: Database, serving: Generation, candidate: Generation) -> None:
    judge(database, candidate, serving, allows=True)
    judge(database, candidate, serving, allows=False)
    with pytest.raises(GateRefusedError, match="is worse"):
        promote(database, candidate.id, actor="me", reason="test")
    judge(database, candidate, serving, allows=True)
    promote(database, candidate.id, actor="me", reason="test")
    assert_serves(database, candidate)


@pytest.mark.usefixtures("serving")
def test_a_verdict_against_something_else_than_what_serves_now_does_not_count(
    database: Database, candidate: Generation
) -> None:
    judge(database, candidate, None, allows=True)
    with pytest.raises(GateRefusedError, match="was not compared with what serves now"):
        promote(database, candidate.id, actor="me", reason="test")


def test_an_invalid_or_missing_index_is_no_promotion_even_by_force(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    judge(database, candidate, serving, allows=True)
    with database.connection() as connection:
        connection.execute(
            f"update pg_index set indisvalid = false where indexrelid = 'rag.{candidate.index_name}'::regclass"
        )
    for force in (False, True):
        with pytest.raises(GateRefusedError, match="no valid HNSW index"):
            promote(database, candidate.id, actor="me", reason="test", force=force)
    with database.connection() as connection:
        connection.execute(f"drop index rag.{candidate.index_name}")
    with pytest.raises(GateRefusedError, match="no valid HNSW index"):
        promote(database, candidate.id, actor="me", reason="test", force=True)
    assert_serves(database, serving)


def test_a_generation_that_is_not_ready_or_not_there_is_refused(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: Path
) -> None:
    record = add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    building = ensure_generation(database, settings, record)
    with pytest.raises(GateRefusedError, match="is not ready"):
        promote(database, building.id, actor="me", reason="test", force=True)
    with pytest.raises(GateRefusedError, match="There is no generation 77"):
        promote(database, 77, actor="me", reason="test", force=True)
    assert_serves(database, serving)


def test_a_promotion_and_its_history_tell_who_why_and_on_what_evidence(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    judge(database, candidate, serving, allows=True)
    promote(database, candidate.id, actor="ann", reason="better model")
    promote(database, candidate.id, actor="ann", reason="again")  # serves already: nothing happens
    assert_serves(database, candidate)
    with database.connection() as connection:
        first, second = list_promotions(connection)
        before = read_generation(connection, serving.id)
    assert (second.action, second.generation_id, second.previous_id) == ("promote", candidate.id, serving.id)
    assert (second.forced, second.actor, second.reason) == (False, "ann", "better model")
    assert second.evaluation_id is not None
    assert first.previous_id is None
    assert before is not None
    assert before.state == "soaking"


def test_force_overrides_the_verdict_and_is_recorded(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    judge(database, candidate, serving, allows=False)
    promote(database, candidate.id, actor="ann", reason="I know", force=True)
    assert_serves(database, candidate)
    with database.connection() as connection:
        last = list_promotions(connection)[-1]
    assert (last.forced, last.actor, last.reason) == (True, "ann", "I know")


def test_force_that_was_not_needed_is_not_called_force(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    judge(database, candidate, serving, allows=True)
    promote(database, candidate.id, actor="ann", reason="sure", force=True)
    with database.connection() as connection:
        assert list_promotions(connection)[-1].forced is False


def test_a_rollback_restores_with_everything_written_since(
    database: Database, settings: Settings, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    put_texts(database, {"a": "red valve new", "c": "green boiler"})
    delete_texts(database, "b")
    refresh_generation(database, settings, candidate)
    refresh_generation(database, settings, serving)
    assert rollback(database, actor="me", reason="worse") == serving.id
    assert_serves(database, serving)
    assert read_served(database, serving.id) == {"a": "red valve new", "c": "green boiler"}
    assert find_discrepancies(database, serving).clean
    assert Searcher(database).search("green boiler", k=1).hits[0].uri == "c"
    with database.connection() as connection:
        last = list_promotions(connection)[-1]
    assert (last.action, last.generation_id, last.previous_id) == ("rollback", serving.id, candidate.id)
    assert rollback(database, actor="me", reason="again") == candidate.id  # and forward again
    assert_serves(database, candidate)


@pytest.mark.usefixtures("settings")
def test_a_rollback_applies_what_still_waits(database: Database, serving: Generation, candidate: Generation) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    delete_texts(database, "b")
    rollback(database, actor="me", reason="worse")
    assert read_served(database, serving.id) == {"a": "red valve"}


@pytest.mark.usefixtures("serving")
def test_there_is_nothing_to_roll_back_to_at_first(database: Database) -> None:
    with pytest.raises(GateRefusedError, match="nothing to roll back to"):
        rollback(database, actor="me", reason="test")


def test_a_retired_generation_is_not_rolled_back_to(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    promote(database, candidate.id, actor="me", reason="test", force=True)
    with database.connection() as connection:
        connection.execute("update rag.generation set state = 'retired' where id = %s", (serving.id,))
    with pytest.raises(GateRefusedError, match="Cannot roll back"):
        rollback(database, actor="me", reason="test")
    assert_serves(database, candidate)


def test_moves_at_once_leave_exactly_one_that_serves(
    database: Database, serving: Generation, candidate: Generation
) -> None:
    problems: list[BaseException] = []

    def move(number: int) -> None:
        try:
            for _ in range(10):
                promote(database, number, actor="me", reason="race", force=True)
                with database.connection() as connection:
                    rows = connection.execute(
                        "select (select count(*) from rag.serving s join rag.generation g on g.id = s.generation_id"
                        " where g.state = 'serving'), (select count(*) from rag.generation where state = 'serving')"
                    ).fetchone()
                assert rows == (1, 1)
        except BaseException as error:
            problems.append(error)

    movers = [threading.Thread(target=move, args=(g.id,)) for g in (serving, candidate, serving)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join(timeout=60)
    assert problems == []
    with database.connection() as connection:
        moves = list_promotions(connection)
    for before, after in pairwise(moves):
        assert after.previous_id == before.generation_id, "the history is a chain"


@pytest.mark.usefixtures("serving")
def test_the_database_itself_allows_one_pointer_and_one_that_serves(database: Database, candidate: Generation) -> None:
    with database.connection() as connection:
        with pytest.raises(Exception, match="generation_one_serving"):
            connection.execute("update rag.generation set state = 'serving' where id = %s", (candidate.id,))
        with pytest.raises(Exception, match="serving"):
            connection.execute("insert into rag.serving (singleton, generation_id) values (false, %s)", (candidate.id,))
        with pytest.raises(Exception, match="serving_pkey"):
            connection.execute("insert into rag.serving (generation_id) values (%s)", (candidate.id,))


GOOD = Promotable(True, True, 5, True, "better", "by far")
REFUSALS = [
    ("all is well", GOOD, False, None),
    ("no such generation", None, True, "There is no generation 7"),
    ("not ready", Promotable(False, True, 5, True, "better", ""), True, "is not ready"),
    ("no index", Promotable(True, False, 5, True, "better", ""), True, "no valid HNSW index"),
    ("not judged", Promotable(True, True, None, False, None, None), False, "was not compared"),
    ("not judged, by force", Promotable(True, True, None, False, None, None), True, None),
    ("judged worse", Promotable(True, True, 5, False, "worse", "by far"), False, "is worse: by far"),
    ("judged worse, by force", Promotable(True, True, 5, False, "worse", "by far"), True, None),
]


@pytest.mark.parametrize(("case", "gate", "force", "message"), REFUSALS, ids=[r[0] for r in REFUSALS])
def test_the_gate_names_the_condition_that_fails(
    case: str, gate: Promotable | None, force: bool, message: str | None
) -> None:
    found = explain_refusal(7, gate, force=force)
    assert (found is None) == (message is None), case
    if message:
        assert message in (found or "")
