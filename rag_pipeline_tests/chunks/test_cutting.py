"""Batches of versions are bounded in number and in size."""

import pytest

from rag_pipeline.chunks.chunking import content_address
from rag_pipeline.chunks.cutting import BATCH_CHARACTERS, BATCH_VERSIONS, Chunker, batch_versions, cut_texts
from rag_pipeline.chunks.recipe import ChunkerRecipe
from rag_pipeline.chunks.store import VersionText

CASES = [
    ("nothing to do", [], []),
    ("few and small: one batch", [(1, 5), (2, 5)], [[1, 2]]),
    ("one that is larger than a batch stands alone", [(1, BATCH_CHARACTERS + 1), (2, 5)], [[1], [2]]),
    ("the size bounds a batch", [(1, BATCH_CHARACTERS), (2, 1)], [[1], [2]]),
    ("the size is reached exactly", [(1, BATCH_CHARACTERS - 1), (2, 1)], [[1, 2]]),
]


@pytest.mark.parametrize(("reason", "missing", "batches"), CASES, ids=[case[0] for case in CASES])
def test_versions_are_grouped(reason: str, missing: list[tuple[int, int]], batches: list[list[int]]) -> None:
    assert list(batch_versions(missing)) == batches, reason


def test_the_number_of_versions_bounds_a_batch() -> None:
    batches = list(batch_versions([(n, 1) for n in range(2 * BATCH_VERSIONS + 1)]))
    assert [len(batch) for batch in batches] == [BATCH_VERSIONS, BATCH_VERSIONS, 1]


def test_a_chunk_knows_its_version_place_bucket_and_address() -> None:
    chunker = Chunker(1, ChunkerRecipe(size=100, max_tokens=None), None)
    texts = [VersionText(7, "default", "Manual", "Red valve. " * 40), VersionText(8, "other", "", "")]
    chunks, counts = cut_texts(texts, chunker, 16, None)
    assert counts == {7: len(chunks), 8: 0}
    assert [c.ordinal for c in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert (chunk.version_id, chunk.tenant, chunk.title) == (7, "default", "Manual")
        assert chunk.content_sha256 == content_address("Manual", chunk.heading_path, chunk.text)
        assert chunk.bucket == int.from_bytes(chunk.content_sha256[:4], "big") % 16


def test_buckets_are_filled_evenly() -> None:
    chunker = Chunker(1, ChunkerRecipe(size=100, max_tokens=None), None)
    texts = [VersionText(n, "default", "", f"text number {n}") for n in range(1600)]
    chunks, _ = cut_texts(texts, chunker, 16, None)
    sizes = [sum(c.bucket == bucket for c in chunks) for bucket in range(16)]
    assert min(sizes) > 60
    assert max(sizes) < 150
