"""What follows from a look at the models in use: the record, the alarm, and what the next look must know."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from rag_pipeline.automation.alerts import raise_alert
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.embeddings.drift import Look, describe_looks, look_at_model
from rag_pipeline.embeddings.store import ModelRecord, list_models, set_drift
from rag_pipeline.index.store import ACTIVE_STATES, list_generations

# A model that cannot be reached is nobody's alarm before so long: restarts and networks are slow.
AWAY_FOR = timedelta(hours=1)


@dataclass(frozen=True)
class Seen:
    """What the sensor remembers of a model. `alarm`: what was said of it last, None once it is well."""

    token: str = ""
    drift: str | None = None
    away_since: str | None = None
    alarm: Literal["drift", "away"] | None = None


@dataclass(frozen=True)
class Verdict:
    """What to record and to say after a look. `kind` None: nothing is said."""

    seen: Seen
    kind: str | None = None
    message: str = ""


def judge_look(record: ModelRecord, look: Look, before: Seen, now: datetime) -> Verdict:
    """Say once that a model drifted, is away for long, or is well again."""
    if look.away is not None:
        since = before.away_since or now.isoformat()
        seen = replace(before, away_since=since)
        if before.alarm is None and now - datetime.fromisoformat(since) >= AWAY_FOR:
            message = f"Model {record.slug!r} ({record.spec.source}) cannot be reached since {since}: {look.away}"
            return Verdict(replace(seen, alarm="away"), "model_away", message)
        return Verdict(seen)
    if look.drift is not None:
        seen = Seen(look.token, look.drift, None, "drift")
        if before.alarm == "drift":
            return Verdict(seen)
        return Verdict(seen, "model_drift", look.drift + " What serves goes on.")
    well = Seen(look.token)
    if before.alarm is None:
        return Verdict(well)
    return Verdict(well, "model_well", f"Model {record.slug!r} ({record.spec.source}) is what was registered again.")


def list_models_in_use(pipeline: Pipeline) -> list[ModelRecord]:
    """The probed models of the active generations, and those known to have drifted: they may be well again. Those
    not looked at for longest come first."""
    with pipeline.database.connection() as connection:
        used = {g.model_id for g in list_generations(connection, ACTIVE_STATES)}
        models = [m for m in list_models(connection) if m.canaries and (m.id in used or m.drift)]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(models, key=lambda m: m.checked_at or never)


def watch_models(pipeline: Pipeline, cursor: str | None) -> tuple[str, str]:
    """Look at every model in use, record and tell what is found; (what was seen in words, the next cursor).

    At most one model is loaded: a tick has a minute. The next tick takes the next one.
    """
    known = {slug: Seen(**fields) for slug, fields in json.loads(cursor or "{}").items()}
    now, looks, seen, may_load = datetime.now(UTC), dict[str, Look](), dict[str, Seen](), True
    for record in list_models_in_use(pipeline):
        before = known.get(record.slug, Seen())
        # what embedding found meanwhile, or a person wrote, is looked at again
        token = before.token if before.drift == record.drift else ""
        look = look_at_model(record, token, may_load)
        if look is None:
            seen[record.slug] = before
            continue
        may_load = may_load and not look.loaded
        verdict = judge_look(record, look, before, now)
        with pipeline.database.connection() as connection:
            if look.away is None:
                set_drift(connection, record.id, look.drift)
        if verdict.kind is not None:
            raise_alert(pipeline, verdict.kind, record.slug, verdict.message)
        looks[record.slug], seen[record.slug] = look, verdict.seen
    said = describe_looks(looks) or "No model in use is to be looked at"
    return said, json.dumps({slug: asdict(one) for slug, one in seen.items()})
