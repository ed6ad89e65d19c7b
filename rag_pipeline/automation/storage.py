"""Dagster's own tables and files, placed by our settings: no environment variable to set, nothing in the checkout."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage

from rag_pipeline.database.engine import dagster_storage_url
from rag_pipeline.settings import load_settings

# A run in the user's own process leaves that process's terminal alone.
capture_output: ContextVar[bool] = ContextVar("capture_output", default=True)


def dagster_folder() -> Path:
    """Where Dagster's files go: RAG_HOME/dagster."""
    return load_settings().home / "dagster"


class _WithoutOptions:
    """dagster.yaml names the class and nothing else: all it needs is in our settings."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}


class StorageFromSettings(_WithoutOptions, DagsterPostgresStorage):
    """Runs, events and schedules in the database `dagster` of our server, which is started if need be."""

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],  # noqa: ARG003 - the signature is Dagster's
    ) -> "StorageFromSettings":
        return cls(dagster_storage_url(load_settings()), inst_data=inst_data)


class ArtifactsFromSettings(_WithoutOptions, LocalArtifactStorage):
    """What Dagster keeps in files, under RAG_HOME."""

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Any,  # noqa: ARG003
    ) -> "ArtifactsFromSettings":
        return cls(str(dagster_folder()), inst_data=inst_data)


class OutputFromSettings(_WithoutOptions, LocalComputeLogManager):
    """Standard output and error of runs, under RAG_HOME; those of a run in the user's own process stay there."""

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Any,  # noqa: ARG003
    ) -> "OutputFromSettings":
        return cls(str(dagster_folder() / "output"), inst_data=inst_data)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        if capture_output.get():
            with super().capture_logs(log_key) as context:
                yield context
        else:
            yield CapturedLogContext(log_key)
