"""A small folder of documents, an ephemeral Dagster instance, and runs and ticks on them."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.runs import QUIET, IngestRunResult, run_ingest
from rag_pipeline.automation.sensors import (
    embedding_model_sensor,
    index_rebuild_sensor,
    model_drift_sensor,
    promotion_sensor,
)
from rag_pipeline.database.engine import Database
from rag_pipeline.definitions import defs
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.settings import Settings
from rag_pipeline_tests.tiny_model import make_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six documents with a few chunks each."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(6):
        text = make_text(random.Random(number), 200)
        (folder / f"note-{number}.md").write_text(f"# Note {number}\n\n{text}\n", encoding="utf-8")
    return folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def pipeline(settings: Settings, database: Database) -> Pipeline:
    return Pipeline(settings, database)


@pytest.fixture
def served(settings: Settings, folder: Path, instance: dg.DagsterInstance) -> IngestRunResult:
    """The folder ingested, and its first generation serving."""
    return run_ingest(settings, [resolve_location(str(folder), "default")], instance=instance)


def evaluate(definition: Any, build_context: Callable[..., Any], instance: dg.DagsterInstance, **more: Any) -> Any:
    """A tick of a sensor or schedule as the daemon does it."""
    with (
        partition_loading_context(dynamic_partitions_store=instance),
        build_context(instance=instance, repository_def=defs.get_repository_def(), **more) as context,
    ):
        return definition.evaluate_tick(context)


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, pipeline: Pipeline, cursor: str | None = None
) -> dg.SensorResult:
    """Evaluate a sensor; what it asks of the partitions is done."""
    data = evaluate(sensor, dg.build_sensor_context, instance, cursor=cursor, resources={"pipeline": pipeline})
    for request in data.dynamic_partitions_requests or []:
        if isinstance(request, dg.DeleteDynamicPartitionsRequest):
            for key in request.partition_keys:
                instance.delete_dynamic_partition(request.partitions_def_name, key)
        else:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    return dg.SensorResult(
        data.run_requests or [], skip_reason=None if data.run_requests else data.skip_message, cursor=data.cursor
    )


class Daemon:
    """Ticks the real sensors in turn and runs what they ask for, as Dagster's daemon does: a run key once, ever."""

    SENSORS = (embedding_model_sensor, index_rebuild_sensor, promotion_sensor, model_drift_sensor)

    def __init__(self, instance: dg.DagsterInstance, pipeline: Pipeline) -> None:
        self.instance, self.pipeline = instance, pipeline
        self.cursors: dict[str, str | None] = {}
        self.started: list[str] = []
        self.errors: list[Exception] = []

    def run_round(self, *sensors: dg.SensorDefinition) -> list[str]:
        """One tick of each sensor, or of those given; the run keys that were started."""
        before = len(self.started)
        for sensor in sensors or self.SENSORS:
            asked = tick(sensor, self.instance, self.pipeline, self.cursors.get(sensor.name))
            self.cursors[sensor.name] = asked.cursor
            for request in asked.run_requests:
                if request.run_key in self.started:
                    continue
                self.started.append(request.run_key)
                job = request.job_name or sensor.job_name
                try:
                    obey(request, job, self.instance, self.pipeline)
                except Exception as error:  # a run that fails is a failed run, no fault of the daemon
                    self.errors.append(error)
        return self.started[before:]

    def run_until_quiet(self, most: int = 15) -> list[str]:
        """Rounds until nothing is asked for any more; the run keys that were started."""
        before = len(self.started)
        for _ in range(most):
            if not self.run_round():
                return self.started[before:]
        raise AssertionError(f"the sensors never come to rest: {self.started}")


@pytest.fixture
def daemon(instance: dg.DagsterInstance, pipeline: Pipeline) -> Daemon:
    return Daemon(instance, pipeline)


def obey(
    request: dg.RunRequest, job: str, instance: dg.DagsterInstance, pipeline: Pipeline
) -> dg.ExecuteInProcessResult:
    """Run what a sensor or schedule asked for."""
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        run_config={**request.run_config, "loggers": QUIET},
        partition_key=request.partition_key,
        tags={key: value for key, value in request.tags.items() if not key.startswith("dagster/sensor")},
        resources={"pipeline": pipeline},
    )
