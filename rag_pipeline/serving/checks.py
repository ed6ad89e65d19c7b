"""How recall shows in Dagster: the check `recall_holds`, and the figures of a watch with their plot over time."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from rag_pipeline.automation.reports import make_table
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.wanted import list_active
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.plots import plot_recall, to_markdown
from rag_pipeline.serving.recall import RecallState, judge_recall
from rag_pipeline.serving.recall_store import list_recall, read_latest_recall
from rag_pipeline.serving.recall_watch import WATCHED, Watched

NAME = "recall_holds"
# The watch runs daily: what is older than two days was missed.
LONGEST_UNMEASURED = timedelta(days=2)


@dg.asset_check(
    asset="hnsw_index",
    name=NAME,
    description="The last recall measurement of every generation that may serve holds RAG_RECALL_TARGET.",
)
def recall_holds(pipeline: dg.ResourceParam[Pipeline]) -> dg.AssetCheckResult:
    """Reads what the job watch_recall measured last; an error where it is far below the target, else a warning."""
    return dg.AssetCheckResult(**judge_watched(pipeline, {}))


def evaluate_recall(pipeline: Pipeline, failures: Mapping[int, str]) -> dg.AssetCheckEvaluation:
    """The same check as an event of the watch's own run. failures: why a generation could not be measured."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("hnsw_index"), check_name=NAME, **judge_watched(pipeline, failures)
    )


def judge_watched(pipeline: Pipeline, failures: Mapping[int, str]) -> dict[str, Any]:
    """What a check says of the last measurements: passed, severity, description, metadata."""
    rows, states = [], []
    for generation in list_active(pipeline, *WATCHED):
        with pipeline.database.connection() as connection:
            latest = read_latest_recall(connection, generation.id)
        state = judge_recall([m.figure for m in latest], pipeline.settings.recall_target)
        since = latest[0].measured_at if latest else generation.created_at
        if datetime.now(UTC) - since > LONGEST_UNMEASURED:
            state = RecallState(False, state.far, f"not measured since {since:%Y-%m-%d}: is the daemon running?")
        if generation.id in failures:
            state = RecallState(False, state.far, failures[generation.id])
        states.append(state)
        rows += [
            (generation.id, generation.model, m.scope, m.subject, m.recall_at_10, m.low, m.high, m.ef_search, m.p95_ms)
            for m in latest
        ]
    columns = ["generation", "model", "scope", "subject", "recall@10", "low", "high", "ef_search", "p95 ms"]
    return {
        "passed": all(state.holds for state in states),
        "severity": dg.AssetCheckSeverity.ERROR if any(s.far for s in states) else dg.AssetCheckSeverity.WARN,
        "description": "; ".join(s.reason for s in states if not s.holds) or None,
        "metadata": {
            "target": pipeline.settings.recall_target,
            "measured": dg.MetadataValue.md(make_table(columns, rows)),
        },
    }


def describe_watched(pipeline: Pipeline, watched: Watched) -> dict[str, Any]:
    """The metadata of an observation: numbers that Dagster plots, every figure, and our own plot over time."""
    assert watched.choice is not None, "nothing was measured"
    figure = watched.choice.figure
    columns = ["scope", "subject", "ef_search", "queries", "recall@10", "low", "high", "p95 ms"]
    rows = [
        (f.scope, f.subject, f.ef_search, f.queries, f.recall_at_10, f.low, f.high, f.p95_ms)
        for f in [*watched.figures, *watched.tried[:-1]]
    ]
    metadata = {
        "generation": watched.generation.id,
        "recall_at_10": figure.recall_at_10,
        "ef_search": watched.choice.ef_search,
        "ef_search_before": watched.before,
        "p95_ms": figure.p95_ms,
        "queries": figure.queries,
        "asked": watched.asked,
        "reason": watched.choice.reason,
        "figures": dg.MetadataValue.md(make_table(columns, rows)),
        "seconds": watched.seconds,
    }
    for scope in ("filtered", "tenant"):
        recalls = [f.recall_at_10 for f in watched.figures if f.scope == scope]
        if recalls:
            metadata[f"{scope}_recall_at_10"] = min(recalls)
    if plot := draw_recall(pipeline, watched.generation):
        metadata["plot"] = dg.MetadataValue.md(plot)
    return metadata


def draw_recall(pipeline: Pipeline, generation: Generation) -> str | None:
    """recall@10 of a generation over time, by scope (the lowest of its subjects), and its ef_search."""
    with pipeline.database.connection() as connection:
        measured = list_recall(connection, generation.id)
    lines: dict[str, dict[datetime, float]] = {}
    for m in measured:
        points = lines.setdefault(m.scope, {})
        points[m.measured_at] = min(m.recall_at_10, points.get(m.measured_at, 1.0))
    steps = [(m.measured_at, float(m.ef_search)) for m in measured if m.scope == "all"]
    if not lines:
        return None
    curves = {scope: sorted(points.items()) for scope, points in lines.items()}
    return to_markdown(plot_recall(curves, steps, pipeline.settings.recall_target), "recall over time")
