"""Measuring retrieval on the whole path, and comparing a candidate with what serves."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.store import read_coverage
from rag_pipeline.index.store import Generation, count_pending, read_generation, read_index_state
from rag_pipeline.progress import track
from rag_pipeline.serving import search_store, store
from rag_pipeline.serving.metrics import (
    Verdict,
    bootstrap_difference,
    judge_difference,
    ndcg,
    overlap,
    recall,
    reciprocal_rank,
)
from rag_pipeline.serving.questions import JudgedQuery, pick_sentence
from rag_pipeline.serving.search import Mode, Searcher
from rag_pipeline.serving.store import Evaluation
from rag_pipeline.settings import Settings

KNOWN_ITEMS = 200
DEPTH = 100
WORSE_SHOWN = 10


@dataclass(frozen=True)
class Scored:
    """One query's result: the ranking of documents and its figures."""

    query: JudgedQuery
    ranking: list[str]
    ndcg_at_10: float
    recall_at_100: float
    reciprocal_rank: float
    milliseconds: float


@dataclass(frozen=True)
class Measured:
    """All queries on one generation in one mode."""

    generation: int
    mode: Mode
    scored: list[Scored] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Means over the queries, and latency without embedding in milliseconds."""
        times = [s.milliseconds for s in self.scored]
        return {
            "ndcg_at_10": _mean([s.ndcg_at_10 for s in self.scored]),
            "recall_at_100": _mean([s.recall_at_100 for s in self.scored]),
            "mrr": _mean([s.reciprocal_rank for s in self.scored]),
            "queries": len(self.scored),
            "mode": self.mode,
            "generation": self.generation,
            "p50_ms": float(np.percentile(times, 50)) if times else 0.0,
            "p95_ms": float(np.percentile(times, 95)) if times else 0.0,
        }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def measure(
    searcher: Searcher,
    queries: Sequence[JudgedQuery],
    *,
    mode: Mode,
    generation: int | None = None,
    tenant: str = "default",
    embed: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> Measured:
    """Ask every query and score the documents it returns: each at the place of its best chunk.

    `embed` gives the query vectors (n, dimension) in one batch; without it each query is embedded alone.
    """
    vectors = embed([q.text for q in queries]) if embed and mode != "lexical" else None
    scored = []
    number = generation or 0
    with track(f"asking ({mode})", len(queries), "queries") as advance:
        for position, query in enumerate(queries):
            result = searcher.search(
                query.text,
                k=3 * DEPTH,
                mode=mode,
                tenant=tenant,
                generation=generation,
                vector=vectors[position] if vectors is not None else None,
            )
            number = result.generation
            ranking = list(dict.fromkeys(hit.document_id for hit in result.hits))
            scored.append(
                Scored(
                    query,
                    ranking,
                    ndcg(ranking, query.relevant),
                    recall(ranking, query.relevant, DEPTH),
                    reciprocal_rank(ranking[:DEPTH], query.relevant),
                    result.milliseconds["retrieve"],
                )
            )
            advance(1)
    return Measured(number, mode, scored)


def format_run(measured: Measured) -> str:
    """The rankings as a TREC run file: query Q0 document rank score tag."""
    lines = [
        f"{scored.query.id} Q0 {document} {rank} {1 / rank:.6f} rag-{measured.mode}"
        for scored in measured.scored
        for rank, document in enumerate(scored.ranking, start=1)
    ]
    return "\n".join(lines) + "\n"


def list_evaluation_queries(database: Database, generation: Generation, tenant: str) -> tuple[str, list[JudgedQuery]]:
    """The judged queries users keep, else known-item queries made from the corpus: (kind, queries)."""
    with database.connection() as connection:
        golden = store.list_golden_queries(connection, tenant)
        if golden:
            return "golden", [JudgedQuery(*row) for row in golden]
        chunks = store.sample_chunks(connection, generation, "known-item", 2 * KNOWN_ITEMS)
        asked = {chunk: sentence for chunk, text in chunks if (sentence := pick_sentence(text))}
        asked = dict(list(asked.items())[:KNOWN_ITEMS])
        scope = search_store.Scope(tenant)
        found = search_store.find_hits(
            connection, generation, scope, dict.fromkeys(asked, (0.0, None, None)), 20 * KNOWN_ITEMS
        )
    holders: dict[int, dict[str, float]] = {}
    for hit in found:
        holders.setdefault(hit.chunk_id, {})[hit.document_id] = 1.0
    return "known-item", [
        JudgedQuery(f"chunk-{chunk}", sentence, holders[chunk]) for chunk, sentence in asked.items() if chunk in holders
    ]


def evaluate_candidate(
    database: Database, settings: Settings, generation: Generation, tenant: str = "default"
) -> Evaluation:
    """Compare a generation with what serves, on the same queries, and record the verdict.

    With nothing serving there is nothing to compare with: a sound candidate gets 'first'.
    """
    with database.connection() as connection:
        serving = store.read_serving(connection)
        baseline = read_generation(connection, serving.generation_id) if serving else None
        soundness, broken = _check_soundness(connection, generation)
    metrics: dict[str, Any] = dict(soundness)
    if broken:
        verdict = Verdict("broken", False, broken)
    else:
        kind, queries = list_evaluation_queries(database, generation, tenant)
        metrics["query_kind"] = kind
        searcher = Searcher(database, ef_search=settings.ef_search)
        candidate = measure(searcher, queries, mode="hybrid", generation=generation.id, tenant=tenant)
        metrics["candidate"] = candidate.summary()
        if baseline is None or baseline.id == generation.id:
            verdict = Verdict("first", True, "nothing serves that it could be compared with")
        else:
            served = measure(searcher, queries, mode="hybrid", generation=baseline.id, tenant=tenant)
            metrics |= {"baseline": served.summary(), **compare(candidate, served)}
            difference = bootstrap_difference(
                [s.ndcg_at_10 for s in candidate.scored], [s.ndcg_at_10 for s in served.scored]
            )
            verdict = judge_difference(difference, settings.not_worse_margin, len(queries))
    metrics["evaluated_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with database.transaction() as connection:
        store.insert_evaluation(
            connection,
            generation.id,
            baseline.id if baseline and baseline.id != generation.id else None,
            verdict.name,
            verdict.allows,
            verdict.reason,
            metrics,
        )
        evaluation = store.latest_evaluation(connection, generation.id)
    if evaluation is None:
        raise LookupError(f"the evaluation of generation {generation.id} vanished while it was written")
    return evaluation


def compare(candidate: Measured, baseline: Measured) -> dict[str, Any]:
    """Overlap of the two rankings, and the queries that got worse, with both result lists."""
    pairs = list(zip(candidate.scored, baseline.scored, strict=True))
    worse = sorted(
        (p for p in pairs if p[0].ndcg_at_10 < p[1].ndcg_at_10), key=lambda p: p[0].ndcg_at_10 - p[1].ndcg_at_10
    )
    return {
        "overlap_at_10": _mean([overlap(c.ranking, b.ranking) for c, b in pairs]),
        "queries_worse": len(worse),
        "queries_better": sum(c.ndcg_at_10 > b.ndcg_at_10 for c, b in pairs),
        "worst": [
            {
                "query": c.query.text,
                "candidate": c.ranking[:5],
                "baseline": b.ranking[:5],
                "ndcg_at_10": [round(c.ndcg_at_10, 4), round(b.ndcg_at_10, 4)],
            }
            for c, b in worse[:WORSE_SHOWN]
        ],
    }


def _check_soundness(connection: Any, generation: Generation) -> tuple[dict[str, Any], str | None]:
    """Coverage, queue and index: what must hold before any figure means something. (figures, what is broken)"""
    coverage = read_coverage(connection, generation.space_id, generation.chunker_id)
    index = read_index_state(connection, generation)
    pending = count_pending(connection).get(generation.id)
    figures = {
        "chunks": coverage.chunks,
        "embedded": coverage.embedded,
        "refused": coverage.refused,
        "pending_documents": pending.documents if pending else 0,
        "index_valid": bool(index and index.valid),
        "index_bytes": index.bytes if index else 0,
    }
    if index is None or not index.valid:
        return figures, "its HNSW index is missing or invalid; build it again: rag doctor --repair"
    if coverage.missing:
        return figures, f"{coverage.missing} of {coverage.chunks} chunks have no vector; embed them: rag model swap"
    return figures, None
