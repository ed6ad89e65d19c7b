"""The `chunks` asset: versions cut for every chunker that a generation uses."""

import time

import dagster as dg

from rag_pipeline.automation.reports import make_table, rate
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.store import sample_chunks
from rag_pipeline.automation.wanted import cut_wanted, list_wanted_chunkers
from rag_pipeline.chunks.cutting import ChunkReport
from rag_pipeline.chunks.store import count_chunks


@dg.asset(
    deps=["document_versions"],
    group_name="rag",
    kinds={"postgres"},
    description="Text addressed by its content: an edit makes only the changed chunks new (table rag.chunk).",
)
def chunks(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Cut the versions that were not cut yet."""
    began, total = time.monotonic(), ChunkReport()
    with pipeline.show_progress(context.log):
        for wanted in list_wanted_chunkers(pipeline):
            report = cut_wanted(pipeline, wanted)
            total = ChunkReport(total.versions + report.versions, total.new + report.new, total.reused + report.reused)
    seconds = time.monotonic() - began
    with pipeline.database.connection() as connection:
        samples, chunks_ever = sample_chunks(connection), count_chunks(connection)
    return dg.MaterializeResult(
        metadata={
            "versions": total.versions,
            "new": total.new,
            "reused": total.reused,
            "chunks": chunks_ever,
            "seconds": round(seconds, 3),
            "versions_per_second": rate(total.versions, seconds),
            "latest": dg.MetadataValue.md(make_table(["id", "title", "heading", "tokens", "text"], samples)),
        }
    )
