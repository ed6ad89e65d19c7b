"""Fusion: a convex sum of normalised legs, with the properties that follow from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.serving.fusion import fuse, normalise

SCORES = st.dictionaries(st.integers(1, 50), st.floats(-5, 50, allow_nan=False, width=32), max_size=30)
WEIGHTS = st.floats(0, 1)

CASES = [
    ("both empty", {}, {}, 0.6, []),
    ("vector only", {1: 0.9, 2: 0.1}, {}, 0.6, [(1, 1.0), (2, 0.0)]),
    ("words only", {}, {1: 3.0, 2: 9.0}, 0.6, [(2, 1.0), (1, 0.0)]),
    ("in both legs", {1: 0.9, 2: 0.1}, {1: 8.0, 2: 2.0}, 0.6, [(1, 1.0), (2, 0.0)]),
    ("each best in one", {1: 0.9, 2: 0.1}, {1: 2.0, 2: 8.0}, 0.6, [(1, 0.6), (2, 0.4)]),
    ("all weight on words", {1: 0.9, 2: 0.1}, {1: 2.0, 2: 8.0}, 0.0, [(2, 1.0), (1, 0.0)]),
    ("missing in a leg is 0 there", {1: 0.9, 2: 0.1}, {3: 2.0, 4: 1.0}, 0.6, [(1, 0.6), (3, 0.4), (2, 0.0), (4, 0.0)]),
    ("one score is 1, not 0/0", {1: 0.5}, {2: 7.0}, 0.6, [(1, 0.6), (2, 0.4)]),
    ("ties by number", {5: 0.5, 3: 0.5}, {}, 0.6, [(3, 1.0), (5, 1.0)]),
]


@pytest.mark.parametrize(("reason", "vector", "lexical", "weight", "expected"), CASES, ids=[c[0] for c in CASES])
def test_two_legs_are_fused(
    reason: str, vector: dict[int, float], lexical: dict[int, float], weight: float, expected: list[tuple[int, float]]
) -> None:
    found = [(item.chunk_id, pytest.approx(item.score)) for item in fuse(vector, lexical, weight)]
    assert found == expected, reason


@given(SCORES, SCORES, WEIGHTS)
def test_everything_found_is_there_once_best_first_with_its_raw_scores(
    vector: dict[int, float], lexical: dict[int, float], weight: float
) -> None:
    fused = fuse(vector, lexical, weight)
    assert sorted(item.chunk_id for item in fused) == sorted({*vector, *lexical})
    assert [item.score for item in fused] == sorted((item.score for item in fused), reverse=True)
    for item in fused:
        assert -1e-9 <= item.score <= 1 + 1e-9
        assert (item.vector, item.lexical) == (vector.get(item.chunk_id), lexical.get(item.chunk_id))


@given(SCORES, SCORES, WEIGHTS, st.floats(0.1, 100, allow_nan=False), st.floats(-10, 10, allow_nan=False))
def test_the_unit_of_a_leg_does_not_matter(
    vector: dict[int, float], lexical: dict[int, float], weight: float, factor: float, shift: float
) -> None:
    scaled = {key: factor * value + shift for key, value in lexical.items()}
    if len(set(scaled.values())) != len(set(lexical.values())):
        return  # rounding made two scores equal
    before = {item.chunk_id: item.score for item in fuse(vector, lexical, weight)}
    after = {item.chunk_id: item.score for item in fuse(vector, scaled, weight)}
    assert after == pytest.approx(before, abs=1e-3)


@given(SCORES)
def test_normalised_scores_reach_from_0_to_1(scores: dict[int, float]) -> None:
    found = normalise(scores)
    if len(set(scores.values())) > 1:
        assert (min(found.values()), max(found.values())) == (0.0, 1.0)
    else:
        assert set(found.values()) <= {1.0}
