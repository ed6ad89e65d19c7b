"""The `documents` asset: what it is and what must hold of it. Reading them is one pass with the versions."""

import dagster as dg

from rag_pipeline.automation.reports import make_table
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.documents.store import SourceRecord, count_documents, list_failures

DOCUMENTS = dg.AssetSpec(
    "documents",
    group_name="rag",
    description="Every document there is or was: tenant, source and URI (table rag.document).",
    kinds={"postgres"},
)
DOCUMENT_CHECKS = [
    dg.AssetCheckSpec(
        "everything_was_read", asset="documents", description="Input that could not be read, with the reason."
    ),
    dg.AssetCheckSpec(
        "sources_were_found", asset="documents", description="Registered sources that could not be listed."
    ),
]


def check_failures(pipeline: Pipeline) -> dg.AssetCheckResult:
    """A warning, not an error: what could not be read costs nobody else, and stays recorded until it changes."""
    with pipeline.database.connection() as connection:
        failures = list_failures(connection)
    return dg.AssetCheckResult(
        check_name="everything_was_read",
        asset_key="documents",
        passed=not failures,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "failures": len(failures),
            "what": dg.MetadataValue.md(
                make_table(["source", "uri", "code", "reason"], [(f[1], f[2], f[3], f[4]) for f in failures[:50]])
            ),
        },
    )


def check_sources(unread: dict[str, str]) -> dg.AssetCheckResult:
    """Fails with the sources that could not be read and why; nothing of theirs was deleted."""
    return dg.AssetCheckResult(
        check_name="sources_were_found",
        asset_key="documents",
        passed=not unread,
        metadata={"what": dg.MetadataValue.md(make_table(["source", "reason"], sorted(unread.items())))},
    )


def count_live(pipeline: Pipeline) -> dict[str, int]:
    """Documents as they stand."""
    with pipeline.database.connection() as connection:
        live, deleted = count_documents(connection)
    return {"live": live, "deleted": deleted}


def group_sources(sources: list[SourceRecord]) -> dict[tuple[str, str, bool], list[SourceRecord]]:
    """Registered locations as they must be read together: all of one source, by (tenant, name, prune)."""
    groups: dict[tuple[str, str, bool], list[SourceRecord]] = {}
    for source in sources:
        groups.setdefault((source.tenant, source.name, source.prune), []).append(source)
    return groups
