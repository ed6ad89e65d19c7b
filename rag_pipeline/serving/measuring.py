"""Measuring judged queries on the whole retrieval path."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag_pipeline.embeddings.aside import rest_after
from rag_pipeline.progress import track
from rag_pipeline.serving.comparing import Outcome, mean
from rag_pipeline.serving.hits import Mode
from rag_pipeline.serving.metrics import ndcg, recall, reciprocal_rank
from rag_pipeline.serving.questions import JudgedQuery
from rag_pipeline.serving.search import Searcher

DEPTH = 100


@dataclass(frozen=True)
class Scored:
    """One query's result: the ranking of documents and its figures."""

    query: JudgedQuery
    ranking: list[str]
    ndcg_at_10: float
    recall_at_10: float
    recall_at_100: float
    reciprocal_rank: float
    milliseconds: float

    def outcome(self) -> Outcome:
        """What a comparison takes of it."""
        return Outcome(self.ranking, self.ndcg_at_10, self.recall_at_10, self.reciprocal_rank, self.milliseconds)


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
            "ndcg_at_10": mean([s.ndcg_at_10 for s in self.scored]),
            "recall_at_100": mean([s.recall_at_100 for s in self.scored]),
            "mrr": mean([s.reciprocal_rank for s in self.scored]),
            "queries": len(self.scored),
            "mode": self.mode,
            "generation": self.generation,
            "p50_ms": float(np.percentile(times, 50)) if times else 0.0,
            "p95_ms": float(np.percentile(times, 95)) if times else 0.0,
        }


def measure(
    searcher: Searcher,
    queries: Sequence[JudgedQuery],
    vectors: np.ndarray | None,
    *,
    mode: Mode,
    generation: int | None = None,
    tenant: str = "default",
    resting: bool = False,
) -> Measured:
    """Ask every query and score the documents it returns: each at the place of its best chunk.

    `vectors` (n, dimension) are the embedded queries; None is for the lexical mode. `resting`: give way to others.
    """
    scored = []
    number = generation or 0
    with track(f"asking ({mode})", len(queries), "queries") as advance:
        for position, query in enumerate(queries):
            with rest_after(resting):
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
                    recall(ranking, query.relevant, 10),
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
