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
        instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    return dg.SensorResult(
        data.run_requests or [], skip_reason=None if data.run_requests else data.skip_message, cursor=data.cursor
    )


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
