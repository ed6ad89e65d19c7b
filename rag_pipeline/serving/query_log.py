"""What is kept of a search that was asked. Pure.

Queries may be personal, and whoever reads the table rag.query_log reads them. RAG_QUERY_LOG_SHARE is the share of
searches that is kept, 0 keeps none; RAG_QUERY_LOG_DAYS is how long.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rag_pipeline.serving.search import SearchResult


@dataclass(frozen=True)
class LoggedQuery:
    """One row of the log. `embedded_by`: slug of the model, None where words alone answered; `similarity`: cosine of
    the nearest hit; `milliseconds`: embedding and retrieval together."""

    tenant: str
    query: str
    mode: str
    k: int
    filters: dict[str, str]
    generation_id: int
    embedded_by: str | None
    chunk_ids: list[int]
    similarity: float | None
    milliseconds: float
    degraded: str | None


def is_sampled(share: float, draw: float) -> bool:
    """Whether a search is kept. `draw` is uniform in [0, 1): at share 0 none is, at share 1 all are."""
    return draw < share


def describe_search(result: SearchResult, *, tenant: str, k: int, where: Mapping[str, str] | None) -> LoggedQuery:
    """The row of a search, from its result and what was asked beside the query."""
    cosines = [cosine for hit in result.hits if (cosine := hit.scores["vector"]) is not None]
    return LoggedQuery(
        tenant=tenant,
        query=result.query,
        mode=result.mode,
        k=k,
        filters=dict(where or {}),
        generation_id=result.generation,
        embedded_by=result.embedded_by,
        chunk_ids=[hit.chunk_id for hit in result.hits],
        similarity=max(cosines, default=None),
        milliseconds=sum(result.milliseconds.values()),
        degraded=result.degraded,
    )
