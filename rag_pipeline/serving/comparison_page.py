"""A comparison as one HTML file without anything outside it: to be sent to whoever must agree to a swap."""

from collections.abc import Sequence
from html import escape
from string import Template

from rag_pipeline.serving.comparing import ComparedQuery, list_figures, list_soundness
from rag_pipeline.serving.comparison import Comparison, tabulate_queries
from rag_pipeline.serving.plots import plot_changes, plot_means, plot_overlaps, plot_weights, to_svg

COLOURS = {"first": "#2563eb", "better": "#16a34a", "not_worse": "#16a34a", "worse": "#dc2626", "broken": "#dc2626"}
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.verdict { border-left: .4rem solid $colour; padding: .5rem 1rem; background: #f8fafc }
table { border-collapse: collapse; margin: .5rem 0 } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #e5e7eb } th { font-weight: 600 } ol { margin: 0; padding-left: 1.2rem }
details { margin: .5rem 0 } .wide { overflow-x: auto; font-size: .85rem } svg { max-width: 100%; height: auto }
</style></head><body>
<h1>$title</h1>
<p class="verdict"><b>$verdict</b>: $reason<br>$allows</p>
$notes
<h2>Figures</h2>
$figures
$plots
<h2>The candidate by itself</h2>
$soundness
$queries
</body></html>
""")


def render_page(comparison: Comparison) -> str:
    """The page as text."""
    evaluation, metrics = comparison.evaluation, comparison.evaluation.metrics
    judged = [q for q in comparison.queries if q.candidate.ndcg_at_10 is not None]
    shadows = [q for q in comparison.queries if q.kind == "shadow"]
    plots = [plot_means(metrics), plot_changes(judged)] if metrics.get("candidate") else []
    plots += [plot_weights(metrics)] if metrics.get("fusion") else []
    plots += [plot_overlaps(comparison.queries)] if comparison.queries else []
    names = [f"{g.model} (generation {g.id})" for g in (comparison.candidate, comparison.baseline)]
    columns = ("", f"candidate: {names[0]}", f"baseline: {names[1]}", "difference (95 % interval)")
    return PAGE.substitute(
        title=escape(f"{names[0]} against {names[1]}"),
        colour=COLOURS.get(evaluation.verdict, "#ca8a04"),
        verdict=escape(evaluation.verdict.replace("_", " ")),
        reason=escape(evaluation.reason),
        allows="The policy lets it serve." if evaluation.allows else "The policy does not let it serve.",
        notes="".join(f"<p>{escape(note)}</p>" for note in metrics.get("notes", [])),
        figures=_render_table(columns, list_figures(metrics))
        if metrics.get("candidate")
        else "<p>Nothing compared.</p>",
        plots="\n".join(to_svg(plot) for plot in plots),
        soundness=_render_table(("", ""), list_soundness(metrics)),
        queries=_render_queries("Queries that got worse", [q for q in judged if q.change < 0], opened=True)
        + _render_queries("Queries that got better", [q for q in judged if q.change > 0])
        + _render_queries("Logged searches, the most changed first", shadows)
        + _render_all(comparison.queries),
    )


def _render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>Nothing was compared.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _render_queries(title: str, queries: list[ComparedQuery], *, opened: bool = False) -> str:
    if not queries:
        return ""
    rows = []
    for query in sorted(queries, key=lambda q: (-abs(q.change), q.overlap_at_10))[:50]:
        lists = [
            f"<ol>{''.join(f'<li>{escape(name)}</li>' for name in side.results[:5])}</ol>"
            for side in (query.candidate, query.baseline)
        ]
        figures = [
            "" if side.ndcg_at_10 is None else f"{side.ndcg_at_10:.3f}" for side in (query.candidate, query.baseline)
        ]
        cells = [escape(query.query), *figures, *lists]
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(
        f"<th>{name}</th>" for name in ("query", "nDCG@10", "was", "the candidate finds", "the baseline finds")
    )
    shown = " open" if opened else ""
    return (
        f"<details{shown}><summary><b>{escape(title)}</b> ({len(queries)})</summary>"
        f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div></details>'
    )


def _render_all(queries: list[ComparedQuery]) -> str:
    if not queries:
        return ""
    table = tabulate_queries(queries).drop(columns=["candidate", "baseline"])
    text = table.to_html(index=False, border=0, escape=True, float_format="%.3f", na_rep="")
    return f'<details><summary><b>Every query</b> ({len(queries)})</summary><div class="wide">{text}</div></details>'
