"""Retrieval metrics and their comparison. Pure. Definitions as in trec_eval (linear gain for nDCG)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def ndcg(ranking: Sequence[str], relevant: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k documents, 0 to 1; grades below 0 count as 0.

    Järvelin & Kekäläinen (2002), with gain = grade and discount = log2(rank + 1).
    """
    gained = sum(
        max(relevant.get(document, 0.0), 0.0) / math.log2(rank + 1)
        for rank, document in enumerate(ranking[:k], start=1)
    )
    best = sorted((grade for grade in relevant.values() if grade > 0), reverse=True)[:k]
    ideal = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, start=1))
    return gained / ideal if ideal else 0.0


def recall(ranking: Sequence[str], relevant: Mapping[str, float], k: int = 100) -> float:
    """Share of the relevant documents (grade > 0) among the first k."""
    wanted = {document for document, grade in relevant.items() if grade > 0}
    return len(wanted.intersection(ranking[:k])) / len(wanted) if wanted else 0.0


def reciprocal_rank(ranking: Sequence[str], relevant: Mapping[str, float]) -> float:
    """1 / rank of the first relevant document, 0 where none was returned."""
    for rank, document in enumerate(ranking, start=1):
        if relevant.get(document, 0) > 0:
            return 1 / rank
    return 0.0


def overlap(left: Sequence[str], right: Sequence[str], k: int = 10) -> float:
    """Share of the first k results that two rankings have in common."""
    return len(set(left[:k]) & set(right[:k])) / max(len(left[:k]), len(right[:k]), 1)


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_difference(
    candidate: Sequence[float], baseline: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """Paired bootstrap over queries: mean difference and its 95 % percentile interval (Sakai, SIGIR 2006)."""
    differences = np.asarray(candidate, dtype=float) - np.asarray(baseline, dtype=float)
    if not len(differences):
        return Difference(0.0, -1.0, 1.0)
    draws = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    means = differences[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))


@dataclass(frozen=True)
class Verdict:
    """What a comparison says, whether the policy lets it serve, and why."""

    name: str
    allows: bool
    reason: str


def judge_difference(difference: Difference, margin: float, queries: int) -> Verdict:
    """better: the interval is above 0; worse: below 0; not_worse: it stays above -margin; else cannot_tell."""
    found = (
        f"nDCG@10 {difference.mean:+.3f} (95 % interval {difference.low:+.3f} to {difference.high:+.3f}, "
        f"{queries} queries, margin {margin:.3f})"
    )
    if difference.low > 0:
        return Verdict("better", True, found)
    if difference.low >= -margin:
        return Verdict("not_worse", True, found)
    if difference.high < 0:
        return Verdict("worse", False, found)
    return Verdict("cannot_tell", False, f"{found}: more queries would narrow the interval")


def judge_legs(hybrid: Difference, vector: Difference, margin: float, queries: int) -> Verdict:
    """The verdict on the whole path, unless the vectors alone got worse: words can hide a bad model, since fusion
    then leaves its vectors out."""
    verdict = judge_difference(hybrid, margin, queries)
    if verdict.name != "worse" and vector.high < -margin:
        alone = judge_difference(vector, margin, queries)
        return Verdict("worse", False, f"vectors alone: {alone.reason}; only the words make up for it")
    return verdict
