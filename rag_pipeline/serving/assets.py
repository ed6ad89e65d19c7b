"""Proof and cutover: `retrieval_evaluation`, `serving_index`, and the checks that look at what serves."""

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from rag_pipeline.automation.partitions import EMBEDDING_MODELS
from rag_pipeline.automation.reports import make_table
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.store import explain, read_any_vector
from rag_pipeline.automation.wanted import KEPT_CURRENT, list_active
from rag_pipeline.embeddings.store import read_coverage
from rag_pipeline.errors import MissingError
from rag_pipeline.index.reconciliation import find_discrepancies
from rag_pipeline.index.store import Generation, count_rows, find_candidate
from rag_pipeline.serving.comparing import ComparedQuery, list_figures, list_soundness
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.plots import plot_changes, plot_means, plot_weights, to_markdown
from rag_pipeline.serving.promotion import GateRefusedError, promote
from rag_pipeline.serving.search_store import compose_nearest, to_parameter
from rag_pipeline.serving.store import latest_evaluation, list_evaluation_queries, list_promotions, read_serving

# Below this, comparing every row is cheaper than walking the graph, and the planner knows it.
SMALL_TABLE = 20_000
MOST_ROWS = 50


class PromotionConfig(dg.Config):
    """Who promotes and why; `force` overrides the verdict and needs a reason."""

    actor: str = "dagster"
    reason: str = "the verdict allows it"
    force: bool = False


def find_generation(pipeline: Pipeline, slug: str) -> Generation:
    """`find_candidate`, or a `MissingError` that says what to materialise first."""
    with pipeline.database.connection() as connection:
        found = find_candidate(connection, slug)
    if found is None:
        raise MissingError(f"Model {slug!r} has no generation that is ready: build it first, with hnsw_index")
    return found


@dg.asset(
    deps=["hnsw_index"],
    partitions_def=EMBEDDING_MODELS,
    group_name="rag",
    kinds={"postgres"},
    description="The verdict on a candidate against what serves, on the whole path (table rag.evaluation).",
)
def retrieval_evaluation(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Ask both the same queries and record who answers better. A bad verdict is a result, not a failure."""
    began = time.monotonic()
    generation = find_generation(pipeline, context.partition_key)
    with pipeline.show_progress(context.log):
        evaluation = evaluate_candidate(pipeline.database, pipeline.settings, generation)
    metrics = evaluation.metrics
    with pipeline.database.connection() as connection:
        queries = list_evaluation_queries(connection, evaluation.id)
    figures = make_table(["", "candidate", "serving", "difference (95 % interval)"], list_figures(metrics))
    metadata: dict[str, Any] = {
        "generation": generation.id,
        "baseline": evaluation.baseline_id or 0,
        "verdict": evaluation.verdict,
        "allows": evaluation.allows,
        "reason": evaluation.reason,
        "figures": dg.MetadataValue.md(figures),
        "soundness": dg.MetadataValue.md(make_table(["", ""], list_soundness(metrics))),
        "queries that got worse": dg.MetadataValue.md(list_worst(metrics)),
        "queries": dg.MetadataValue.md(list_queries(queries)),
        "evidence": dg.MetadataValue.json(metrics),
        "seconds": round(time.monotonic() - began, 3),
    }
    if side := metrics.get("candidate"):
        # numbers of their own, so that Dagster draws them over time
        metadata |= {name: side[name] for name in ("ndcg_at_10", "recall_at_10", "mrr", "p95_ms")}
        metadata["plot"] = dg.MetadataValue.md(to_markdown(plot_means(metrics), "figures"))
        metadata["plot of changes"] = dg.MetadataValue.md(to_markdown(plot_changes(queries), "changes"))
    if metrics.get("fusion"):
        metadata["plot of the fusion weight"] = dg.MetadataValue.md(to_markdown(plot_weights(metrics), "weights"))
    return dg.MaterializeResult(metadata=metadata)


def list_worst(metrics: dict[str, Any]) -> str:
    """The queries that lost most, with both rankings, as a table."""
    rows = [(w["query"], *w["ndcg_at_10"], w["candidate"], w["baseline"]) for w in metrics.get("worst", [])]
    return make_table(["query", "nDCG@10", "was", "candidate finds", "serving finds"], rows)


def list_queries(queries: Sequence[ComparedQuery]) -> str:
    """The first of all queries with both figures, those that lost most first; all are in rag.evaluation_query."""
    rows = [
        (q.kind, q.query, q.candidate.ndcg_at_10, q.baseline.ndcg_at_10, q.overlap_at_10)
        for q in sorted(queries, key=lambda q: (q.change, q.overlap_at_10))[:MOST_ROWS]
    ]
    return make_table(["kind", "query", "nDCG@10", "serving", "overlap"], rows)


@dg.asset(
    deps=["retrieval_evaluation"],
    partitions_def=EMBEDDING_MODELS,
    group_name="rag",
    kinds={"postgres"},
    description="The pointer that says which generation serves (tables rag.serving, rag.promotion).",
)
def serving_index(
    context: dg.AssetExecutionContext, config: PromotionConfig, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Let the model's ready generation serve. Fails with the gate's reason where the verdict does not allow it."""
    if config.force and not config.reason.strip():
        raise GateRefusedError("force needs a reason: it is recorded")
    generation = find_generation(pipeline, context.partition_key)
    cold = promote(
        pipeline.database,
        generation.id,
        actor=config.actor,
        reason=config.reason,
        force=config.force,
        warm_seconds=pipeline.settings.warm_seconds,
    )
    with pipeline.database.connection() as connection:
        serving, evaluation = read_serving(connection), latest_evaluation(connection, generation.id)
        history = list_promotions(connection)[-5:]
    rows = [(p.promoted_at, p.action, p.generation_id, p.previous_id, p.forced, p.actor, p.reason) for p in history]
    columns = ["when", "what", "generation", "before", "forced", "by", "reason"]
    return dg.MaterializeResult(
        metadata={
            "generation": generation.id,
            "previous": (serving.previous_id if serving else None) or 0,
            "verdict": evaluation.verdict if evaluation else "none",
            "not_warm": ", ".join(cold) or "none",
            "history": dg.MetadataValue.md(make_table(columns, rows)),
        }
    )


@dg.asset_check(asset="hnsw_index", description="The planner answers the search's own statement from each HNSW index.")
def index_is_used(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """Looks at the plan of the real vector search; a small table may be compared whole, if the index would do."""
    rows = [(g.id, g.model, g.state, *describe_plan(pipeline, g)) for g in list_active(pipeline, *KEPT_CURRENT)]
    return dg.AssetCheckResult(
        passed=all(row[3] for row in rows),
        metadata={
            "plans": dg.MetadataValue.md(make_table(["generation", "model", "state", "good", "rows", "plan"], rows))
        },
    )


def describe_plan(pipeline: Pipeline, generation: Generation) -> tuple[bool, int, str]:
    """(whether the plan is good, rows of the table, the plan in words)."""
    with pipeline.database.session() as connection:
        rows, vector = count_rows(connection, generation), read_any_vector(connection, generation.space_id)
        if vector is None:
            return True, rows, "no vector to ask with"
        statement, parameters = compose_nearest(generation, 40), {"query": to_parameter(vector, generation)}
        names = list_indexes(explain(connection, statement, parameters))
        if generation.index_name in names:
            return True, rows, f"index scan on {generation.index_name}"
        connection.execute("set enable_seqscan = off")
        connection.execute("set enable_sort = off")
        usable = generation.index_name in list_indexes(explain(connection, statement, parameters))
    if usable and rows < SMALL_TABLE:
        return True, rows, "compares every row, which is cheaper here; the index would do"
    return False, rows, "compares every row" + ("" if usable else "; the index cannot answer this statement")


def list_indexes(plan: dict[str, Any]) -> list[str]:
    """The indexes a plan scans, anywhere in it."""
    found = [plan["Index Name"]] if "Index Name" in plan else []
    return found + [name for part in plan.get("Plans", []) for name in list_indexes(part)]


@dg.asset_check(
    asset="serving_index",
    description="Documents, ledger and index compared whole, for every generation that may serve.",
)
def index_matches_documents(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """A run that skipped rows is not green: missing, orphaned, altered, stale and zero rows must be none."""
    found = [(g, find_discrepancies(pipeline.database, g)) for g in list_active(pipeline, *KEPT_CURRENT)]
    with pipeline.database.connection() as connection:
        coverage = {g.id: read_coverage(connection, g.space_id, g.chunker_id) for g, _ in found}
    rows = [(g.id, g.model, g.state, d.clean, coverage[g.id].share, d.describe()) for g, d in found]
    columns = ["generation", "model", "state", "true", "coverage", "found"]
    return dg.AssetCheckResult(
        passed=all(d.clean for _, d in found),
        metadata={
            "generations": dg.MetadataValue.md(make_table(columns, rows)),
            "coverage": min((c.share for c in coverage.values()), default=1.0),
        },
    )
