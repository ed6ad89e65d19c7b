"""What the sensors look at, as the values the decisions are made of."""

from collections.abc import Iterable
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME

from rag_pipeline.automation.decisions import (
    Attempts,
    BuildState,
    Candidate,
    ModelState,
    RebuildState,
    Request,
    SourceLook,
    decide_again,
)
from rag_pipeline.automation.partitions import REQUEST_TAG, WORK_TAG
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.wanted import KEPT_CURRENT, list_active, list_model_chunkers
from rag_pipeline.documents.assets import group_sources
from rag_pipeline.documents.locations import LocationError, list_entries, location_token, resolve_location
from rag_pipeline.documents.store import SourceRecord, list_sources
from rag_pipeline.embeddings.store import ModelRecord, list_models, missing_chunks, read_coverage
from rag_pipeline.index.building import choose_chunker, is_generation_of, recipe_of
from rag_pipeline.index.recipe import plan_build
from rag_pipeline.index.store import ACTIVE_STATES, list_generations, read_index_state
from rag_pipeline.serving.store import latest_comparison, read_serving

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
MOST_ATTEMPTS = 50

SourceGroup = tuple[str, str, bool]


def list_source_groups(pipeline: Pipeline) -> dict[str, tuple[SourceGroup, list[SourceRecord]]]:
    """Registered locations as they must be read together, by a printable key."""
    with pipeline.database.connection() as connection:
        groups = group_sources(list_sources(connection))
    return {f"{tenant}/{name}/{prune}": ((tenant, name, prune), s) for (tenant, name, prune), s in groups.items()}


def look_at_source(key: str, group: SourceGroup, sources: list[SourceRecord]) -> SourceLook:
    """List a source's locations and say what they look like now; nothing is opened."""
    tenant, name, _ = group
    stored = "+".join(s.token or "" for s in sources) if all(s.token for s in sources) else None
    try:
        tokens = [
            location_token(list(list_entries(resolve_location(s.location, tenant, name, s.include)))) for s in sources
        ]
    except (LocationError, OSError):
        return SourceLook(key, stored, None)
    return SourceLook(key, stored, "+".join(tokens))


def read_model_states(pipeline: Pipeline, partitions: Iterable[str]) -> list[ModelState]:
    """Every registered model, and whether it has its partition."""
    known = set(partitions)
    with pipeline.database.transaction() as connection:
        models, generations = list_models(connection), list_generations(connection)
        begun = {g.model_id for g in generations}
        serving = next((g for g in generations if g.state == "serving"), None)
        states = []
        for m in models:
            wrong = explain_why_not(m)
            unfinished = m.slug in known and m.id not in begun and wrong is None and m.state != "refused"
            if unfinished and m.state == "probed":
                chunker_id = choose_chunker(connection, pipeline.settings, m, serving).id
                unfinished = read_coverage(connection, m.space, chunker_id).missing > 0
            states.append(ModelState(m.slug, m.state, (m.fingerprint or b"").hex(), m.slug in known, wrong, unfinished))
    return states


def explain_why_not(model: ModelRecord) -> str | None:
    """Why nothing may be spent on a model by itself; None where it may."""
    if model.state == "refused":
        return model.reason
    if model.drift is not None:
        return model.drift
    paused = model.probe.get("paused")
    return f"its budget is spent, a person decides: {paused}" if paused else None


def is_work_under_way(instance: dg.DagsterInstance) -> bool:
    """Whether a run that embeds, builds or compares is queued or running: of a job, or started by a person from
    the graph, as backfills are (those carry no tags of ours)."""
    filters = [
        dg.RunsFilter(tags={WORK_TAG: "models"}, statuses=UNFINISHED),
        dg.RunsFilter(job_name=IMPLICIT_ASSET_JOB_NAME, statuses=UNFINISHED),
    ]
    return any(instance.get_runs_count(one) > 0 for one in filters)


def read_attempts(instance: dg.DagsterInstance, key: str) -> Attempts:
    """What became of the runs that a sensor asked for under this key, or under a later one for the same thing."""
    records = instance.get_run_records(dg.RunsFilter(tags={REQUEST_TAG: key}), limit=MOST_ATTEMPTS)
    failed = [r for r in records if r.dagster_run.status == dg.DagsterRunStatus.FAILURE]
    ended = [r.end_time or r.update_timestamp.timestamp() for r in failed]
    return Attempts(
        settled=len(failed) < len(records),
        failed=len(failed),
        last_failed=datetime.fromtimestamp(max(ended), UTC) if ended else None,
    )


def ask_again(instance: dg.DagsterInstance, requests: Iterable[Request]) -> list[Request]:
    """Those of the requests that are due: never started, or failed a while ago."""
    now = datetime.now(UTC)
    asked = [decide_again(request, read_attempts(instance, request.run_key), now) for request in requests]
    return [request for request in asked if request is not None]


def read_build_states(pipeline: Pipeline, partitions: Iterable[str]) -> tuple[list[BuildState], bool]:
    """Probed models with a partition beside what is built of them, and whether a generation is building."""
    known, recipe = set(partitions), recipe_of(pipeline.settings)
    with pipeline.database.transaction() as connection:
        generations = list_generations(connection)
        serving = next((g for g in generations if g.state == "serving"), None)
        states = []
        for model in list_models(connection):
            if model.state != "probed" or model.slug not in known or explain_why_not(model):
                continue
            chunker_id = choose_chunker(connection, pipeline.settings, model, serving).id
            as_set = [g for g in generations if is_generation_of(g, model, chunker_id, recipe)]
            begun = max((g.id for g in as_set if g.state == "building"), default=0)
            built = bool(as_set)
            coverage = (0, 0)
            if not built:
                found = read_coverage(connection, model.space, chunker_id)
                coverage = (found.chunks, found.missing)
            states.append(BuildState(model.slug, (model.fingerprint or b"").hex(), coverage, built, begun))
    building = any(g.state == "building" for g in generations)
    return states, building and not any(s.begun for s in states)


def read_rebuild_state(pipeline: Pipeline, partitions: Iterable[str]) -> RebuildState | None:
    """How far the index that serves has drifted; None where nothing serves or its model has no partition."""
    active = list_active(pipeline)
    serving = next((g for g in active if g.state == "serving" and g.model in set(partitions)), None)
    if serving is None:
        return None
    with pipeline.database.connection() as connection:
        index = read_index_state(connection, serving)
    built, inserted, deleted = (int(serving.metrics.get(key, 0)) for key in ("rows_at_build", "inserted", "deleted"))
    # counted and not asked for: this is looked at every minute, and counting rows reads the whole table
    plan = plan_build(serving.index_recipe, max(0, built + inserted - deleted), serving.dimension, 0)
    recall = serving.metrics.get("recall", {})
    return RebuildState(
        serving.id,
        serving.model,
        built,
        inserted,
        deleted,
        index.bytes if index else 0,
        plan.index_bytes,
        str(recall["reason"]) if recall.get("lost") else "",
        any(g.model_id == serving.model_id and g.id > serving.id for g in active),
    )


def read_candidates(pipeline: Pipeline) -> tuple[list[Candidate], int | None]:
    """Generations that may serve, which one does, and the latest verdict on each against that one."""
    with pipeline.database.connection() as connection:
        serving = read_serving(connection)
        candidates = []
        for g in list_generations(connection, KEPT_CURRENT):
            verdict = latest_comparison(connection, g.id, serving.generation_id if serving else None)
            candidates.append(
                Candidate(
                    g.id,
                    g.model,
                    g.state,
                    verdict.id if verdict else None,
                    bool(verdict and verdict.allows),
                    verdict.baseline_id if verdict else None,
                )
            )
    return candidates, serving.generation_id if serving else None


def find_gaps(pipeline: Pipeline, partitions: Iterable[str]) -> dict[str, list[int]]:
    """Buckets with chunks that have no vector, by model; costs a pass over the chunks of each model."""
    known, gaps = set(partitions), {}
    with pipeline.database.connection() as connection:
        models = [m for m in list_models(connection) if m.state == "probed" and m.slug in known]
        generations = list_generations(connection)
    begun = {g.model_id for g in generations}
    active = {g.model_id for g in generations if g.state in ACTIVE_STATES}
    for model in models:
        if explain_why_not(model):
            continue
        if model.id in begun - active:
            continue  # all its generations were retired: nobody reads what would be spent
        buckets: set[int] = set()
        for chunker_id in list_model_chunkers(pipeline, model):
            with pipeline.database.connection() as connection:
                found = missing_chunks(connection, model.space, chunker_id, only_pending=False)
            buckets |= {chunk.bucket for chunk in found}
        gaps[model.slug] = sorted(buckets)
    return gaps


def list_serving_models(pipeline: Pipeline) -> list[str]:
    """The models of the generations that serve or wait to, each once."""
    return sorted({g.model for g in list_active(pipeline, "ready", "serving")})
