"""Measuring retrieval on the whole path, and comparing a candidate with what serves."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.registry import open_checked_model
from rag_pipeline.embeddings.store import read_coverage, read_gaps, read_model_by_id
from rag_pipeline.index.store import (
    Generation,
    count_pending,
    merge_metrics,
    read_generation,
    read_index_state,
)
from rag_pipeline.progress import track
from rag_pipeline.serving import store
from rag_pipeline.serving.known_items import (
    FEWEST,
    KnownItem,
    Legs,
    choose_weight,
    make_items,
    score_weights,
    search_items,
)
from rag_pipeline.serving.legs import read_fusion_weight
from rag_pipeline.serving.metrics import (
    Verdict,
    bootstrap_difference,
    judge_legs,
    ndcg,
    overlap,
    recall,
    reciprocal_rank,
)
from rag_pipeline.serving.questions import JudgedQuery
from rag_pipeline.serving.search import Mode, Searcher
from rag_pipeline.serving.store import Evaluation
from rag_pipeline.settings import Settings

DEPTH = 100
WORSE_SHOWN = 10
# While documents are edited a few chunks are always queued and not embedded yet: up to this share is no gap.
MOST_ON_ITS_WAY = 0.01


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
    vectors: np.ndarray | None,
    *,
    mode: Mode,
    generation: int | None = None,
    tenant: str = "default",
) -> Measured:
    """Ask every query and score the documents it returns: each at the place of its best chunk.

    `vectors` (n, dimension) are the embedded queries; None is for the lexical mode.
    """
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


def evaluate_candidate(
    database: Database, settings: Settings, generation: Generation, tenant: str = "default"
) -> Evaluation:
    """Fit the candidate's fusion weight, compare it with what serves on the same queries, record the verdict.

    The queries are the judged ones users keep; without any, known items made from the corpus. With nothing
    serving there is nothing to compare with: a sound candidate gets 'first'.
    """
    with database.connection() as connection:
        serving = store.read_serving(connection)
        baseline = read_generation(connection, serving.generation_id) if serving else None
        metrics, broken = _check_soundness(connection, generation)
    if baseline is not None and baseline.id == generation.id:
        baseline = None
    if broken:
        verdict = Verdict("broken", False, broken)
    else:
        generation, items = _fit_weight(database, settings, generation)
        metrics |= {"fusion_weight": generation.metrics["fusion_weight"], "fusion": generation.metrics["fusion"]}
        if baseline is None:
            verdict = Verdict("first", True, "nothing serves that it could be compared with")
        else:
            with database.connection() as connection:
                golden = [JudgedQuery(*row) for row in store.list_golden_queries(connection, tenant)]
            if golden:
                verdict = _compare_golden(database, settings, generation, baseline, golden, tenant, metrics)
            else:
                verdict = _compare_known_items(database, settings, generation, baseline, items, metrics)
    metrics["evaluated_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return _record(database, generation, baseline, verdict, metrics)


def _fit_weight(database: Database, settings: Settings, generation: Generation) -> tuple[Generation, list[KnownItem]]:
    """Learn the fusion weight from known items, and keep it with the generation."""
    with database.connection() as connection:
        items = make_items(connection, generation)
    legs = _search_items(database, settings, generation, items)
    choice = choose_weight(score_weights(legs), settings.fusion_weight)
    figures = {"mrr": {str(w): mrr for w, mrr in choice.mrr.items()}, "items": choice.items, "reason": choice.reason}
    with database.transaction() as connection:
        merge_metrics(connection, generation.id, {"fusion_weight": choice.weight, "fusion": figures})
        fitted = read_generation(connection, generation.id)
    if fitted is None:
        raise LookupError(f"generation {generation.id} was deleted while it was evaluated")
    return fitted, items


def _search_items(database: Database, settings: Settings, generation: Generation, items: list[KnownItem]) -> list[Legs]:
    with database.connection() as connection:
        record = read_model_by_id(connection, generation.model_id)
        others_search = store.read_serving(connection) is not None
    if not items:
        return []
    model = open_checked_model(record)
    return search_items(database, generation, model, items, settings.ef_search, resting=others_search)


def _compare_golden(
    database: Database,
    settings: Settings,
    generation: Generation,
    baseline: Generation,
    queries: list[JudgedQuery],
    tenant: str,
    metrics: dict[str, Any],
) -> Verdict:
    searcher = Searcher(database, ef_search=settings.ef_search)
    measured: dict[Mode, list[Measured]] = {"hybrid": [], "vector": []}
    for number in (generation.id, baseline.id):
        vectors = searcher.embed_queries([q.text for q in queries], number)
        for mode, found in measured.items():
            found.append(measure(searcher, queries, vectors, mode=mode, generation=number, tenant=tenant))
    candidate, served = measured["hybrid"]
    metrics |= {
        "query_kind": "golden",
        "candidate": candidate.summary(),
        "baseline": served.summary(),
        "vector_ndcg_at_10": [found.summary()["ndcg_at_10"] for found in measured["vector"]],
        **compare(candidate, served),
    }
    hybrid, vector = (
        bootstrap_difference([s.ndcg_at_10 for s in one.scored], [s.ndcg_at_10 for s in other.scored])
        for one, other in measured.values()
    )
    return judge_legs(hybrid, vector, settings.not_worse_margin, len(queries))


def _compare_known_items(
    database: Database,
    settings: Settings,
    generation: Generation,
    baseline: Generation,
    items: list[KnownItem],
    metrics: dict[str, Any],
) -> Verdict:
    """Items are chunks both generations serve: all of them where the chunker is the same."""
    with database.connection() as connection:
        shared = store.list_served_chunks(connection, baseline, [item.chunk_id for item in items])
    items = [item for item in items if item.chunk_id in shared]
    if len(items) < FEWEST:
        reason = f"only {len(items)} chunks to ask for that both generations serve; add judged queries: rag golden add"
        return Verdict("cannot_tell", False, reason)
    figures: list[list[float]] = []
    alone: list[list[float]] = []
    for chosen in (generation, baseline):
        legs = _search_items(database, settings, chosen, items)
        ranks = [leg.rank(read_fusion_weight(chosen)) for leg in legs]
        figures.append([_gain(rank) for rank in ranks])
        alone.append([_gain(leg.rank(1.0)) for leg in legs])
        name = "candidate" if chosen is generation else "baseline"
        metrics[name] = {
            "ndcg_at_10": _mean(figures[-1]),
            "mrr": _mean([1 / rank if rank else 0.0 for rank in ranks]),
            "queries": len(items),
            "generation": chosen.id,
        }
    metrics |= {"query_kind": "known-item", "vector_ndcg_at_10": [_mean(found) for found in alone]}
    return judge_legs(
        bootstrap_difference(*figures), bootstrap_difference(*alone), settings.not_worse_margin, len(items)
    )


def _gain(rank: int | None) -> float:
    """nDCG@10 of one relevant document at a rank."""
    return 1 / math.log2(rank + 1) if rank and rank <= 10 else 0.0


def _record(
    database: Database,
    generation: Generation,
    baseline: Generation | None,
    verdict: Verdict,
    metrics: dict[str, Any],
) -> Evaluation:
    with database.transaction() as connection:
        store.insert_evaluation(
            connection,
            generation.id,
            baseline.id if baseline else None,
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
    lost, queued = read_gaps(connection, generation.id, generation.space_id, generation.chunker_id)
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
    if lost or queued > MOST_ON_ITS_WAY * coverage.chunks:
        return figures, f"{lost + queued} of {coverage.chunks} chunks have no vector; embed them: rag model swap"
    return figures, None
