"""Times, spreads and ratios. Pure but for the clock."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median of repeated measurements, with the smallest and the largest."""

    median: float
    low: float
    high: float
    count: int = 1


def spread(values: Sequence[float] | float) -> Spread:
    """The spread of some measurements; of a single number, that number."""
    numbers = np.atleast_1d(np.asarray(values, dtype=float))
    return Spread(float(np.median(numbers)), float(numbers.min()), float(numbers.max()), len(numbers))


def spread_ratios(ours: Sequence[float], baseline: Sequence[float]) -> Spread:
    """ours / baseline, measurement by measurement: neighbours in time share what the machine was doing."""
    return spread([one / other for one, other in zip(ours, baseline, strict=True)])


def measure_seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(
    ours: Callable[[], float], baseline: Callable[[], float], repeats: int
) -> tuple[list[float], list[float]]:
    """Both, `repeats` times, taking turns at going first, so that neither always finds the warmer machine."""
    left: list[float] = []
    right: list[float] = []
    for turn in range(repeats):
        pair = [(left, ours), (right, baseline)]
        for results, work in pair if turn % 2 == 0 else reversed(pair):
            results.append(work())
    return left, right


def percentile(values: Sequence[float], rank: float) -> float:
    """The given percentile, interpolated."""
    return float(np.percentile(np.asarray(values, dtype=float), rank))
