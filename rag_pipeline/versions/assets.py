"""The pass over all sources that writes `documents` and `document_versions`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg
from pydantic import Field

from rag_pipeline.automation.reports import make_table, rate
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.store import sample_documents
from rag_pipeline.documents.assets import (
    DOCUMENT_CHECKS,
    DOCUMENTS,
    check_failures,
    check_sources,
    count_live,
    group_sources,
)
from rag_pipeline.documents.locations import LocationError, resolve_location
from rag_pipeline.documents.store import SourceRecord, list_sources
from rag_pipeline.versions.ingestion import IngestReport, PruneRefusedError, ingest_locations
from rag_pipeline.versions.store import count_versions

DOCUMENT_VERSIONS = dg.AssetSpec(
    "document_versions",
    deps=["documents"],
    group_name="rag",
    description="Each content a document ever had, with its text and metadata (table rag.document_version).",
    kinds={"postgres"},
)


class LocationConfig(dg.Config):
    """A folder, a file, a JSONL file, or an fsspec URL."""

    path: str
    tenant: str = "default"
    source: str | None = None
    include: list[str] = Field(default_factory=list)


class IngestConfig(dg.Config):
    """What to read; no locations: every registered source, each as it was read before."""

    locations: list[LocationConfig] = Field(default_factory=list)
    prune: bool = False


@dataclass
class Reading:
    """What a pass did, and the registered sources it could not read."""

    report: IngestReport = field(default_factory=IngestReport)
    unread: dict[str, str] = field(default_factory=dict)


def read_locations(pipeline: Pipeline, config: IngestConfig) -> Reading:
    """Read the given locations. Raises `LocationError` and `PruneRefusedError`; then nothing was deleted."""
    locations = [resolve_location(c.path, c.tenant, c.source, c.include) for c in config.locations]
    return Reading(ingest_locations(pipeline.database, pipeline.settings, locations, prune=config.prune))


def read_registered(pipeline: Pipeline) -> Reading:
    """Read every registered source; one that is gone stops none of the others."""
    with pipeline.database.connection() as connection:
        groups = group_sources(list_sources(connection))
    reading = Reading()
    for (tenant, name, prune), sources in groups.items():
        try:
            reading.report.add(_read_source(pipeline, tenant, name, sources, prune))
        except (LocationError, PruneRefusedError) as error:
            reading.unread[f"{tenant}/{name}"] = str(error)
    return reading


def _read_source(pipeline: Pipeline, tenant: str, name: str, sources: list[SourceRecord], prune: bool) -> IngestReport:
    locations = [resolve_location(s.location, tenant, name, s.include) for s in sources]
    return ingest_locations(pipeline.database, pipeline.settings, locations, prune=prune)


@dg.multi_asset(specs=[DOCUMENTS, DOCUMENT_VERSIONS], check_specs=DOCUMENT_CHECKS)
def read_documents(
    context: dg.AssetExecutionContext, config: IngestConfig, pipeline: dg.ResourceParam[Pipeline]
) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    """Read what changed, and write its next versions. Unchanged files are not opened."""
    began = time.monotonic()
    with pipeline.show_progress(context.log):
        reading = read_locations(pipeline, config) if config.locations else read_registered(pipeline)
    report, seconds = reading.report, time.monotonic() - began
    written = report.added + report.changed
    with pipeline.database.connection() as connection:
        samples, versions = sample_documents(connection), count_versions(connection)
    yield dg.MaterializeResult(
        asset_key="documents",
        metadata={
            "added": report.added,
            "changed": report.changed,
            "removed": report.removed,
            "unchanged": report.unchanged,
            "failed": report.failed,
            "failures": dg.MetadataValue.json(
                [{"uri": f.uri, "code": f.code, "reason": f.reason} for f in report.failures[:200]]
            ),
            "seconds": round(seconds, 3),
            "documents_per_second": rate(written + report.unchanged + report.failed, seconds),
            **count_live(pipeline),
        },
        check_results=[check_failures(pipeline), check_sources(reading.unread)],
    )
    columns = ["uri", "source", "version", "media type", "characters", "since"]
    yield dg.MaterializeResult(
        asset_key="document_versions",
        metadata={
            "written": written,
            "versions": versions,
            "latest": dg.MetadataValue.md(make_table(columns, samples)),
        },
    )
