"""Plots of a comparison and of recall over time, drawn without a display."""

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rag_pipeline.serving.comparing import MEANS, ComparedQuery

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"ndcg_at_10": "nDCG@10", "recall_at_10": "recall@10", "mrr": "MRR"}
CANDIDATE, BASELINE = "#2563eb", "#9ca3af"


def plot_means(metrics: dict[str, Any]) -> "Figure":
    """Both sides' means, and beside them the mean differences with their 95 % intervals."""
    figure = _new_figure(7.5, 2.4)
    bars, intervals = figure.subplots(1, 2, width_ratios=[3, 2])
    sides = [("candidate", metrics["candidate"], CANDIDATE), ("baseline", metrics["baseline"], BASELINE)]
    for number, (label, values, colour) in enumerate(sides):
        places = [place + 0.4 * number for place in range(len(MEANS))]
        drawn = bars.bar(places, [values[name] for name in MEANS.values()], 0.4, label=label, color=colour)
        bars.bar_label(drawn, fmt="%.3f", fontsize=7)
    bars.set_xticks([place + 0.2 for place in range(len(MEANS))], [NAMES[name] for name in MEANS.values()])
    bars.set_ylim(0, 1.15)
    bars.legend(fontsize=7, loc="upper left", ncols=2)
    for place, name in enumerate(MEANS.values()):
        found = metrics["differences"][name]
        spread = [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
        intervals.errorbar([found["mean"]], [place], xerr=spread, fmt="o", color=CANDIDATE, capsize=3)
    intervals.axvline(0, color="black", linewidth=0.8)
    intervals.set_yticks(range(len(MEANS)), [NAMES[name] for name in MEANS.values()])
    intervals.invert_yaxis()
    intervals.set_title("candidate - baseline, 95 % interval", fontsize=8)
    return figure


def plot_changes(queries: Sequence[ComparedQuery]) -> "Figure":
    """The change of nDCG@10 of every judged query, from the largest loss to the largest gain."""
    figure = _new_figure(7.5, 2.2)
    axes = figure.subplots()
    changes = sorted(q.change for q in queries if q.candidate.ndcg_at_10 is not None)
    axes.bar(range(len(changes)), changes, width=1.0, color=["#dc2626" if c < 0 else "#16a34a" for c in changes])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("queries")
    axes.set_ylabel("change of nDCG@10")
    return figure


def plot_weights(metrics: dict[str, Any]) -> "Figure":
    """Mean reciprocal rank of the candidate's known items at each fusion weight, and the weight chosen."""
    figure = _new_figure(3.6, 2.2)
    axes = figure.subplots()
    curve = {float(weight): mrr for weight, mrr in metrics["fusion"]["mrr"].items()}
    axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, color=CANDIDATE)
    axes.axvline(metrics["fusion_weight"], color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel("share of the vectors in fusion")
    axes.set_ylabel("MRR, known items")
    return figure


def plot_overlaps(queries: Sequence[ComparedQuery]) -> "Figure":
    """How much of the first ten results both sides share, over the queries."""
    figure = _new_figure(3.6, 2.2)
    axes = figure.subplots()
    axes.hist([q.overlap_at_10 for q in queries], bins=[step / 10 for step in range(12)], color=CANDIDATE)
    axes.set_xlabel("overlap of the first ten")
    axes.set_ylabel("queries")
    return figure


def plot_recall(
    lines: Mapping[str, Sequence[tuple[datetime, float]]], steps: Sequence[tuple[datetime, float]], target: float
) -> "Figure":
    """recall@10 by scope over time with its target, and ef_search below"""
    figure = _new_figure(6, 3.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for label, points in lines.items():
        upper.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=label)
    upper.axhline(target, color="grey", linestyle="--", linewidth=1, label=f"target {target:g}")
    upper.set_ylabel("recall@10")
    upper.legend(fontsize=7, loc="lower left")
    lower.step(*zip(*steps, strict=True), where="post", marker="o", markersize=3, linewidth=1)
    lower.set_ylabel("ef_search")
    figure.autofmt_xdate()
    return figure


def to_svg(figure: "Figure") -> str:
    """The figure as an <svg> element, to stand in a page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text)  # type: ignore[no-untyped-call]
    return text.getvalue()[text.getvalue().index("<svg") :]


def to_markdown(figure: "Figure", name: str) -> str:
    """The figure as an inline PNG in Markdown, as Dagster shows it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)  # type: ignore[no-untyped-call]
    return f"![{name}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"


def _new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
