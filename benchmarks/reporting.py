"""What a benchmark found: figures with their goals, curves, and the machine it ran on; as Markdown, JSON, plots."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from benchmarks.measuring import Spread

PACKAGES = ("rag_pipeline", "torch", "sentence-transformers", "model2vec", "psycopg", "numpy")


@dataclass(frozen=True)
class Goal:
    """A limit on the ratio to the baseline, or on our own figure. The median is what is judged."""

    limit: float
    kind: Literal["at most", "at least"] = "at most"
    of: Literal["ratio", "ours"] = "ratio"

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.kind == "at most" else value >= self.limit


@dataclass(frozen=True)
class Figure:
    """One line of the table. Without a goal it is there to be known."""

    what: str
    ours: Spread
    unit: str = ""
    baseline: Spread | None = None
    ratio: Spread | None = None
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal. Raises ValueError where there is nothing to judge."""
        if self.goal is None:
            return None
        judged = self.ratio if self.goal.of == "ratio" else self.ours
        if judged is None:
            raise ValueError(f"{self.what}: the goal is about a ratio, and there is no baseline")
        return self.goal.is_met(judged.median)


@dataclass(frozen=True)
class Curve:
    """Something to plot: named series of (x, y). `spans`: stretches of x that are shaded and named."""

    title: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[float, float]]]
    logarithmic: bool = False
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows beside the figures, such as counts by phase, already formatted. The first column is a name."""

    columns: list[str]
    rows: list[list[str]]

    def to_markdown(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass
class Report:
    """All that one benchmark has to say. `facts`: machine, versions, seed, sizes."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        return [figure.what for figure in self.figures if figure.met is False]

    def to_json(self) -> dict[str, Any]:
        rows = [{**asdict(figure), "met": figure.met} for figure in self.figures]
        return {**asdict(self), "figures": rows, "missed": self.missed}


def read_report(document: dict[str, Any]) -> Report:
    """A report from its JSON."""
    figures = []
    for row in document["figures"]:
        spreads = {name: Spread(**row[name]) if row[name] else None for name in ("ours", "baseline", "ratio")}
        goal = Goal(**row["goal"]) if row["goal"] else None
        figures.append(Figure(row["what"], unit=row["unit"], goal=goal, **spreads))  # type: ignore[arg-type]
    curves = [
        Curve(
            **{
                **row,
                "series": {n: [(x, y) for x, y in points] for n, points in row["series"].items()},
                "spans": {n: (first, last) for n, (first, last) in row["spans"].items()},
            }
        )
        for row in document["curves"]
    ]
    tables = [Table(**row) for row in document["tables"]]
    return Report(document["name"], figures, document["notes"], curves, document["facts"], tables)


def format_number(value: float) -> str:
    """Three significant digits and more for whole numbers; below 1 four, as 0.9999 is not 1."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.{3 + (abs(value) < 1)}g}"


def format_spread(spread: Spread | None, unit: str = "") -> str:
    """`median [low-high] unit`, the range only where something was repeated."""
    if spread is None:
        return ""
    text = format_number(spread.median)
    if spread.count > 1:
        text += f" [{format_number(spread.low)}-{format_number(spread.high)}]"
    return f"{text} {unit}".strip()


def format_goal(goal: Goal | None) -> str:
    if goal is None:
        return ""
    return f"{'≤' if goal.kind == 'at most' else '≥'} {format_number(goal.limit)}" + (
        " x baseline" if goal.of == "ratio" else ""
    )


def format_table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| what | ours | baseline | ratio | goal | met? |", "|---|---:|---:|---:|---|---|"]
    for figure in figures:
        met = {True: "yes", False: "**no**", None: ""}[figure.met]
        cells = [
            figure.what,
            format_spread(figure.ours, figure.unit),
            format_spread(figure.baseline, figure.unit),
            format_spread(figure.ratio),
            format_goal(figure.goal),
            met,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_report(report: Report) -> str:
    """A section of Markdown: heading, figures, tables, notes, and under which conditions."""
    facts = ", ".join(f"{name} {value}" for name, value in report.facts.items())
    notes = "".join(f"\n- {note}" for note in report.notes)
    tables = "".join(f"\n{table.to_markdown()}\n" for table in report.tables)
    return f"## {report.name}\n\n{format_table(report.figures)}\n{tables}{notes}\n\n{facts}\n"


def describe_machine() -> dict[str, Any]:
    """The machine and the versions that a figure belongs to, and how busy the machine was."""
    facts: dict[str, Any] = {
        "machine": f"{platform.machine()} {_read_processor()}".strip(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _read_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def plot_curves(curves: Sequence[Curve], folder: Path, prefix: str) -> list[Path]:
    """One PNG per curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, curve in enumerate(curves, start=1):
        figure, axes = pyplot.subplots(figsize=(12, 4) if curve.spans else (6, 4))
        for position, (name, (first, last)) in enumerate(curve.spans.items()):
            axes.axvspan(first, last, color="0.92" if position % 2 else "0.82", zorder=0)
            axes.text((first + last) / 2, 0.99, name, rotation=90, va="top", ha="center", fontsize=7,
                      transform=axes.get_xaxis_transform())  # fmt: skip
        for name, points in curve.series.items():
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name)
        if curve.logarithmic:
            axes.set_xscale("log")
        axes.set(title=curve.title, xlabel=curve.x_label, ylabel=curve.y_label)
        axes.set_ylim(bottom=0)
        axes.legend()
        figure.tight_layout()
        written.append(folder / f"{prefix}-{number}.png")
        figure.savefig(written[-1], dpi=110)
        pyplot.close(figure)
    return written


def run_benchmark(
    name: str,
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], Report],
    arguments: Sequence[str] | None = None,
    *,
    strict: bool = False,
) -> int:
    """Parse, measure, print. Exit code 0; with --strict, or with `strict`, 1 where a goal was missed."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="the form `make bench` runs: smaller, about a minute")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout instead of Markdown")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a goal was missed")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write the curves there as PNG")
    parser.add_argument("--seed", type=int, default=20261121)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    # nothing here may ask a model hub or measure a tokenizer's thread pool instead of the work
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    facts = describe_machine()
    began = time.monotonic()
    report = measure(options)
    form = "short" if options.short else "full"
    report.facts = {**facts, "seed": options.seed, "form": form, **report.facts}
    report.facts["seconds"] = round(time.monotonic() - began)
    print(json.dumps(report.to_json()) if options.json else format_report(report))
    if options.plot:
        for path in plot_curves(report.curves, options.plot, name):
            print(f"wrote {path}", file=sys.stderr)
    return 1 if (strict or options.strict) and report.missed else 0
