"""Two generations side by side, query by query. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rag_pipeline.serving.metrics import Difference, bootstrap_difference, overlap

Kind = Literal["golden", "known-item", "shadow"]
FIGURES = ("ndcg_at_10", "recall_at_10", "reciprocal_rank")
# What the means over queries are called.
MEANS = {"ndcg_at_10": "ndcg_at_10", "recall_at_10": "recall_at_10", "reciprocal_rank": "mrr"}
SHOWN = 10
WORST = 10


@dataclass(frozen=True)
class Outcome:
    """What one side made of a query: the documents in order, and figures where the query is judged (else None)."""

    results: list[str]
    ndcg_at_10: float | None = None
    recall_at_10: float | None = None
    reciprocal_rank: float | None = None
    milliseconds: float = 0.0


@dataclass(frozen=True)
class ComparedQuery:
    """One query on both sides. `kind`: judged by a person, made from the corpus, or replayed and not judged."""

    kind: Kind
    query_id: str
    query: str
    candidate: Outcome
    baseline: Outcome

    @property
    def overlap_at_10(self) -> float:
        """Share of the first ten documents that both return."""
        return overlap(self.candidate.results, self.baseline.results)

    @property
    def change(self) -> float:
        """nDCG@10 of the candidate minus that of the baseline; 0 where the query is not judged."""
        return (self.candidate.ndcg_at_10 or 0.0) - (self.baseline.ndcg_at_10 or 0.0)


def find_difference(queries: Sequence[ComparedQuery], figure: str = "ndcg_at_10") -> Difference:
    """Mean difference of a figure with its 95 % interval, over the queries that are judged."""
    pairs = [(getattr(q.candidate, figure), getattr(q.baseline, figure)) for q in queries]
    judged = [(c, b) for c, b in pairs if c is not None and b is not None]
    return bootstrap_difference([c for c, _ in judged], [b for _, b in judged])


def describe_comparison(queries: Sequence[ComparedQuery]) -> dict[str, Any]:
    """Both sides' means, their differences with intervals, overlap, and the queries that got worse, worst first."""
    worse = sorted((q for q in queries if q.change < 0), key=lambda q: q.change)
    differences = {name: find_difference(queries, figure) for figure, name in MEANS.items()}
    return {
        "candidate": describe_side([q.candidate for q in queries]),
        "baseline": describe_side([q.baseline for q in queries]),
        "differences": {name: {"mean": d.mean, "low": d.low, "high": d.high} for name, d in differences.items()},
        "overlap_at_10": mean([q.overlap_at_10 for q in queries]),
        "queries_worse": len(worse),
        "queries_better": sum(q.change > 0 for q in queries),
        "worst": [show_query(q) for q in worse[:WORST]],
    }


def describe_side(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Means over the judged queries, and how long searching took in milliseconds (without embedding the query)."""
    times = [outcome.milliseconds for outcome in outcomes]
    figures = {name: [getattr(o, figure) for o in outcomes] for figure, name in MEANS.items()}
    return {
        **{name: mean([v for v in values if v is not None]) for name, values in figures.items()},
        "queries": len(outcomes),
        "p50_ms": float(np.percentile(times, 50)) if times else 0.0,
        "p95_ms": float(np.percentile(times, 95)) if times else 0.0,
    }


def describe_shadow(queries: Sequence[ComparedQuery]) -> dict[str, Any]:
    """What changes for the searches people made: they are not judged, so this is for looking at."""
    sides = [[q.candidate for q in queries], [q.baseline for q in queries]]
    least = sorted(queries, key=lambda q: q.overlap_at_10)
    return {
        "queries": len(queries),
        "overlap_at_10": mean([q.overlap_at_10 for q in queries]),
        "same_first": mean([float(q.candidate.results[:1] == q.baseline.results[:1]) for q in queries]),
        "without_result": [sum(not outcome.results for outcome in side) for side in sides],
        "p95_ms": [describe_side(side)["p95_ms"] for side in sides],
        "least_alike": [show_query(q) for q in least[:WORST] if q.overlap_at_10 < 1],
    }


def show_query(query: ComparedQuery) -> dict[str, Any]:
    """A query with both result lists, short."""
    shown: dict[str, Any] = {
        "query": query.query,
        "candidate": query.candidate.results[:5],
        "baseline": query.baseline.results[:5],
        "overlap_at_10": round(query.overlap_at_10, 4),
    }
    if query.candidate.ndcg_at_10 is not None and query.baseline.ndcg_at_10 is not None:
        shown["ndcg_at_10"] = [round(query.candidate.ndcg_at_10, 4), round(query.baseline.ndcg_at_10, 4)]
    return shown


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, 0 of nothing."""
    return float(np.mean(values)) if values else 0.0


def list_figures(metrics: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, candidate, baseline, difference) of an evaluation's metrics as text; empty: nothing was compared."""
    candidate, baseline = metrics.get("candidate") or {}, metrics.get("baseline") or {}
    if not candidate:
        return []
    rows: list[tuple[str, str, str, str]] = []
    for name, shown in (("ndcg_at_10", "nDCG@10"), ("recall_at_10", "recall@10"), ("mrr", "MRR")):
        d = metrics["differences"][name]
        between = f"{d['mean']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})"
        rows.append((shown, f"{candidate[name]:.3f}", f"{baseline[name]:.3f}", between))
    alone = metrics["vector_ndcg_at_10"]
    rows.append(("nDCG@10, vectors alone", f"{alone[0]:.3f}", f"{alone[1]:.3f}", f"{alone[0] - alone[1]:+.3f}"))
    for name in ("p50_ms", "p95_ms"):
        ratio = f"{candidate[name] / baseline[name]:.2f} times" if baseline[name] else ""
        rows.append((f"search {name[:3]}", f"{candidate[name]:.1f} ms", f"{baseline[name]:.1f} ms", ratio))
    if hnsw := metrics.get("hnsw"):
        now, was = (_show_recall(hnsw.get(side)) for side in ("candidate", "baseline"))
        rows.append(("HNSW recall@10, at ef_search", now, was, ""))
    moved = f"{metrics['queries_better']} better, {metrics['queries_worse']} worse"
    rows.append(("queries", str(candidate["queries"]), str(baseline["queries"]), moved))
    rows.append(("overlap of the first ten", f"{metrics['overlap_at_10']:.3f}", "", ""))
    if shadow := metrics.get("shadow"):
        same = f"the same first result in {shadow['same_first']:.0%}"
        rows.append((f"{shadow['queries']} logged searches: overlap", f"{shadow['overlap_at_10']:.3f}", "", same))
    return rows


def list_soundness(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, figure) of the candidate by itself: coverage, vectors, index, what was fitted."""
    rows = [
        ("chunks with a vector", f"{metrics['embedded']:,} of {metrics['chunks']:,}"),
        ("refused by the model", f"{metrics['refused']:,}"),
        ("vectors without direction", f"{metrics['zero_vectors']:,}"),
        ("documents waiting", f"{metrics['pending_documents']:,}"),
        ("HNSW index", f"{'valid' if metrics['index_valid'] else 'invalid'}, {metrics['index_bytes'] / 2**20:,.1f} MB"),
    ]
    if fusion := metrics.get("fusion"):
        rows.append(("share of vectors in fusion", f"{metrics['fusion_weight']} ({fusion['reason']})"))
    if floor := metrics.get("floor"):
        above = f"{floor['strangers_above']:.1%} of unrelated pairs lie above"
        rows.append(("similarity floor", f"{floor['similarity']:.3f} ({above})"))
    return rows


def _show_recall(found: dict[str, Any] | None) -> str:
    return f"{found['recall_at_10']:.3f} at {found['ef_search']}" if found else ""
