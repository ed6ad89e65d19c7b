"""Dagster runs in the caller's own process: what `rag ingest` and `rag model swap` do.

The events are in Dagster's storage like those of any run; the terminal belongs to the caller.
"""

import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from rag_pipeline.database.engine import open_database
from rag_pipeline.database.files import packaged_path
from rag_pipeline.documents.locations import Location
from rag_pipeline.errors import ExpectedError
from rag_pipeline.settings import Settings, export_settings

if TYPE_CHECKING:
    from dagster import DagsterInstance, ExecuteInProcessResult

    from rag_pipeline.automation.resources import Pipeline

WRITTEN_BY_US = "# Written by `rag` at every start; remove this line to keep changes of your own.\n"
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


class RunFailedError(ExpectedError):
    """A run ended without success and without an error of its own; the message names the run."""


class IngestRunResult(TypedDict):
    """The numbers of `rag ingest --json`, and the input that could not be read."""

    documents: dict[str, int]
    chunks: dict[str, int]
    embeddings: dict[str, int]
    characters: dict[str, int]
    generation: int | None
    seconds: dict[str, float]
    failures: list[dict[str, str]]


class SwapResult(TypedDict):
    """What a swap led to. `reason` is the verdict's, or the gate's where it refused."""

    generation: int
    verdict: str
    reason: str
    promoted: bool
    embeddings: dict[str, int]
    characters: int
    seconds: dict[str, float]


def prepare_home(settings: Settings) -> Path:
    """Make RAG_HOME/dagster the home of Dagster for this process and its children; returns it."""
    export_settings(settings)
    if settings.dagster_database_url is not None:
        os.environ["RAG_DAGSTER_DATABASE_URL"] = settings.dagster_database_url.get_secret_value()
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    file, wanted = folder / "dagster.yaml", WRITTEN_BY_US + packaged_path("dagster.yaml").read_text(encoding="utf-8")
    found = file.read_text(encoding="utf-8") if file.exists() else WRITTEN_BY_US
    if found.startswith(WRITTEN_BY_US) and found != wanted:
        beside = file.with_suffix(f".{os.getpid()}")
        beside.write_text(wanted, encoding="utf-8")
        beside.replace(file)
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


@dataclass(frozen=True)
class Control:
    """An open pipeline and the Dagster instance that records what is done with it."""

    pipeline: "Pipeline"
    instance: "DagsterInstance"

    def run(
        self,
        job: str,
        *,
        config: Mapping[str, Any] | None = None,
        partition: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "Materialized":
        """Run a job here and now. Raises what its steps raise."""
        from rag_pipeline.automation.launching import process_tags
        from rag_pipeline.definitions import defs

        result = defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config={**(config or {}), "loggers": QUIET},
            partition_key=partition,
            tags={**(tags or {}), **process_tags(os.getpid(), socket.gethostname())},
            resources={"pipeline": self.pipeline},
        )
        if not result.success:
            raise RunFailedError(f"Run {result.run_id} of {job} failed; see it in Dagster's UI: rag up")
        return Materialized(result)


class Materialized:
    """The metadata that a run's assets reported."""

    def __init__(self, result: "ExecuteInProcessResult") -> None:
        self.run_id = result.run_id
        self.by_asset: dict[str, dict[str, Any]] = {}
        for event in result.get_asset_materialization_events():
            found = event.materialization
            values = {name: value.value for name, value in found.metadata.items()}
            self.by_asset.setdefault(found.asset_key.to_user_string(), {}).update(values)

    def number(self, asset: str, name: str) -> int:
        """A count an asset reported."""
        return int(self.by_asset[asset][name])

    def seconds(self, asset: str, name: str = "seconds") -> float:
        """A duration an asset reported."""
        return round(float(self.by_asset[asset][name]), 3)


@contextmanager
def open_control(settings: Settings, instance: "DagsterInstance | None" = None) -> Iterator[Control]:
    """Open database and instance, and fail the runs that died before us: they would hold the queue."""
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # Dagster announces its beta features; a person ingesting cannot act on it
        from dagster import DagsterInstance

        from rag_pipeline.automation.launching import fail_dead_runs
        from rag_pipeline.automation.resources import Pipeline
        from rag_pipeline.automation.storage import capture_output

        token = capture_output.set(False)
        stack.callback(capture_output.reset, token)
        database = open_database(settings)
        stack.callback(database.close)
        if instance is None:
            prepare_home(settings)
            instance = stack.enter_context(DagsterInstance.get())
            fail_dead_runs(instance)
        yield Control(Pipeline(settings, database, watched_by="caller"), instance)


def run_ingest(
    settings: Settings, locations: Sequence[Location], prune: bool = False, *, instance: "DagsterInstance | None" = None
) -> IngestRunResult:
    """Read the locations and bring everything up to date; with nothing serving yet, build and serve the first
    generation. Raises what went wrong in the pipeline's own terms (`LocationError`, `PruneRefusedError`, …)."""
    began = time.monotonic()
    with open_control(settings, instance) as control:
        from rag_pipeline.automation.jobs import ingest_config

        model_seconds = _register_first_model(control)
        described = [
            {"path": at.path, "tenant": at.tenant, "source": at.source, "include": list(at.include)} for at in locations
        ]
        done = control.run("ingest", config=ingest_config(described, prune))
        result = _describe_ingest(done)
        generation = _read_pointer(control)
        if generation is None and done.number("documents", "live"):
            swap = swap_model(control, settings.model_slug, promote=True)
            if not swap["promoted"]:
                raise RunFailedError(f"The first generation cannot serve: {swap['reason']}")
            _add_swap(result, swap)
            generation = swap["generation"]
        result["generation"] = generation
        result["seconds"] |= {"model": model_seconds, "total": round(time.monotonic() - began, 3)}
        return result


def _register_first_model(control: Control) -> float:
    """Before the first generation the chunker needs the default model's limit; loading it is no chunking time."""
    from rag_pipeline.automation.wanted import default_model_spec, list_active
    from rag_pipeline.embeddings.registry import add_model

    began = time.monotonic()
    if not list_active(control.pipeline):
        add_model(control.pipeline.database, default_model_spec(control.pipeline.settings))
    return round(time.monotonic() - began, 3)


def _describe_ingest(done: Materialized) -> IngestRunResult:
    kinds = ("added", "changed", "removed", "unchanged", "failed")
    return IngestRunResult(
        documents={kind: done.number("documents", kind) for kind in kinds},
        chunks={kind: done.number("chunks", kind) for kind in ("new", "reused")},
        embeddings={
            "new": done.number("index_deltas", "embedded"),
            "reused": done.number("index_deltas", "reused"),
        },
        characters={"embedded": done.number("index_deltas", "characters")},
        generation=None,
        seconds={
            "ingest": done.seconds("documents"),
            "chunk": done.seconds("chunks"),
            "embed": done.seconds("index_deltas", "embed_seconds"),
            "index": done.seconds("index_deltas", "apply_seconds"),
        },
        failures=list(done.by_asset["documents"]["failures"]),
    )


def _add_swap(result: IngestRunResult, swap: SwapResult) -> None:
    for kind in ("new", "reused"):
        result["embeddings"][kind] += swap["embeddings"][kind]
    result["characters"]["embedded"] += swap["characters"]
    for name, seconds in swap["seconds"].items():
        result["seconds"][name] = round(result["seconds"].get(name, 0.0) + seconds, 3)


def _read_pointer(control: Control) -> int | None:
    from rag_pipeline.serving.store import read_serving

    with control.pipeline.database.connection() as connection:
        serving = read_serving(connection)
    return serving.generation_id if serving else None


def run_model_swap(
    settings: Settings,
    slug: str,
    *,
    promote: bool = False,
    max_tokens: int | None = None,
    instance: "DagsterInstance | None" = None,
) -> SwapResult:
    """Embed, build and compare a generation of a registered model; with `promote`, let it serve if it may.

    A refusal is a result (`promoted` is False). Raises `UnknownModelError`, `BuildBusyError`, `ModelError`, and
    `BudgetReachedError` where embedding takes more than `max_tokens`: the next call goes on from the ledger.
    """
    with open_control(settings, instance) as control:
        return swap_model(control, slug, promote=promote, max_tokens=max_tokens)


def swap_model(control: Control, slug: str, *, promote: bool, max_tokens: int | None = None) -> SwapResult:
    """The runs of a swap: all buckets in one, then the index, the comparison and the pointer in another."""
    from rag_pipeline.automation.jobs import promotion_config
    from rag_pipeline.automation.partitions import BUCKET_COUNT, EMBEDDING_MODELS, range_tags
    from rag_pipeline.automation.wanted import find_probed_model
    from rag_pipeline.embeddings.filling import BudgetReachedError
    from rag_pipeline.serving.promotion import GateRefusedError

    find_probed_model(control.pipeline, slug)
    control.instance.add_dynamic_partitions(str(EMBEDDING_MODELS.name), [slug])
    budget = {"ops": {"embeddings": {"config": {"max_tokens": max_tokens}}}} if max_tokens is not None else {}
    embedded = control.run("embed_model", tags=range_tags(slug, 0, BUCKET_COUNT - 1), config=budget)
    if paused := str(embedded.by_asset["embeddings"]["paused"]):
        missing = embedded.number("embeddings", "missing")
        raise BudgetReachedError(f"{paused}; {missing:,} chunks are left. Go on with: rag model swap {slug}")
    built = control.run("build_index", partition=slug)
    promoted, reason = False, str(built.by_asset["retrieval_evaluation"]["reason"])
    if promote:
        try:
            control.run("promote", partition=slug, config=promotion_config("rag", reason))
            promoted = True
        except GateRefusedError as error:
            reason = str(error)
    new = embedded.number("embeddings", "embedded_by_this_run")
    return SwapResult(
        generation=built.number("hnsw_index", "generation"),
        verdict=str(built.by_asset["retrieval_evaluation"]["verdict"]),
        reason=reason,
        promoted=promoted,
        embeddings={
            "new": new + built.number("hnsw_index", "embedded"),
            "reused": max(0, embedded.number("embeddings", "chunks") - new),
        },
        characters=embedded.number("embeddings", "characters") + built.number("hnsw_index", "characters"),
        seconds={
            "embed": round(
                embedded.seconds("embeddings", "embed_seconds") + built.seconds("hnsw_index", "embed_seconds"), 3
            ),
            "index": round(built.seconds("hnsw_index") - built.seconds("hnsw_index", "embed_seconds"), 3),
            "evaluate": built.seconds("retrieval_evaluation"),
        },
    )
