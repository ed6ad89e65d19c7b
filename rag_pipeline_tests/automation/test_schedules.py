from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.schedules import hourly_ingest, nightly_embedding_sweep, nightly_evaluation
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


@pytest.mark.parametrize("schedule", [hourly_ingest, nightly_embedding_sweep, nightly_evaluation])
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


def count_evaluations(database) -> int:
    with database.connection() as connection:
        return connection.execute("select count(*) from rag.evaluation").fetchone()[0]
