"""What the sensors and schedules ask for, and why. Pure: rows in, requests out."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rag_pipeline.settings import SLUG

# Below this share of chunks without a vector an index is built, which embeds them itself.
MOST_MISSING_AT_BUILD = 0.05
# A run that failed is asked for again after the first, then after twice as long each time.
FIRST_RETRY, LONGEST_RETRY = timedelta(minutes=10), timedelta(days=1)
# Below this an index is small and a search compares every row: a fresh one would gain nothing.
FEWEST_CHANGED = 1_000
# The plan's page arithmetic is within a tenth of a fresh index; what is beyond this is dead or half-empty pages.
BLOAT = 1.5
LEAST_BLOAT_BYTES = 8 << 20
# A graph that hardly changed since it was built would come out the same: its recall is its recipe's.
LEAST_CHURN_OF_LOSS = 0.05


@dataclass(frozen=True)
class Request:
    """One run to ask for. Dagster starts a `run_key` once, ever: it names what is wanted and the occasion."""

    run_key: str
    subject: str
    reason: str
    first_key: str = ""  # of the same request when it was asked for first, where this is not the first time

    @property
    def key(self) -> str:
        """What all runs for this request have in common."""
        return self.first_key or self.run_key


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
    wrong: str | None = None  # why nothing may be spent on it: it drifted, or its budget is spent
    unfinished: bool = False  # chunks are without a vector and no generation was ever begun


@dataclass(frozen=True)
class BuildState:
    """A model beside what is built of it: `coverage` is (chunks, missing) under the chunker it would get,
    `built` whether a generation with today's recipe exists or ever existed, `begun` the one that is building."""

    slug: str
    fingerprint: str
    coverage: tuple[int, int]
    built: bool
    begun: int = 0


@dataclass(frozen=True)
class Attempts:
    """The runs that were started for one request: whether one is under way or succeeded or was cancelled by a
    person, how many failed, and when the last of them did."""

    settled: bool = False
    failed: int = 0
    last_failed: datetime | None = None


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
    """Ask for the embeddings of every usable model without a partition, and of one whose embedding was begun and
    not ended; the second value says who is left out.

    `asked`: how often each was asked for; a partition that was deleted by hand, or taken from a refused model that
    was registered again, is a new request. What was begun is the same request: see `decide_again`.
    """
    requests, left_out = [], {}
    for model in models:
        if model.state == "retired" or (model.partitioned and not model.unfinished and model.state != "refused"):
            continue
        if model.state == "refused":
            left_out[model.slug] = "it was refused" + (f": {model.wrong}" if model.wrong else "")
        elif not re.fullmatch(SLUG, model.slug):
            left_out[model.slug] = "its slug cannot be a partition key"
        elif model.wrong:
            left_out[model.slug] = model.wrong
        else:
            times = max(1, asked.get(model.slug, 0) + (not model.partitioned))
            key = f"embed-{model.slug}-{model.fingerprint[:12] or 'unprobed'}-{times}"
            requests.append(Request(key, model.slug, f"registered ({model.state}) and not embedded yet"))
    return requests, left_out


def list_refusals(models: Sequence[ModelState]) -> dict[str, str]:
    """Models to tell of, with the reason: those found to be unusable after they got their partition, which must go
    again, and those that cannot have one. A refused model without one was told of."""
    refused = {m.slug: m.wrong or "it was refused" for m in models if m.state == "refused" and m.partitioned}
    unnamed = [m.slug for m in models if m.state == "registered" and not re.fullmatch(SLUG, m.slug)]
    return refused | dict.fromkeys(unnamed, "its slug cannot be a partition key; register it under another")


def decide_builds(states: Sequence[BuildState], recipe: Mapping[str, Any], busy: bool) -> list[Request]:
    """Ask for an index where the chunks have their vectors and no generation of today's recipe was ever ended.

    One builds at a time: one that was begun comes first, and while another is building (`busy`) nothing is asked for.
    """
    if busy:
        return []
    for state in states:
        if state.begun:
            return [Request(f"finish-{state.begun}", state.slug, f"generation {state.begun} was begun and not ended")]
    ready = [s for s in states if not s.built and is_covered(*s.coverage)]
    return [
        Request(
            f"build-{state.slug}-{state.fingerprint[:12]}-{_short(json.dumps(recipe, sort_keys=True))}",
            state.slug,
            f"{state.coverage[0] - state.coverage[1]} of {state.coverage[0]} chunks have vectors and there is no "
            "index of this recipe",
        )
        for state in ready[:1]
    ]


def is_covered(chunks: int, missing: int) -> bool:
    """Whether an index may be built: the build embeds what little came in since, or a corpus that is edited all
    the time would never be ready for one."""
    return chunks > 0 and missing <= chunks * MOST_MISSING_AT_BUILD


def decide_rebuild(state: RebuildState | None, limit: float, busy: bool) -> list[Request]:
    """Ask for a fresh index beside the one that serves where it drifted too far from what was built.

    limit: changed rows as a share of the rows at build (RAG_REBUILD_CHURN); 0: nothing is ever asked for. Earlier
    than that a bloated index asks, and one whose recall is lost at the widest ef_search. Asked for once per
    multiple of the limit, so that a rebuild that was dropped is no treadmill.
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


def decide_comparisons(candidates: Sequence[Candidate], serving: int | None, policy: str) -> list[Request]:
    """Ask to compare what is ready without a verdict, because its comparison failed; and under the policy 'auto'
    what was found good against a generation that was replaced meanwhile."""
    requests = []
    for c in candidates:
        if c.state == "ready" and c.evaluation is None:
            requests.append(Request(f"compare-{c.generation}-{serving or 0}", c.model, "it has no verdict"))
        elif c.state == "ready" and c.allows and c.baseline != serving and policy == "auto":
            reason = "what it was compared with does not serve any more"
            requests.append(Request(f"compare-{c.generation}-{serving or 0}", c.model, reason))
    return requests


def decide_again(request: Request, attempts: Attempts, now: datetime) -> Request | None:
    """The request itself if nothing was started for it yet; once its runs failed and a growing time is over, the
    request under a new key, because Dagster starts a key once, ever.

    A run that a person cancelled is not asked for again.
    """
    if attempts.settled:
        return None
    if attempts.last_failed is None:
        return request
    wait = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(attempts.failed - 1, 20))
    if now - attempts.last_failed < wait:
        return None
    reason = f"{request.reason}; {attempts.failed} runs for it failed"
    return Request(f"{request.run_key}-again-{attempts.failed}", request.subject, reason, request.run_key)


def list_gaps(missing: Mapping[str, Sequence[int]], day: str) -> list[tuple[Request, int, int]]:
    """For each model with chunks without a vector, a request for its buckets from the first gap to the last."""
    return [
        (Request(f"sweep-{slug}-{day}", slug, f"{len(set(buckets))} buckets have gaps"), min(buckets), max(buckets))
        for slug, buckets in sorted(missing.items())
        if buckets
    ]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
