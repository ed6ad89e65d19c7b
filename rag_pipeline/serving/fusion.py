"""Putting the vector leg and the BM25 leg together. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Fused:
    """A chunk with its fused score and the raw score of each leg (None: the leg did not return it)."""

    chunk_id: int
    score: float
    vector: float | None
    lexical: float | None


def normalise(scores: Mapping[int, float]) -> dict[int, float]:
    """Min-max normalised to [0, 1]; where all are equal, 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high <= low:
        return dict.fromkeys(scores, 1.0)
    return {key: (value - low) / (high - low) for key, value in scores.items()}


def fuse(vector: Mapping[int, float], lexical: Mapping[int, float], weight: float) -> list[Fused]:
    """Convex combination of the normalised legs, best first: weight x vector + (1 - weight) x BM25.

    A chunk that one leg did not return has 0 there. Bruch, Gai & Ingber, "An Analysis of Fusion Functions
    for Hybrid Retrieval" (2023): it beats reciprocal rank fusion, and its weight is easy to learn.
    """
    left, right = normalise(vector), normalise(lexical)
    if not right:
        weight = 1.0
    elif not left:
        weight = 0.0
    fused = [
        Fused(
            key,
            weight * left.get(key, 0.0) + (1 - weight) * right.get(key, 0.0),
            vector.get(key),
            lexical.get(key),
        )
        for key in left.keys() | right.keys()
    ]
    return sorted(fused, key=lambda item: (-item.score, item.chunk_id))
