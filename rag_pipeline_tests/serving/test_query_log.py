"""What is kept of a search, and whether it is kept at all."""

import pytest

from rag_pipeline.serving.hits import Hit
from rag_pipeline.serving.query_log import describe_search, is_sampled
from rag_pipeline.serving.search import SearchResult

DRAWS = [
    ("off", 0.0, 0.0, False),
    ("everything", 1.0, 0.999999, True),
    ("inside the share", 0.1, 0.05, True),
    ("at its edge", 0.1, 0.1, False),
    ("outside", 0.1, 0.5, False),
]


@pytest.mark.parametrize(("case", "share", "draw", "kept"), DRAWS, ids=[row[0] for row in DRAWS])
def test_a_share_of_the_searches_is_kept(case: str, share: float, draw: float, kept: bool) -> None:
    assert is_sampled(share, draw) is kept, case


def make_hit(chunk: int, vector: float | None, lexical: float | None) -> Hit:
    scores = {"vector": vector, "lexical": lexical}
    return Hit(1, 0.5, "d", "d", "", 1, chunk, "text", 0, 4, [], {}, 3, scores)


def test_a_search_is_kept_with_its_nearest_cosine_and_its_whole_time() -> None:
    hits = [make_hit(7, 0.3, 2.0), make_hit(9, 0.8, None), make_hit(4, None, 1.0)]
    times = {"embed": 2.0, "retrieve": 3.5}
    result = SearchResult("red?", "hybrid", 3, "tiny", hits, times, "tiny")
    kept = describe_search(result, tenant="t", k=5, where={"lang": "en"})
    assert (kept.tenant, kept.query, kept.mode, kept.k, kept.filters) == ("t", "red?", "hybrid", 5, {"lang": "en"})
    assert (kept.generation_id, kept.embedded_by, kept.chunk_ids) == (3, "tiny", [7, 9, 4])
    assert (kept.similarity, kept.milliseconds, kept.degraded) == (0.8, 5.5, None)


def test_a_search_by_words_alone_has_no_cosine_and_no_model() -> None:
    result = SearchResult("red?", "hybrid", 3, "tiny", [make_hit(4, None, 1.0)], {}, None, "the model is away")
    kept = describe_search(result, tenant="default", k=1, where=None)
    assert (kept.similarity, kept.embedded_by, kept.degraded) == (None, None, "the model is away")
    assert kept.filters == {}
