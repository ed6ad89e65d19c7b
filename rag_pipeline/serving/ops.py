"""`answer_queries`: questions as a run, with the provenance of every hit in its output."""

from dataclasses import asdict
from typing import Any, Literal

import dagster as dg

from rag_pipeline.automation.reports import make_table
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.embeddings.registry import find_model
from rag_pipeline.serving.asking import Answer, answer_question
from rag_pipeline.serving.retirement import retire_soaked
from rag_pipeline.serving.search import Searcher, SearchResult


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
        "embedded_by": found.embedded_by,
        "degraded": found.degraded,
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
