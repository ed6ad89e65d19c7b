"""Recall of HNSW against exact search: what the figures say, and which ef_search follows from them. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

K = 10
# Candidate lists to try, narrowest first; pgvector's hnsw.ef_search ends at 1000.
LADDER = (40, 60, 80, 120, 160, 240, 320, 400, 600, 800, 1000)
# With fewer queries the error of the mean is not known well enough to choose by.
FEWEST_QUERIES = 20
# One-sided 95 % of the normal distribution: the mean of many queries' recall is about normal.
ONE_SIDED = 1.645
# A score as good as the exact last one: copies of a passage are as good as each other.
ROUNDING = 1e-9
SHARES = (0.1, 0.01)
# A filter that passes three times more or fewer rows than was asked for is another case.
FURTHEST_SHARE = 3.0
# From here on a loss is an error and not a warning.
FAR_BELOW = 0.05

Scope = Literal["all", "filtered", "tenant"]


@dataclass(frozen=True)
class RecallFigure:
    """recall@10 of some queries at one ef_search: the mean, and its one-sided 95 % bounds below and above.

    `p95_ms` is the search alone, without embedding the query.
    """

    scope: Scope
    subject: str
    ef_search: int
    queries: int
    recall_at_10: float
    low: float
    high: float
    p95_ms: float

    def to_json(self) -> dict[str, Any]:
        """The figure as the database keeps it."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class WidthChoice:
    """The ef_search to search with. `lost`: even the widest list is below the target by more than noise."""

    ef_search: int
    figure: RecallFigure
    holds: bool
    lost: bool
    reason: str


@dataclass(frozen=True)
class FilterShare:
    """A metadata value of a tenant and the share of all served documents that have it."""

    tenant: str
    key: str
    value: str
    share: float


def score_recall(found: Sequence[float], exact: Sequence[float]) -> float:
    """recall@10 of one query by scores: the share of the exact result that is matched. `exact` is best first and
    not empty; a hit counts where it scores no less than the exact last one."""
    hits = sorted(found, reverse=True)[: len(exact)]
    return sum(score >= exact[-1] - ROUNDING for score in hits) / len(exact)


def summarise_recall(
    scope: Scope, subject: str, ef_search: int, recalls: Sequence[float], milliseconds: Sequence[float]
) -> RecallFigure:
    """The mean over the queries with its bounds; of none: recall 0, between 0 and 1."""
    if not recalls:
        return RecallFigure(scope, subject, ef_search, 0, 0.0, 0.0, 1.0, 0.0)
    mean = float(np.mean(recalls))
    deviation = float(np.std(recalls, ddof=1)) if len(recalls) > 1 else 1.0
    margin = ONE_SIDED * deviation / math.sqrt(len(recalls))
    return RecallFigure(
        scope,
        subject,
        ef_search,
        len(recalls),
        mean,
        max(0.0, mean - margin),
        min(1.0, mean + margin),
        float(np.percentile(milliseconds, 95)),
    )


def list_widths(least: int) -> list[int]:
    """The ef_search to try, from `least` (RAG_EF_SEARCH) upwards."""
    return [least, *(width for width in LADDER if width > least)]


def is_enough(figure: RecallFigure, target: float) -> bool:
    """Whether trying wider lists can stop: the target holds, or there are too few queries to say."""
    return figure.queries < FEWEST_QUERIES or figure.low >= target


def choose_width(tried: Sequence[RecallFigure], target: float) -> WidthChoice:
    """The narrowest list whose lower bound holds the target; tried: narrowest first, at least one.

    The bound and not the mean: at the mean, every second sample of the same index would be below the target.
    """
    last = tried[-1]
    found = f"recall@{K} {last.recall_at_10:.3f} (at least {last.low:.3f}) over {last.queries} queries"
    if last.queries < FEWEST_QUERIES:
        reason = f"only {last.queries} queries, {FEWEST_QUERIES} are needed: ef_search stays {tried[0].ef_search}"
        return WidthChoice(tried[0].ef_search, tried[0], True, False, reason)
    if last.low >= target:
        return WidthChoice(last.ef_search, last, True, False, f"the narrowest that holds {target:g}: {found}")
    if last.high >= target:
        reason = f"{found}: the widest list, which cannot be told from {target:g}"
        return WidthChoice(last.ef_search, last, False, False, reason)
    reason = f"{found}: below {target:g} even with the widest list; the index should be built again"
    return WidthChoice(last.ef_search, last, False, True, reason)


def choose_filters(values: Sequence[FilterShare], wanted: Sequence[float] = SHARES) -> list[FilterShare]:
    """For each share the value nearest to it (by ratio), at most three times more or less; none where none is."""
    chosen = []
    for share in wanted:

        def distance(value: FilterShare, share: float = share) -> float:
            return abs(math.log(value.share / share))

        near = [value for value in values if distance(value) <= math.log(FURTHEST_SHARE)]
        if near:
            chosen.append(min(near, key=lambda v: (distance(v), v.tenant, v.key, v.value)))
    return list(dict.fromkeys(chosen))


def choose_tenants(sizes: Sequence[tuple[str, int]], most: int = 3) -> list[str]:
    """The smallest tenants that have a whole page of chunks and share their table with at least as many of others'.

    sizes: (tenant, chunks).
    """
    total = sum(count for _, count in sizes)
    large_enough = sorted((count, tenant) for tenant, count in sizes if K <= count <= total / 2)
    return [tenant for _, tenant in large_enough[:most]]


@dataclass(frozen=True)
class RecallState:
    """Whether what was measured holds the target. `far`: by how much it does not is no small matter."""

    holds: bool
    far: bool
    reason: str


def judge_recall(figures: Sequence[RecallFigure], target: float) -> RecallState:
    """A figure is bad where even its upper bound is below the target: the rest may be the sample's luck."""
    bad = [f for f in figures if f.queries and f.high < target]
    if bad:
        worst = min(bad, key=lambda f: f.recall_at_10)
        named = ", ".join(
            f"{f.scope}{f' {f.subject}' if f.subject else ''} {f.recall_at_10:.3f} at ef_search {f.ef_search}"
            for f in bad
        )
        return RecallState(False, worst.recall_at_10 < target - FAR_BELOW, f"recall@{K} is below {target:g}: {named}")
    measured = [f for f in figures if f.queries]
    if not measured:
        return RecallState(True, False, "no query to measure recall with")
    least = min(measured, key=lambda f: f.recall_at_10)
    return RecallState(True, False, f"recall@{K} {least.recall_at_10:.3f} or more, ef_search {figures[0].ef_search}")
