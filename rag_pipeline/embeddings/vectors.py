"""Which vectors may be stored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VectorCheck:
    """`good` is a boolean mask (n,); `reasons` says for each row what is wrong, None where nothing is."""

    good: np.ndarray
    reasons: tuple[str | None, ...]


def check_vectors(vectors: np.ndarray | Sequence[Sequence[float]], dimension: int) -> VectorCheck:
    """Find rows that must not be stored: another dimension, NaN or infinity, or all zero.

    A zero vector has no direction: pgvector leaves it out of cosine indexes, so its text is never found.
    """
    reasons = tuple(_judge(np.asarray(row, dtype=np.float32), dimension) for row in vectors)
    return VectorCheck(np.array([reason is None for reason in reasons], dtype=bool), reasons)


def _judge(row: np.ndarray, dimension: int) -> str | None:
    if row.shape != (dimension,):
        return f"dimension {row.size}, not {dimension}"
    if not np.isfinite(row).all():
        return "NaN or infinity"
    if not row.any():
        return "zero vector"
    return None
