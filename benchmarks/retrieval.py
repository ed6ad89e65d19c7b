"""nDCG@10 of the vector leg, the word leg and both together, on judged queries.

Documents are judged, chunks are found: each document counts at the place of its best chunk. A folder holds
corpus.jsonl, queries.jsonl and qrels.tsv. The short form uses the static model, which is far weaker than the
packaged MiniLM and embeds in seconds; the full form takes minutes to embed.

    python -m benchmarks.retrieval --short
"""

import argparse
import sys
from pathlib import Path

from benchmarks import corpora, scratch
from benchmarks.measuring import spread
from benchmarks.reporting import Figure, Goal, Report, run_benchmark
from rag_pipeline.index.store import read_generation
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.measuring import measure as measure_retrieval
from rag_pipeline.serving.metrics import bootstrap_difference
from rag_pipeline.serving.questions import read_queries
from rag_pipeline.serving.search import Mode, Searcher

SETS = ("scifact", "cranfield", "jsquad")
MODES: tuple[Mode, ...] = ("vector", "lexical", "hybrid")
# What the fused ranking must reach with the packaged model, on sets that are published and so have a known figure.
GOALS = {"scifact": 0.73, "cranfield": 0.40, "jsquad": 0.92}
PACKAGED = "packaged:all-MiniLM-L6-v2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, action="append", help=f"a folder; default: {', '.join(SETS)}, if there")
    parser.add_argument("--model", help=f"a model source; default: {PACKAGED}")
    parser.add_argument("--static", action="store_true", help="the distilled static model")
    parser.add_argument("--queries", type=int, help="at most so many queries a set (all; short: 300)")
    parser.add_argument("--home", type=Path, help="keep one filled database per set there and reuse it")


def measure_set(folder: Path, model: str, home: Path | None, most: int | None) -> tuple[list[Figure], str]:
    """(figures, a note) of one set."""
    name = folder.name
    with scratch.open_scratch(home / name if home else None, model=model, model_slug="bench") as (settings, database):
        scratch.ingest_file(database, settings, folder / "corpus.jsonl")
        served = scratch.serve_everything(database, settings)
        evaluate_candidate(database, settings, served)  # learns the weight of the legs, from the corpus alone
        with database.connection() as connection:
            generation = read_generation(connection, served.id) or served
        queries = read_queries(folder / "queries.jsonl", folder / "qrels.tsv")[:most]
        searcher = Searcher(database)
        vectors = searcher.embed_queries([query.text for query in queries])
        measured = {mode: measure_retrieval(searcher, queries, vectors, mode=mode) for mode in MODES}
    weight = generation.metrics.get("fusion_weight", generation.recipe["fusion_weight"])
    scores = {mode: [scored.ndcg_at_10 for scored in found.scored] for mode, found in measured.items()}
    means = {mode: float(found.summary()["ndcg_at_10"]) for mode, found in measured.items()}
    best: Mode = "vector" if means["vector"] >= means["lexical"] else "lexical"
    difference = bootstrap_difference(scores["hybrid"], scores[best])
    floor = GOALS.get(name) if model == PACKAGED and most is None else None
    figures = [Figure(f"{name}: nDCG@10 {mode}", spread(means[mode])) for mode in MODES[:2]]
    figures.append(
        Figure(
            f"{name}: nDCG@10 hybrid, against the best leg ({best})",
            spread(means["hybrid"]),
            "",
            spread(means[best]),
            spread(means["hybrid"] / max(means[best], 1e-9)),
            Goal(1, "at least"),
        )
    )
    if floor is not None:
        figures.append(Figure(f"{name}: nDCG@10 hybrid", spread(means["hybrid"]), goal=Goal(floor, "at least", "ours")))
    recall = measured["hybrid"].summary()["recall_at_100"]
    note = (
        f"{name}: {len(queries)} queries, recall@100 {recall:.3f}, weight of the vector leg {weight:g}, hybrid minus "
        f"best leg {difference.mean:+.4f} (95 % interval {difference.low:+.4f} to {difference.high:+.4f})"
    )
    return figures, note


def measure(options: argparse.Namespace) -> Report:
    static = options.static or (options.short and not options.model)
    model = corpora.find_static_model() if static else options.model or PACKAGED
    folders = options.data or [corpora.find_shared_data() / name for name in SETS]
    report = Report("retrieval", facts={"model": "static, 384 dimensions" if static else model})
    most = options.queries or (300 if options.short else None)
    for folder in folders:
        if not (folder / "corpus.jsonl").exists():
            report.notes.append(f"{folder.name} is not there and was left out")
            continue
        figures, note = measure_set(folder, model, options.home, most)
        report.figures += figures
        report.notes.append(note)
    return report


if __name__ == "__main__":
    sys.exit(run_benchmark("retrieval", __doc__, add_arguments, measure))
