"""`answer_queries`: questions as a run, with the provenance of every hit in its output."""

from dataclasses import asdict
from typing import Any, Literal

import dagster as dg

from rag_pipeline.automation.reports import make_table
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.embeddings.registry import find_model
from rag_pipeline.serving.asking import Answer, answer_question
from rag_pipeline.serving.checks import describe_watched, evaluate_recall
from rag_pipeline.serving.promotion import rollback
from rag_pipeline.serving.recall_watch import watch_recall
from rag_pipeline.serving.retirement import retire_soaked
from rag_pipeline.serving.search import Searcher, SearchResult
from rag_pipeline.serving.store import forget_old_queries


class QueryConfig(dg.Config):
    """What to ask. `ask`: also answer, by the configured LLM or else by quoting."""

    queries: list[str]
    k: int = 5
    mode: Literal["hybrid", "vector", "lexical"] = "hybrid"
    tenant: str = "default"
    ask: bool = False


@dg.op(name="answer", out=dg.Out(list, description="One result per query, in their order, as JSON values"))
def answer_queries(
    context: dg.OpExecutionContext, config: QueryConfig, pipeline: dg.ResourceParam[Pipeline]
) -> list[dict[str, Any]]:
    """Search, and answer where asked to; every hit says which document, version, chunk and generation it is."""
    searcher = Searcher(pipeline.database, ef_search=pipeline.settings.ef_search)
    results = []
    for query in config.queries:
        found = searcher.search(query, k=config.k, mode=config.mode, tenant=config.tenant)
        answer = answer_found(pipeline, found) if config.ask else None
        results.append(describe_result(found, answer))
    context.add_output_metadata(
        {
            "queries": len(results),
            "generation": results[0]["generation"] if results else 0,
            "hits": dg.MetadataValue.md(list_hits(results)),
            "results": dg.MetadataValue.json(results),
        }
    )
    return results


def answer_found(pipeline: Pipeline, found: SearchResult) -> Answer:
    """An answer from the hits of a search."""
    return answer_question(pipeline.settings, find_model(pipeline.database, found.model), found.query, found)


def describe_result(found: SearchResult, answer: Answer | None) -> dict[str, Any]:
    """A result as JSON: hits with their provenance, and the answer with the ranks it cites."""
    result = {
        "query": found.query,
        "mode": found.mode,
        "generation": found.generation,
        "model": found.model,
        "milliseconds": {name: round(value, 2) for name, value in found.milliseconds.items()},
        "hits": [asdict(hit) for hit in found.hits],
    }
    if answer is not None:
        result["answer"] = {"text": answer.text, "kind": answer.kind, "citations": answer.citations}
    return result


def list_hits(results: list[dict[str, Any]]) -> str:
    """All hits as one table."""
    rows = [
        (
            r["query"],
            h["rank"],
            h["score"],
            h["document_id"],
            h["version"],
            h["chunk_id"],
            h["start"],
            h["end"],
            h["text"],
        )
        for r in results
        for h in r["hits"]
    ]
    return make_table(["query", "rank", "score", "document", "version", "chunk", "from", "to", "text"], rows)


@dg.op
def retire_soaked_generations(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """Drop the generations whose soak is over; their vectors stay in the ledger."""
    done = retire_soaked(pipeline.database, pipeline.settings.soak_hours)
    rows = [(r.generation, r.model, r.was, r.words) for r in done]
    context.add_output_metadata(
        {
            "retired": len(done),
            "generations": dg.MetadataValue.md(make_table(["generation", "model", "was", "words dropped"], rows)),
        }
    )


class RollbackConfig(dg.Config):
    """Who rolls back and why: it is recorded."""

    actor: str = "dagster"
    reason: str = "rolled back from Dagster"


@dg.op(name="rollback")
def roll_back(context: dg.OpExecutionContext, config: RollbackConfig, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """Let the previous generation serve again, with everything written since."""
    number = rollback(pipeline.database, actor=config.actor, reason=config.reason)
    context.add_output_metadata({"generation": number, "reason": config.reason})


@dg.op
def watch_recall_of_generations(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """Measure HNSW against exact search, set ef_search to hold the target, and forget queries logged long ago."""
    with pipeline.show_progress(context.log):
        found = watch_recall(pipeline.database, pipeline.settings)
    for watched in found:
        say = context.log.info if watched.holds else context.log.warning
        say(watched.describe())
        if watched.choice is not None:
            metadata = describe_watched(pipeline, watched)
            context.log_event(dg.AssetObservation("hnsw_index", partition=watched.generation.model, metadata=metadata))
    failures = {w.generation.id: w.failure for w in found if w.failure is not None}
    # it takes check evaluations too; its annotation does not say so
    context.log_event(evaluate_recall(pipeline, failures))  # type: ignore[arg-type]
    with pipeline.database.transaction() as connection:
        forgotten = forget_old_queries(connection, pipeline.settings.query_log_days)
    rows = [(w.generation.id, w.generation.model, w.describe(), w.seconds) for w in found]
    context.add_output_metadata(
        {
            "generations": dg.MetadataValue.md(make_table(["generation", "model", "found", "seconds"], rows)),
            "queries_forgotten": forgotten,
        }
    )
