"""Commands that ask: search, ask, eval."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from rag_pipeline.cli.shell import connect, json_option, print_json, print_table, say, show_progress, tenant_option


@click.command()
@click.argument("query")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Number of hits.")
@tenant_option
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only documents with this metadata; repeatable.")
@click.option("--as-of", metavar="TIME", help="As the documents were then, e.g. 2026-11-21T12:00.")
@click.option("--mode", type=click.Choice(["hybrid", "vector", "lexical"]), default="hybrid", show_default=True)
@click.option("--generation", type=int, help="Search this generation instead of the one that serves.")
@json_option
def search(
    query: str,
    k: int,
    tenant: str,
    where: tuple[str, ...],
    as_of: str | None,
    mode: Any,
    generation: int | None,
    as_json: bool,
) -> None:
    """Find chunks by meaning, by words, or by both."""
    from rag_pipeline.serving.scope import parse_filters, parse_time
    from rag_pipeline.serving.search import Searcher

    with connect() as (settings, database):
        searcher = Searcher(database, ef_search=settings.ef_search)
        result = searcher.search(
            query,
            k=k,
            mode=mode,
            tenant=tenant,
            where=parse_filters(where),
            as_of=parse_time(as_of),
            generation=generation,
        )
    if as_json:
        print_json(asdict(result))
        return
    for hit in result.hits:
        path = " > ".join([hit.title, *hit.heading_path])
        click.secho(f"{hit.rank:>3}  {hit.score:.3f}  {path}", bold=True)
        click.secho(f"     {hit.document_id}, version {hit.version}, characters {hit.start}-{hit.end}", dim=True)
        click.echo("     " + _shorten(hit.text))
    say(
        f"{len(result.hits)} hits, {mode}, generation {result.generation} ({result.model}), "
        f"embed {result.milliseconds['embed']:.0f} ms, retrieve {result.milliseconds['retrieve']:.0f} ms"
    )


def _shorten(text: str, characters: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"


@click.command()
@click.argument("query")
@click.option("-k", default=6, show_default=True, type=click.IntRange(1, 100), help="Passages to answer from.")
@tenant_option
@click.option("--stream/--no-stream", default=True, help="Show generated text as it arrives.")
@json_option
def ask(query: str, k: int, tenant: str, stream: bool, as_json: bool) -> None:
    """Answer a question with citations: by the configured LLM, else by quoting."""
    from rag_pipeline.embeddings.registry import find_model
    from rag_pipeline.serving.asking import answer_question, llm_settings
    from rag_pipeline.serving.search import Searcher

    with connect() as (settings, database):
        llm_settings(settings)  # half a configuration is an error before anything is searched
        result = Searcher(database, ef_search=settings.ef_search).search(query, k=k, tenant=tenant)
        streaming = stream and not as_json
        answer = answer_question(
            settings,
            find_model(database, result.model),
            query,
            result,
            (lambda piece: click.echo(piece, nl=False)) if streaming else None,
        )
    if as_json:
        print_json(asdict(answer))
        return
    click.echo("" if streaming and answer.kind == "generated" else answer.text or "No passage answers this.")
    for number in answer.citations:
        hit = result.hits[number - 1]
        click.secho(f"  [{number}] {' > '.join([hit.title, *hit.heading_path])}  ({hit.document_id})", dim=True)
    if answer.kind == "extractive":
        say("Extractive: sentences quoted from the documents. Set RAG_LLM_BASE_URL and RAG_LLM_MODEL to generate.")
    if answer.unknown_citations:
        say(f"Warning: the answer cites passages that do not exist: {answer.unknown_citations}")


@click.command("eval")
@click.option("--queries", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--qrels", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--generation", type=int, help="Measure this generation instead of the one that serves.")
@click.option("--mode", type=click.Choice(["hybrid", "vector", "lexical", "all"]), default="all", show_default=True)
@click.option("--run", "run_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a TREC run.")
@tenant_option
@json_option
def evaluate(
    queries: Path,
    qrels: Path,
    generation: int | None,
    mode: str,
    run_file: Path | None,
    tenant: str,
    as_json: bool,
) -> None:
    """nDCG@10, recall@100 and MRR on judged queries, over the whole retrieval path."""
    from rag_pipeline.serving.measuring import format_run, measure
    from rag_pipeline.serving.questions import read_queries
    from rag_pipeline.serving.search import Searcher

    judged = read_queries(queries, qrels)
    modes: list[Any] = ["vector", "lexical", "hybrid"] if mode == "all" else [mode]
    with connect() as (settings, database), show_progress():
        searcher = Searcher(database, ef_search=settings.ef_search)
        vectors = None if modes == ["lexical"] else searcher.embed_queries([q.text for q in judged], generation)
        measured = [measure(searcher, judged, vectors, mode=m, generation=generation, tenant=tenant) for m in modes]
    if run_file:
        run_file.write_text(format_run(measured[-1]), encoding="utf-8")
    summaries = [m.summary() for m in measured]
    if as_json:
        print_json(summaries[-1] if mode != "all" else {s["mode"]: s for s in summaries})
        return
    rows = [
        [s["mode"], f"{s['ndcg_at_10']:.3f}", f"{s['recall_at_100']:.3f}", f"{s['mrr']:.3f}", f"{s['p95_ms']:.1f} ms"]
        for s in summaries
    ]
    print_table(
        f"{len(judged)} queries, generation {summaries[0]['generation']}",
        ["mode", "nDCG@10", "recall@100", "MRR", "retrieve p95"],
        rows,
    )
