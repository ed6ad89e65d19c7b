from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.schedules import (
    daily_recall_watch,
    hourly_ingest,
    nightly_embedding_sweep,
    nightly_evaluation,
)
from rag_pipeline.serving.checks import recall_holds
from rag_pipeline.serving.recall import RecallFigure
from rag_pipeline.serving.recall_store import insert_recall
from rag_pipeline_tests.automation.conftest import evaluate, obey

Fire = Callable[[dg.ScheduleDefinition], list[dg.RunRequest]]
AT = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def on_disk() -> Iterator[dg.DagsterInstance]:
    """A schedule's tick opens its instance by reference, and an ephemeral one has none."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def fire(on_disk: dg.DagsterInstance, instance: dg.DagsterInstance, pipeline: Pipeline) -> Fire:
    """Evaluate a schedule as the daemon does, with the partitions of this test's instance."""

    def fire(schedule: dg.ScheduleDefinition) -> list[dg.RunRequest]:
        on_disk.add_dynamic_partitions("embedding_model", instance.get_dynamic_partitions("embedding_model"))
        more = {"scheduled_execution_time": AT, "resources": {"pipeline": pipeline}}
        return list(evaluate(schedule, dg.build_schedule_context, on_disk, **more).run_requests or [])

    return fire


@pytest.mark.parametrize("schedule", [hourly_ingest, nightly_embedding_sweep, nightly_evaluation, daily_recall_watch])
def test_with_nothing_there_no_schedule_starts_a_run(schedule, fire):
    assert fire(schedule) == []


@pytest.mark.usefixtures("served")
def test_every_hour_all_registered_sources_are_read(fire, folder, instance, pipeline):
    (folder / "note-0.md").write_text("# Note 0\n\nThe green valve is closed.\n")
    requests = fire(hourly_ingest)
    assert len(requests) == 1
    done = obey(requests[0], "ingest", instance, pipeline)
    found = {e.asset_key.to_user_string(): e.materialization.metadata for e in done.get_asset_materialization_events()}
    assert found["documents"]["changed"].value == 1
    assert found["documents"]["unchanged"].value == 5
    assert found["index_deltas"]["documents"].value == 1


@pytest.mark.usefixtures("served")
def test_the_sweep_embeds_what_is_missing_and_nothing_else(fire, instance, pipeline, database):
    assert fire(nightly_embedding_sweep) == []
    with database.connection() as connection:
        row = connection.execute("select chunk_id from rag.embedding order by chunk_id limit 1").fetchone()
        connection.execute("delete from rag.embedding where chunk_id = %s", row)
        bucket = connection.execute("select bucket from rag.chunk where id = %s", row).fetchone()[0]
    requests = fire(nightly_embedding_sweep)
    assert [r.tags["dagster/asset_partition_range_start"] for r in requests] == [f"{bucket:02d}|tiny"]
    done = obey(requests[0], "embed_model", instance, pipeline)
    found = [e.materialization for e in done.get_asset_materialization_events()]
    assert [m.metadata["embedded"].value for m in found] == [1]
    assert fire(nightly_embedding_sweep) == []


@pytest.mark.usefixtures("served")
def test_every_night_what_serves_is_measured(fire, instance, pipeline, database):
    requests = fire(nightly_evaluation)
    assert [r.partition_key for r in requests] == ["tiny"]
    before = count_evaluations(database)
    obey(requests[0], "evaluate", instance, pipeline)
    assert count_evaluations(database) == before + 1


@pytest.mark.usefixtures("served")
def test_every_day_recall_is_measured_and_shown(fire, instance, pipeline, database):
    with database.connection() as connection:
        connection.execute(
            "insert into rag.query_log (asked_at, tenant, query, mode, k, generation_id, chunk_ids, milliseconds)"
            " select now() - make_interval(days => n), 'default', 'q' || n, 'lexical', 10, 1, '{}', 1"
            " from unnest(array[1, 40]) n"
        )
    for day in (1, 2):
        requests = fire(daily_recall_watch)
        assert len(requests) == 1
        done = obey(requests[0], "watch_recall", instance, pipeline)
        [observed] = [e.event_specific_data.asset_observation for e in done.all_events if e.is_asset_observation]
        assert (observed.asset_key.to_user_string(), observed.partition) == ("hnsw_index", "tiny")
        assert observed.metadata["ef_search"].value == 40
        assert isinstance(observed.metadata["recall_at_10"].value, float)
        assert isinstance(observed.metadata["p95_ms"].value, float)
        assert "data:image/png;base64," in observed.metadata["plot"].value
        with database.connection() as connection:
            measured = connection.execute("select count(*) from rag.recall_measurement where scope = 'all'").fetchone()
            assert measured == (1 + day,)  # the first is the evaluation's
            assert connection.execute("select query from rag.query_log").fetchall() == [("q1",)]
    evaluation = last_recall_check(instance)
    assert (evaluation.passed, evaluation.metadata["target"].value) == (True, 0.95)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("recall", "severity"), [(0.96, None), (0.93, dg.AssetCheckSeverity.WARN), (0.5, dg.AssetCheckSeverity.ERROR)]
)
def test_the_check_of_recall_fails_by_how_far_it_is_below_the_target(pipeline, database, recall, severity):
    with database.transaction() as connection:
        insert_recall(connection, 1, [RecallFigure("all", "", 1000, 100, recall, recall - 0.01, recall + 0.01, 2.0)])
    result = recall_holds(pipeline)
    assert result.passed is (severity is None)
    if severity is not None:
        assert result.severity == severity
        assert f"recall@10 is below 0.95: all {recall:.3f}" in result.description


@pytest.mark.usefixtures("served")
def test_recall_that_was_not_measured_for_days_is_a_warning(pipeline, database):
    assert recall_holds(pipeline).passed
    with database.connection() as connection:
        connection.execute("update rag.recall_measurement set measured_at = now() - interval '3 days'")
    result = recall_holds(pipeline)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "not measured since" in result.description


def last_recall_check(instance):
    key = dg.AssetCheckKey(dg.AssetKey("hnsw_index"), "recall_holds")
    record = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0]
    return record.event.dagster_event.asset_check_evaluation_data


def count_evaluations(database) -> int:
    with database.connection() as connection:
        return connection.execute("select count(*) from rag.evaluation").fetchone()[0]
