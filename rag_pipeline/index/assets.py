"""`hnsw_index`: a generation of a model, loaded and built. `index_deltas`: the active ones, kept true."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from rag_pipeline.automation.partitions import BY_MODEL, EMBEDDING_MODELS, model_bucket_key
from rag_pipeline.automation.reports import make_table
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.store import count_pending_chunks
from rag_pipeline.automation.wanted import KEPT_CURRENT, find_probed_model, list_active
from rag_pipeline.embeddings.filling import EmbeddingReport
from rag_pipeline.embeddings.store import missing_chunks
from rag_pipeline.index.applying import RetiredGenerationError
from rag_pipeline.index.building import (
    BuildReport,
    build_generation,
    ensure_generation,
    fill_generation,
    refresh_generation,
)
from rag_pipeline.index.delta_store import Moved
from rag_pipeline.index.store import (
    Generation,
    Pending,
    count_pending,
    count_rows,
    read_generation,
    read_index_state,
)

LONGEST_WAIT = timedelta(hours=1)


class IndexConfig(dg.Config):
    """`rebuild_of`: build a fresh index beside this generation; 0: go on with the newest one of the recipe."""

    rebuild_of: int = 0


@dataclass
class Refreshed:
    """What one generation's queue led to. `reused`: chunks of changed documents that had their vector already."""

    generation: Generation
    embedding: EmbeddingReport = field(default_factory=EmbeddingReport)
    moved: Moved = field(default_factory=Moved)
    reused: int = 0
    buckets: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0


@dg.asset(
    deps=["chunks"],
    group_name="rag",
    kinds={"postgres"},
    description="Changed documents on their way into every active generation (queue: table rag.pending_change).",
    check_specs=[dg.AssetCheckSpec("nothing_waits_for_long", asset="index_deltas")],
)
def index_deltas(context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Cut, embed and apply what changed, to each generation that serves or may serve again."""
    with pipeline.database.connection() as connection:
        queued = count_pending(connection)
    done = []
    with pipeline.show_progress(context.log):
        for generation in list_active(pipeline, *KEPT_CURRENT):
            if generation.id in queued:
                try:
                    done.append(refresh(pipeline, generation))
                except RetiredGenerationError as error:
                    context.log.info(str(error))
    for refreshed in done:
        record_touched(context, refreshed)
    with pipeline.database.connection() as connection:
        waiting = count_pending(connection)
    rows = [
        (r.generation.id, r.generation.model, r.moved.documents, r.moved.waiting, r.moved.inserted, r.moved.deleted)
        for r in done
    ]
    columns = ["generation", "model", "documents", "waiting", "rows inserted", "rows deleted"]
    embed_seconds = sum(r.embedding.seconds for r in done)
    return dg.MaterializeResult(
        metadata={
            "documents": sum(r.moved.documents for r in done),
            "rows_inserted": sum(r.moved.inserted for r in done),
            "rows_deleted": sum(r.moved.deleted for r in done),
            "embedded": sum(r.embedding.embedded for r in done),
            "reused": sum(r.reused for r in done),
            "characters": sum(r.embedding.characters for r in done),
            "tokens": sum(r.embedding.tokens for r in done),
            "embed_seconds": round(embed_seconds, 3),
            "apply_seconds": round(sum(r.seconds for r in done) - embed_seconds, 3),
            "generations": dg.MetadataValue.md(make_table(columns, rows)),
        },
        check_results=[check_waiting(waiting, datetime.now(UTC))],
    )


def refresh(pipeline: Pipeline, generation: Generation) -> Refreshed:
    """Bring one generation up to date, and note which buckets of its model's ledger grew."""
    began = time.monotonic()
    with pipeline.database.connection() as connection:
        pending = count_pending_chunks(connection, generation.id, generation.chunker_id, generation.space_id)
        missing = missing_chunks(connection, generation.space_id, generation.chunker_id, only_pending=True)
    buckets: dict[int, int] = {}
    for chunk in missing:
        buckets[chunk.bucket] = buckets.get(chunk.bucket, 0) + 1
    embedding, moved = refresh_generation(pipeline.database, pipeline.settings, generation)
    return Refreshed(generation, embedding, moved, pending.embedded, buckets, time.monotonic() - began)


def record_touched(context: dg.AssetExecutionContext, refreshed: Refreshed) -> None:
    """Tell the graph which partitions of `embeddings` and `hnsw_index` this run has moved on."""
    generation, moved = refreshed.generation, refreshed.moved
    partitions = []
    if refreshed.embedding.embedded:
        for bucket, count in sorted(refreshed.buckets.items()):
            key = model_bucket_key(generation.model, bucket)
            partitions.append(dg.AssetMaterialization("embeddings", partition=key, metadata={"embedded": count}))
    if moved.inserted or moved.deleted:
        metadata = {"generation": generation.id, "inserted": moved.inserted, "deleted": moved.deleted}
        partitions.append(dg.AssetMaterialization("hnsw_index", partition=generation.model, metadata=metadata))
    if not partitions:
        return
    if not context.instance.has_dynamic_partition(str(EMBEDDING_MODELS.name), generation.model):
        context.instance.add_dynamic_partitions(str(EMBEDDING_MODELS.name), [generation.model])
    for materialization in partitions:
        context.log_event(materialization)


def check_waiting(waiting: dict[int, Pending], now: datetime) -> dg.AssetCheckResult:
    """Fails if a changed document has waited for a generation longer than an hour."""
    late = {g: p for g, p in waiting.items() if p.oldest is not None and now - p.oldest > LONGEST_WAIT}
    rows = [(g, p.documents, p.oldest) for g, p in sorted(waiting.items())]
    return dg.AssetCheckResult(
        check_name="nothing_waits_for_long",
        passed=not late,
        metadata={
            "documents": sum(p.documents for p in waiting.values()),
            "queue": dg.MetadataValue.md(make_table(["generation", "documents", "since"], rows)),
        },
    )


@dg.asset(
    deps=[dg.AssetDep("embeddings", partition_mapping=BY_MODEL)],
    partitions_def=EMBEDDING_MODELS,
    group_name="rag",
    kinds={"postgres"},
    description="A generation: a model's vectors in a table of their own with an HNSW index, and BM25 postings.",
    check_specs=[dg.AssetCheckSpec("index_is_valid", asset="hnsw_index")],
)
def hnsw_index(
    context: dg.AssetExecutionContext, config: IndexConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Create the model's generation for today's recipe, or go on with it: fill, load, build, catch up."""
    began = time.monotonic()
    record = find_probed_model(pipeline, context.partition_key)
    with pipeline.show_progress(context.log):
        generation = ensure_generation(pipeline.database, pipeline.settings, record, newer_than=config.rebuild_of)
        # what came in since the embeddings ran is embedded here: nobody else does it for a building generation
        filled = fill_generation(pipeline.database, pipeline.settings, generation)
        report = build_generation(pipeline.database, pipeline.settings, generation)
    with pipeline.database.connection() as connection:
        now = read_generation(connection, generation.id) or generation
        rows, index = count_rows(connection, now), read_index_state(connection, now)
    valid = index is not None and index.valid
    return dg.MaterializeResult(
        metadata={
            "generation": now.id,
            "state": now.state,
            "rows": rows,
            "index_bytes": index.bytes if index else 0,
            "embedded": filled.embedded,
            "characters": filled.characters,
            "embed_seconds": round(filled.seconds, 3),
            "seconds": round(time.monotonic() - began, 3),
            **describe_build(report),
        },
        check_results=[dg.AssetCheckResult(check_name="index_is_valid", passed=valid, metadata={"rows": rows})],
    )


def describe_build(report: BuildReport | None) -> dict[str, dg.MetadataValue]:
    """What a build took beside what was planned; nothing where it was built before."""
    if report is None:
        return {"build": dg.MetadataValue.text("built before")}
    plan = report.plan
    rows = [
        ("rows", plan.rows, plan.rows),
        ("index bytes", plan.index_bytes, report.index_bytes),
        ("memory MB", plan.memory_mb, None),
        ("spilled", not plan.fits, report.spilled),
    ]
    return {
        "build": dg.MetadataValue.md(make_table(["what", "planned", "was"], rows)),
        "build_seconds": dg.MetadataValue.float(round(report.seconds, 3)),
        "spilled": dg.MetadataValue.bool(report.spilled),
    }
