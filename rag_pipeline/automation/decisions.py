"""What the sensors and schedules ask for, and why. Pure: rows in, requests out."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Dagster joins the dimensions of a partition key with '|' and the keys of a list with ','.
# Below this an index is small and a search compares every row: a fresh one would gain nothing.
FEWEST_CHANGED = 1_000
# The plan's page arithmetic is within a tenth of a fresh index; what is beyond this is dead or half-empty pages.
BLOAT = 1.5
LEAST_BLOAT_BYTES = 8 << 20
# A graph that hardly changed since it was built would come out the same: its recall is its recipe's.
LEAST_CHURN_OF_LOSS = 0.05
PARTITION_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Request:
    """One run to ask for. Dagster starts a `run_key` once, ever: it names what is wanted and the occasion."""

    run_key: str
    subject: str
    reason: str


@dataclass(frozen=True)
class SourceLook:
    """A source as it was when it was last read (None: never whole) and as it is now (None: not to be found)."""

    key: str
    stored: str | None
    seen: str | None


@dataclass(frozen=True)
class ModelState:
    """A registered model. `fingerprint` is hex, '' before it was probed."""

    slug: str
    state: str
    fingerprint: str
    partitioned: bool


@dataclass(frozen=True)
class BuildState:
    """A model beside what is built of it: `coverage` is (chunks, missing) under the chunker it would get,
    `built` whether a generation with today's recipe exists or ever existed."""

    slug: str
    fingerprint: str
    coverage: tuple[int, int]
    built: bool


@dataclass(frozen=True)
class RebuildState:
    """The index that serves beside what it was when built: rows then, rows inserted and deleted since, its bytes
    and those planned for today's rows. `recall_lost`: the recall watch's words, '' while the target holds.
    `newer`: a later generation of the model stands or is being built."""

    generation: int
    model: str
    rows_at_build: int
    inserted: int
    deleted: int
    index_bytes: int
    planned_bytes: int
    recall_lost: str = ""
    newer: bool = False


@dataclass(frozen=True)
class Candidate:
    """A generation and the latest verdict on it."""

    generation: int
    model: str
    state: str
    evaluation: int | None
    allows: bool
    baseline: int | None


def decide_ingests(
    looks: Sequence[SourceLook], asked: Mapping[str, tuple[str, int]]
) -> tuple[list[Request], dict[str, tuple[str, int]]]:
    """Ask once for each change seen. `asked`: by source, the look last asked for and how often one was.

    A read that fails is not asked for again until the source changes; the hourly schedule tries it. The count
    makes the key of a look that comes back (A, B, A) a new one.
    """
    requests, now = [], dict(asked)
    for look in looks:
        last, times = asked.get(look.key, ("", 0))
        if look.seen is None or look.seen == look.stored:
            # nothing to do; what was asked for is forgotten, so that the same look may be asked for later
            now[look.key] = ("", times)
        elif look.seen != last:
            now[look.key] = (look.seen, times + 1)
            key = f"source-{_short(look.key)}-{look.seen[:16]}-{times + 1}"
            requests.append(Request(key, look.key, "changed since it was read"))
    return requests, now


def decide_new_models(models: Sequence[ModelState], asked: Mapping[str, int]) -> tuple[list[Request], dict[str, str]]:
    """Ask for the embeddings of every usable model without a partition; the second value says who is left out.

    `asked`: how often each was asked for; a partition that was deleted by hand is a new request.
    """
    requests, left_out = [], {}
    for model in models:
        if model.partitioned or model.state == "retired":
            continue
        if model.state == "refused":
            left_out[model.slug] = "it was refused"
        elif not PARTITION_KEY.fullmatch(model.slug):
            left_out[model.slug] = "its slug cannot be a partition key"
        else:
            key = f"embed-{model.slug}-{model.fingerprint[:12] or 'unprobed'}-{asked.get(model.slug, 0) + 1}"
            requests.append(Request(key, model.slug, f"registered ({model.state}) and not embedded yet"))
    return requests, left_out


def decide_builds(states: Sequence[BuildState], recipe: Mapping[str, Any], busy: bool) -> list[Request]:
    """Ask for an index where every chunk has its vector and no generation of today's recipe was ever begun.

    One builds at a time: while one does (`busy`), nothing is asked for.
    """
    ready = [s for s in states if not s.built and s.coverage[0] > 0 and s.coverage[1] == 0]
    if busy or not ready:
        return []
    return [
        Request(
            f"build-{state.slug}-{state.fingerprint[:12]}-{_short(json.dumps(recipe, sort_keys=True))}",
            state.slug,
            f"all {state.coverage[0]} chunks have vectors and there is no index of this recipe",
        )
        for state in ready[:1]
    ]


def decide_rebuild(state: RebuildState | None, limit: float, busy: bool) -> list[Request]:
    """Ask for a fresh index beside the one that serves where it drifted too far from what was built.

    limit: changed rows as a share of the rows at build (RAG_REBUILD_CHURN); 0: nothing is ever asked for. Earlier
    than that a bloated index asks, and one whose recall is lost at the widest ef_search. Asked for once per
    multiple of the limit, so that a rebuild that was dropped or failed is no treadmill.
    """
    if state is None or limit == 0 or busy or state.newer:
        return []
    changed = state.inserted + state.deleted
    if changed < FEWEST_CHANGED:
        return []
    churn = changed / max(1, state.rows_at_build)
    excess = state.index_bytes - state.planned_bytes
    reasons = []
    if churn >= limit:
        reasons.append(f"{changed:,} rows came or went since {state.rows_at_build:,} were indexed")
    if state.index_bytes > BLOAT * state.planned_bytes and excess > LEAST_BLOAT_BYTES:
        reasons.append(f"the index is {excess >> 20:,} MB larger than its rows need")
    if state.recall_lost and churn >= LEAST_CHURN_OF_LOSS:
        reasons.append(state.recall_lost)
    if not reasons:
        return []
    return [Request(f"rebuild-{state.generation}-{int(churn / limit)}", state.model, "; ".join(reasons))]


def decide_promotion(candidates: Sequence[Candidate], serving: int | None, policy: str) -> list[Request]:
    """Ask to promote the newest ready candidate whose verdict, against what serves now, allows it.

    With the policy 'manual' only the very first generation serves by itself. A soaking one never does: it was
    replaced on purpose.
    """
    if policy != "auto" and serving is not None:
        return []
    good = [
        c for c in candidates if c.state == "ready" and c.evaluation is not None and c.allows and c.baseline == serving
    ]
    if not good:
        return []
    best = max(good, key=lambda c: c.generation)
    reason = "nothing serves yet" if serving is None else "the policy is automatic and the verdict allows it"
    return [Request(f"promote-{best.generation}-{best.evaluation}", best.model, reason)]


def list_gaps(missing: Mapping[str, Sequence[int]], day: str) -> list[tuple[Request, int, int]]:
    """For each model with chunks without a vector, a request for its buckets from the first gap to the last."""
    return [
        (Request(f"sweep-{slug}-{day}", slug, f"{len(set(buckets))} buckets have gaps"), min(buckets), max(buckets))
        for slug, buckets in sorted(missing.items())
        if buckets
    ]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
