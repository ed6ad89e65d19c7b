"""The `embeddings` asset: the ledger, by model and bucket."""

import time
from collections import Counter
from collections.abc import Sequence

import dagster as dg

from rag_pipeline.automation.partitions import MODEL_BUCKETS, group_by_model, model_bucket_key
from rag_pipeline.automation.reports import make_table, rate
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.store import read_vector_figures, sample_embeddings
from rag_pipeline.automation.wanted import WantedChunker, cut_wanted, find_probed_model, list_model_chunkers
from rag_pipeline.embeddings.filling import Budget, BudgetReachedError, EmbeddingReport, embed_missing, make_budget
from rag_pipeline.embeddings.models import ModelUnavailable
from rag_pipeline.embeddings.store import Coverage, ModelRecord, missing_chunks, read_coverage, set_paused

# A unit vector keeps its length to about 1e-3 in float32, however it was computed.
NORM_TOLERANCE = 0.01
RETRIES, RETRY_SECONDS = 3, 60


class EmbeddingConfig(dg.Config):
    """What this run may spend. Money needs a price: here or RAG_PRICE_PER_MILLION."""

    max_tokens: int | None = None
    max_cost: float | None = None
    price_per_million: float | None = None


@dg.asset(
    deps=["chunks"],
    partitions_def=MODEL_BUCKETS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="rag",
    kinds={"postgres"},
    description="One vector per embedding space and chunk, ever (table rag.embedding).",
    check_specs=[
        dg.AssetCheckSpec("every_chunk_has_a_vector", asset="embeddings"),
        dg.AssetCheckSpec("vectors_are_sound", asset="embeddings"),
    ],
)
def embeddings(
    context: dg.AssetExecutionContext, config: EmbeddingConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Embed every chunk of the run's buckets that has no vector under the model, as far as the budget goes.

    A budget that is spent is a result, not a failure: `paused` says so, and the next run goes on.
    """
    began = time.monotonic()
    price = config.price_per_million or pipeline.settings.price_per_million
    budget, paused = make_budget(config.max_tokens, config.max_cost, price), ""
    total, left, samples = EmbeddingReport(), 0, []
    coverage: dict[str, Coverage] = {}
    unsound: dict[str, tuple[int, str]] = {}
    for slug, buckets in group_by_model(context.partition_keys).items():
        record = find_probed_model(pipeline, slug)
        with pipeline.show_progress(context.log):
            embedded, report, stopped = embed_buckets(pipeline, record, buckets, budget)
        paused = paused or stopped
        add_report(total, report)
        for bucket in buckets:
            count, tokens = embedded.get(bucket, (0, 0))
            context.add_asset_metadata(
                {"embedded": count, "tokens": tokens}, partition_key=str(model_bucket_key(slug, bucket))
            )
        left += count_missing(pipeline, record, buckets)
        coverage |= read_model_coverage(pipeline, record)
        unsound |= find_unsound(pipeline, record)
        with pipeline.database.connection() as connection:
            samples += sample_embeddings(connection, record.space, buckets)
    columns = ["chunk", "title", "tokens", "dimension", "norm", "text"]
    return dg.MaterializeResult(
        metadata={
            "embedded_by_this_run": total.embedded,
            "refused_by_the_model": total.refused,
            "characters": total.characters,
            "tokens_of_this_run": total.tokens,
            "cost_of_this_run": round(total.tokens / 1e6 * (price or 0.0), 4),
            "paused": paused,
            "missing": left,
            "embed_seconds": round(total.seconds, 3),
            "texts_per_second": rate(total.embedded, total.seconds),
            "tokens_per_second": rate(total.tokens, total.seconds),
            "seconds": round(time.monotonic() - began, 3),
            "chunks": sum(c.chunks for c in coverage.values()),
            "samples": dg.MetadataValue.md(make_table(columns, samples)),
        },
        check_results=[check_coverage(left, coverage), check_vectors(unsound)],
    )


def embed_buckets(
    pipeline: Pipeline, record: ModelRecord, buckets: Sequence[int], budget: Budget | None = None
) -> tuple[dict[int, tuple[int, int]], EmbeddingReport, str]:
    """Fill some buckets of a model's ledger; (chunks, tokens) found missing by bucket, the whole report, and why
    it stopped before the end ('' where it did not).

    Unattended, an endpoint that is down is tried again later by Dagster; a person is told at once.
    """
    found: dict[int, tuple[int, int]] = {}
    total, paused = EmbeddingReport(), ""
    try:
        for chunker_id in list_model_chunkers(pipeline, record):
            cut_wanted(pipeline, WantedChunker(chunker_id, only_pending=False))
            with pipeline.database.connection() as connection:
                missing = missing_chunks(connection, record.space, chunker_id, only_pending=False, buckets=buckets)
            counts, tokens = Counter(c.bucket for c in missing), Counter[int]()
            for chunk in missing:
                tokens[chunk.bucket] += chunk.token_count
            for bucket, count in counts.items():
                before = found.get(bucket, (0, 0))
                found[bucket] = (before[0] + count, before[1] + tokens[bucket])
            report = EmbeddingReport()
            try:
                embed_missing(
                    pipeline.database,
                    record,
                    chunker_id,
                    only_pending=False,
                    buckets=buckets,
                    budget=budget,
                    report=report,
                )
            except BudgetReachedError as error:
                paused = str(error)
            add_report(total, report)
    except ModelUnavailable as error:
        if pipeline.watched_by == "caller":
            raise
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_SECONDS) from error
    with pipeline.database.transaction() as connection:
        set_paused(connection, record.id, paused or None)
    return found, total, paused


def add_report(total: EmbeddingReport, more: EmbeddingReport) -> None:
    """Add one filling's numbers to a total."""
    total.embedded += more.embedded
    total.refused += more.refused
    total.characters += more.characters
    total.tokens += more.tokens
    total.seconds += more.seconds


def count_missing(pipeline: Pipeline, record: ModelRecord, buckets: Sequence[int]) -> int:
    """Chunks of some buckets that still have no vector."""
    with pipeline.database.connection() as connection:
        return sum(
            len(missing_chunks(connection, record.space, chunker_id, only_pending=False, buckets=buckets))
            for chunker_id in list_model_chunkers(pipeline, record)
        )


def read_model_coverage(pipeline: Pipeline, record: ModelRecord) -> dict[str, Coverage]:
    """How much of the current text a model covers, by 'model, chunker'."""
    with pipeline.database.connection() as connection:
        return {
            f"{record.slug}, chunker {chunker_id}": read_coverage(connection, record.space, chunker_id)
            for chunker_id in list_model_chunkers(pipeline, record)
        }


def find_unsound(pipeline: Pipeline, record: ModelRecord) -> dict[str, tuple[int, str]]:
    """By model: how many vectors, and what is wrong with them ('' for nothing)."""
    with pipeline.database.connection() as connection:
        figures = read_vector_figures(connection, record.space, record.dimension or 0)
    problems = []
    if figures.other_dimension:
        problems.append(f"{figures.other_dimension} are not of dimension {record.dimension}")
    if figures.without_length:
        problems.append(f"{figures.without_length} have no length")
    if record.spec.normalise and figures.shortest is not None and figures.longest is not None:
        off = max(abs(figures.shortest - 1), abs(figures.longest - 1))
        if off > NORM_TOLERANCE:
            problems.append(f"norms lie between {figures.shortest:.4f} and {figures.longest:.4f}, not at 1")
    return {record.slug: (figures.vectors, "; ".join(problems))}


def check_coverage(left: int, coverage: dict[str, Coverage]) -> dg.AssetCheckResult:
    """Fails if a chunk of the run's buckets has neither a vector nor a recorded refusal."""
    rows = [(name, c.chunks, c.embedded, c.refused, c.missing) for name, c in coverage.items()]
    refused = sum(c.refused for c in coverage.values())
    return dg.AssetCheckResult(
        check_name="every_chunk_has_a_vector",
        passed=not left and not refused,
        # what a model refuses is found by words only: known and recorded, so a warning
        severity=dg.AssetCheckSeverity.ERROR if left else dg.AssetCheckSeverity.WARN,
        metadata={
            "missing_in_this_run": left,
            "refused": refused,
            "coverage": dg.MetadataValue.md(make_table(["model", "chunks", "embedded", "refused", "missing"], rows)),
        },
    )


def check_vectors(unsound: dict[str, tuple[int, str]]) -> dg.AssetCheckResult:
    """Fails if a vector has another dimension, no length, or is not normalised where the model says so."""
    rows = [(slug, vectors, problem or "sound") for slug, (vectors, problem) in unsound.items()]
    return dg.AssetCheckResult(
        check_name="vectors_are_sound",
        passed=not any(problem for _, problem in unsound.values()),
        metadata={"vectors": dg.MetadataValue.md(make_table(["model", "vectors", "found"], rows))},
    )
