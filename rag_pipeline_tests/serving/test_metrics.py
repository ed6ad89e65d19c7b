"""Metrics as trec_eval defines them, and verdicts that follow from an interval."""

import math

import numpy as np
import pytest

from rag_pipeline.serving.metrics import (
    Difference,
    bootstrap_difference,
    judge_difference,
    judge_legs,
    ndcg,
    overlap,
    recall,
    reciprocal_rank,
)

SECOND = 1 / math.log2(3)
NDCG_CASES = [
    ("perfect", ["a", "b"], {"a": 1, "b": 1}, 1.0),
    ("nothing found", ["x"], {"a": 1}, 0.0),
    ("nothing returned", [], {"a": 1}, 0.0),
    ("nothing relevant", ["a"], {"a": 0}, 0.0),
    ("second place", ["x", "a"], {"a": 1}, SECOND),
    ("grades count linearly", ["b", "a"], {"a": 3, "b": 1}, (1 + 3 * SECOND) / (3 + SECOND)),
    ("negative grades are 0", ["b", "a"], {"a": 1, "b": -1}, SECOND),
    ("cut after ten", [*"klmnopqrst", "a"], {"a": 1}, 0.0),
    ("more relevant than ten", list("abcdefghij"), dict.fromkeys("abcdefghijkl", 1.0), 1.0),
]


@pytest.mark.parametrize(("reason", "ranking", "relevant", "expected"), NDCG_CASES, ids=[c[0] for c in NDCG_CASES])
def test_ndcg(reason: str, ranking: list[str], relevant: dict[str, float], expected: float) -> None:
    assert ndcg(ranking, relevant) == pytest.approx(expected), reason


def test_recall_counts_relevant_documents_among_the_first_k() -> None:
    relevant = {"a": 1.0, "b": 2.0, "c": 0.0}
    assert recall(["a", "x", "c"], relevant) == 0.5
    assert recall(["x", "a", "b"], relevant, k=2) == 0.5
    assert recall(["a", "b"], relevant) == 1.0
    assert recall(["a"], {"a": 0.0}) == 0.0


def test_reciprocal_rank_is_of_the_first_relevant_document() -> None:
    assert reciprocal_rank(["x", "c", "a"], {"a": 1.0, "c": 0.0}) == pytest.approx(1 / 3)
    assert reciprocal_rank(["x"], {"a": 1.0}) == 0.0


def test_overlap_is_the_share_in_common() -> None:
    assert overlap(["a", "b"], ["b", "c"]) == 0.5
    assert overlap([], []) == 0.0
    assert overlap(["a"], ["a", "b"], k=1) == 1.0


def test_a_bootstrap_interval_holds_the_mean_and_narrows_with_more_queries() -> None:
    random = np.random.default_rng(1)
    baseline = random.uniform(size=1000)
    candidate = baseline + random.normal(0.05, 0.2, size=1000)
    few = bootstrap_difference(candidate[:40], baseline[:40])
    many = bootstrap_difference(candidate, baseline)
    assert few.low < few.mean < few.high
    assert many.high - many.low < (few.high - few.low) / 3
    assert many.low < 0.05 < many.high
    # the normal approximation of the same interval
    error = 1.96 * (candidate - baseline).std() / math.sqrt(1000)
    assert (many.mean - many.low, many.high - many.mean) == pytest.approx((error, error), rel=0.1)


def test_a_bootstrap_is_paired_and_repeatable() -> None:
    values = np.random.default_rng(2).uniform(size=100)
    found = bootstrap_difference(values + 0.1, values)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert bootstrap_difference(values, values[::-1]) == bootstrap_difference(values, values[::-1])


def test_without_queries_nothing_can_be_told() -> None:
    assert judge_difference(bootstrap_difference([], []), 0.01, 0).name == "cannot_tell"


VERDICTS = [
    ("the interval is above zero", Difference(0.05, 0.01, 0.09), "better", True),
    ("it touches zero and loses less than the margin", Difference(0.0, -0.005, 0.005), "not_worse", True),
    ("it loses exactly the margin at most", Difference(0.0, -0.01, 0.02), "not_worse", True),
    ("surely worse, by less than the margin", Difference(-0.005, -0.009, -0.001), "not_worse", True),
    ("below zero and below the margin", Difference(-0.05, -0.09, -0.01), "worse", False),
    ("too wide to tell", Difference(0.01, -0.05, 0.07), "cannot_tell", False),
]


@pytest.mark.parametrize(("reason", "difference", "name", "allows"), VERDICTS, ids=[v[0] for v in VERDICTS])
def test_a_verdict_follows_from_the_interval(reason: str, difference: Difference, name: str, allows: bool) -> None:
    verdict = judge_difference(difference, 0.01, 50)
    assert (verdict.name, verdict.allows) == (name, allows), reason
    assert "50 queries" in verdict.reason


def test_words_cannot_hide_vectors_that_got_worse() -> None:
    same, worse = Difference(0.0, -0.005, 0.005), Difference(-0.4, -0.5, -0.3)
    assert judge_legs(same, same, 0.01, 50).name == "not_worse"
    hidden = judge_legs(same, worse, 0.01, 50)
    assert (hidden.name, hidden.allows) == ("worse", False)
    assert "vectors alone" in hidden.reason
    assert judge_legs(worse, same, 0.01, 50).name == "worse"
