"""How runs show what they did: Markdown tables, rates, one small plot. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_CELL = 100


def make_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; cells are cut to one short line."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_show(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) if len(lines) > 2 else "nothing"


def _show(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.4g}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    text = " > ".join(map(str, cell)) if isinstance(cell, list | tuple) else str(cell)
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def rate(amount: float, seconds: float) -> float:
    """Amount per second, 0 where nothing took time."""
    return round(amount / seconds, 1) if seconds > 0 else 0.0


COMPARED = ("ndcg_at_10", "recall_at_100", "mrr")


def compare_metrics(metrics: Mapping[str, Any]) -> str:
    """An evaluation's figures as a table: the candidate beside what it was compared with."""
    candidate, baseline = metrics.get("candidate") or {}, metrics.get("baseline") or {}
    names = [name for name in (*COMPARED, "p50_ms", "p95_ms", "queries") if name in candidate]
    if not baseline:
        return make_table(["metric", "candidate"], [(name, candidate[name]) for name in names])
    rows = [(name, candidate[name], baseline.get(name)) for name in names]
    return make_table(["metric", "candidate", "serving"], rows)


def plot_metrics(metrics: Mapping[str, Any]) -> str | None:
    """The same figures as a bar chart in Markdown (an inline PNG), or None where nothing was measured."""
    candidate, baseline = metrics.get("candidate") or {}, metrics.get("baseline") or {}
    if not candidate:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.2), layout="constrained")
    axes = figure.subplots()
    sides = [("candidate", candidate), ("serving", baseline)] if baseline else [("candidate", candidate)]
    width = 0.8 / len(sides)
    for number, (label, values) in enumerate(sides):
        heights = [float(values.get(name, 0)) for name in COMPARED]
        places = [place + number * width for place in range(len(COMPARED))]
        axes.bar_label(axes.bar(places, heights, width, label=label), fmt="%.3f", fontsize=7)
    axes.set_xticks([place + width * (len(sides) - 1) / 2 for place in range(len(COMPARED))], COMPARED)
    axes.set_ylim(0, 1.1)
    axes.legend(fontsize=7, loc="lower right")
    return embed_figure(figure, "metrics")


def plot_over_time(
    lines: Mapping[str, Sequence[tuple[datetime, float]]], steps: Sequence[tuple[datetime, float]], target: float
) -> str | None:
    """recall@10 by scope over time with its target, and ef_search below; None before the first measurement."""
    if not lines:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for label, points in lines.items():
        upper.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=label)
    upper.axhline(target, color="grey", linestyle="--", linewidth=1, label=f"target {target:g}")
    upper.set_ylabel("recall@10")
    upper.legend(fontsize=7, loc="lower left")
    lower.step(*zip(*steps, strict=True), where="post", marker="o", markersize=3, linewidth=1)
    lower.set_ylabel("ef_search")
    figure.autofmt_xdate()
    return embed_figure(figure, "recall over time")


def embed_figure(figure: "Figure", label: str) -> str:
    """A drawn figure as an inline PNG in Markdown."""
    import base64
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)  # type: ignore[no-untyped-call]
    return f"![{label}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"
