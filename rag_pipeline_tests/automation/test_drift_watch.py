"""The drift alarm: raised once, taken back when the model is well again, and nothing is embedded meanwhile."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from rag_pipeline.automation.drift_watch import AWAY_FOR, Seen, judge_look
from rag_pipeline.automation.runs import run_ingest, run_model_swap
from rag_pipeline.automation.sensors import model_drift_sensor
from rag_pipeline.database.engine import driver_url
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.embeddings.drift import Look
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model, find_model
from rag_pipeline.embeddings.store import ModelRecord, count_embeddings
from rag_pipeline.serving.alert_store import list_alerts
from rag_pipeline.serving.diagnosis import diagnose
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.status import read_status
from rag_pipeline.serving.store import read_serving
from rag_pipeline_tests.automation.conftest import tick
from rag_pipeline_tests.embeddings.test_drift import flip_weight
from rag_pipeline_tests.tiny_model import save_tiny_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = ModelRecord(1, ModelSpec("m", "openai:x"), None, 3, b"", b"c", 1, "probed", None, {})
LONG_AGO = (NOW - AWAY_FOR).isoformat()


@pytest.mark.parametrize(
    ("look", "before", "said", "alarm"),
    [
        (Look(), Seen(), None, None),  # as ever
        (Look("changed"), Seen(), "model_drift", "drift"),
        (Look("changed more"), Seen(drift="changed", alarm="drift"), None, "drift"),  # said already
        (Look(), Seen(drift="changed", alarm="drift"), "model_well", None),
        (Look(away="down"), Seen(), None, None),  # a restart
        (Look(away="down"), Seen(away_since=LONG_AGO), "model_away", "away"),  # it lasted
        (Look(away="down"), Seen(away_since=LONG_AGO, alarm="away"), None, "away"),  # said already
        (Look(), Seen(away_since=LONG_AGO, alarm="away"), "model_well", None),
        (Look(), Seen(away_since=LONG_AGO), None, None),  # came back before anyone was told
        (Look("changed"), Seen(away_since=LONG_AGO, alarm="away"), "model_drift", "drift"),
        (Look(away="down"), Seen(drift="changed", alarm="drift"), None, "drift"),  # drifted, and now down
    ],
)
def test_what_is_said_of_a_model_is_said_once(look, before, said, alarm):
    verdict = judge_look(RECORD, look, before, NOW)
    assert (verdict.kind, verdict.seen.alarm) == (said, alarm)


def test_what_was_away_and_came_back_starts_to_count_anew():
    seen = judge_look(RECORD, Look(), Seen(away_since=LONG_AGO), NOW).seen
    later = judge_look(RECORD, Look(away="down"), seen, NOW + timedelta(minutes=10))
    assert later.kind is None


@pytest.fixture
def own_model(settings, tmp_path):
    """A folder of the test's own with the model that will serve."""
    return save_tiny_model(tmp_path / "own")


@pytest.fixture
def own_settings(settings, own_model):
    return settings.model_copy(update={"model": f"model2vec:{own_model}"})


@pytest.fixture
def own_served(own_settings, folder, instance):
    return run_ingest(own_settings, [resolve_location(str(folder), "default")], instance=instance)


def read_alerts(database):
    with database.connection() as connection:
        return [(alert.kind, alert.subject) for alert in reversed(list_alerts(connection))]


@pytest.mark.usefixtures("own_served")
def test_a_flipped_weight_raises_the_alarm_once_and_a_restored_one_takes_it_back(
    database, settings, instance, pipeline, own_model
):
    kept = own_model.with_name("kept")
    shutil.copytree(own_model, kept)
    first = tick(model_drift_sensor, instance, pipeline)
    assert "unchanged" in first.skip_reason.skip_message
    assert find_model(database, "tiny").checked_at is not None
    flip_weight(own_model)
    second = tick(model_drift_sensor, instance, pipeline, first.cursor)
    third = tick(model_drift_sensor, instance, pipeline, second.cursor)
    assert read_alerts(database) == [("model_drift", "tiny")]
    drift = find_model(database, "tiny").drift
    assert "not the one that was registered" in drift
    assert [m["drift"] for m in read_status(database).models] == [drift]
    assert read_status(database).alerts[0]["kind"] == "model_drift"
    findings = {f.name: f for f in diagnose(database, settings)}
    assert not findings["model tiny"].good
    shutil.rmtree(own_model)
    kept.rename(own_model)
    fourth = tick(model_drift_sensor, instance, pipeline, third.cursor)
    assert find_model(database, "tiny").drift is None
    assert read_alerts(database) == [("model_drift", "tiny"), ("model_well", "tiny")]
    assert json.loads(fourth.cursor)["tiny"]["alarm"] is None


@pytest.mark.usefixtures("own_served")
def test_only_one_model_is_loaded_in_a_tick_and_the_next_one_gets_its_turn(
    database, settings, instance, pipeline, other_tiny_model
):
    add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    run_model_swap(settings, "other", instance=instance)
    cursor, seen = None, []
    for _ in range(2):
        result = tick(model_drift_sensor, instance, pipeline, cursor)
        cursor = result.cursor
        seen.append(result.skip_reason.skip_message)
    assert [message.count("unchanged") for message in seen] == [1, 2]


@pytest.mark.usefixtures("own_served")
def test_nothing_is_started_for_a_model_that_drifted(database, daemon, tmp_path):
    directory = save_tiny_model(tmp_path / "other", seed=2)
    record = add_model(database, ModelSpec("other", f"model2vec:{directory}"))
    with database.connection() as connection:
        connection.execute("update rag.embedding_model set drift = 'it changed' where slug = 'other'")
        before = count_embeddings(connection)
    (directory / "kept").mkdir()
    flip_weight(directory)
    assert daemon.run_until_quiet() == []
    with database.connection() as connection:
        assert count_embeddings(connection) == before
        assert record.id not in before


PROGRAM = """
import sys
from rag_pipeline.automation.runs import run_ingest, run_model_swap
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.settings import load_settings
import dagster as dg
settings = load_settings()
with dg.DagsterInstance.ephemeral() as instance:
    if sys.argv[1] == "ingest":
        run_ingest(settings, [resolve_location(sys.argv[2], "default")], instance=instance)
    else:
        run_model_swap(settings, sys.argv[2], instance=instance)
"""


def run_anew(settings, database, *arguments):
    """The same pipeline in a process of its own, which has no model in memory."""
    environment = os.environ | {
        "RAG_DATABASE_URL": driver_url(database.url),
        "RAG_HOME": str(settings.home),
        "RAG_MODEL": settings.model,
        "RAG_MODEL_SLUG": settings.model_slug,
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("bit", [0, 30], ids=["lowest bit", "highest exponent bit"])
def test_one_flipped_weight_is_refused_by_a_new_process_before_anything_is_embedded_and_serving_goes_on(
    own_served, own_settings, database, folder, own_model, instance, pipeline, bit
):
    searcher = Searcher(database)
    before = searcher.search("note", k=3)
    with database.connection() as connection:
        rows = count_embeddings(connection)
    flip_weight(own_model, row=len("some row"), bit=bit)
    (folder / "note-9.md").write_text("# Winter\n\nSnow on the bird and the old stone.\n")
    ingested = run_anew(own_settings, database, "ingest", str(folder))
    assert ingested.returncode != 0
    assert "'tiny'" in ingested.stderr
    assert "not the one that was registered" in ingested.stderr
    with database.connection() as connection:
        assert count_embeddings(connection) == rows
        assert read_serving(connection).generation_id == own_served["generation"]
    # what serves goes on: with the model in memory, and by words
    assert [hit.chunk_id for hit in searcher.search("note", k=3).hits] == [hit.chunk_id for hit in before.hits]
    assert Searcher(database).search("note", k=3, mode="lexical").hits
    tick(model_drift_sensor, instance, pipeline)
    assert read_alerts(database) == [("model_drift", "tiny")]


def test_a_flipped_weight_of_the_candidate_is_refused_by_the_swap_of_a_new_process(
    own_served, own_settings, database, tmp_path
):
    directory = save_tiny_model(tmp_path / "other", seed=2)
    record = add_model(database, ModelSpec("other", f"model2vec:{directory}"))
    flip_weight(directory)
    swapped = run_anew(own_settings, database, "swap", "other")
    assert swapped.returncode != 0
    assert "DriftError" in swapped.stderr
    assert "its weights have SHA-256" in swapped.stderr
    assert find_model(database, "other").drift is not None
    with database.connection() as connection:
        assert record.space not in count_embeddings(connection)
        assert read_serving(connection).generation_id == own_served["generation"]
