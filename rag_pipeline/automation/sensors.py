"""Sensors: what is looked at, and which run follows. One mechanism for each edge of the graph:

source -> documents ... index_deltas     document_source_sensor, and the hourly schedule for what failed
registered model -> embeddings           embedding_model_sensor, and the nightly sweep for gaps
embeddings -> hnsw_index, evaluation     index_rebuild_sensor, also for an index that drifted
retrieval_evaluation -> serving_index    promotion_sensor
"""

import json

import dagster as dg

from rag_pipeline.automation.decisions import (
    decide_builds,
    decide_ingests,
    decide_new_models,
    decide_promotion,
    decide_rebuild,
)
from rag_pipeline.automation.jobs import (
    build_index,
    embed_model,
    ingest,
    ingest_config,
    promote,
    promotion_config,
    rebuild_config,
)
from rag_pipeline.automation.observations import (
    list_source_groups,
    look_at_source,
    read_build_states,
    read_candidates,
    read_model_states,
    read_rebuild_state,
)
from rag_pipeline.automation.partitions import BUCKET_COUNT, EMBEDDING_MODELS, range_tags
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.index.building import recipe_of

RUNNING = dg.DefaultSensorStatus.RUNNING


@dg.sensor(job=ingest, minimum_interval_seconds=60, default_status=RUNNING)
def document_source_sensor(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult | dg.SkipReason:
    """A registered source does not look as it did when it was read: read it again."""
    groups = list_source_groups(pipeline)
    if not groups:
        return dg.SkipReason("No source is registered: rag ingest PATH registers one")
    asked = {key: (look, times) for key, (look, times) in json.loads(context.cursor or "{}").items()}
    looks = [look_at_source(key, group, sources) for key, (group, sources) in groups.items()]
    for look in looks:
        if look.seen is None:
            context.log.warning(f"{look.key} cannot be listed")
    requests, asked = decide_ingests(looks, asked)
    runs = []
    for request in requests:
        (tenant, name, prune), sources = groups[request.subject]
        locations = [
            {"path": s.location, "tenant": tenant, "source": name, "include": list(s.include)} for s in sources
        ]
        runs.append(
            dg.RunRequest(request.run_key, run_config=ingest_config(locations, prune), tags={"rag/why": request.reason})
        )
    reason = None if runs else f"None of {len(groups)} sources changed"
    return dg.SensorResult(runs, skip_reason=reason, cursor=json.dumps(asked))


@dg.sensor(job=embed_model, minimum_interval_seconds=60, default_status=RUNNING)
def embedding_model_sensor(
    context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.SensorResult:
    """A model was registered: give it its partition and have everything embedded with it."""
    partitions = context.instance.get_dynamic_partitions(str(EMBEDDING_MODELS.name))
    asked: dict[str, int] = json.loads(context.cursor or "{}")
    requests, left_out = decide_new_models(read_model_states(pipeline, partitions), asked)
    for slug, reason in left_out.items():
        context.log.warning(f"Model {slug} is left out: {reason}")
    runs = [
        dg.RunRequest(
            request.run_key, tags={**range_tags(request.subject, 0, BUCKET_COUNT - 1), "rag/why": request.reason}
        )
        for request in requests
    ]
    slugs = [request.subject for request in requests]
    asked |= {slug: asked.get(slug, 0) + 1 for slug in slugs}
    return dg.SensorResult(
        runs,
        skip_reason=None if runs else "Every usable model has its partition",
        cursor=json.dumps(asked),
        dynamic_partitions_requests=[EMBEDDING_MODELS.build_add_request(slugs)] if slugs else None,
    )


@dg.sensor(job=build_index, minimum_interval_seconds=60, default_status=RUNNING)
def index_rebuild_sensor(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Every chunk has its vector and there is no index of today's recipe, or the one that serves has drifted:
    build one beside what serves."""
    partitions = context.instance.get_dynamic_partitions(str(EMBEDDING_MODELS.name))
    states, busy = read_build_states(pipeline, partitions)
    requests = decide_builds(states, recipe_of(pipeline.settings), busy)
    runs = [dg.RunRequest(r.run_key, partition_key=r.subject, tags={"rag/why": r.reason}) for r in requests]
    state = read_rebuild_state(pipeline, partitions)
    if state is not None and not runs:
        runs = [
            dg.RunRequest(
                r.run_key,
                partition_key=r.subject,
                run_config=rebuild_config(state.generation),
                tags={"rag/why": r.reason},
            )
            for r in decide_rebuild(state, pipeline.settings.rebuild_churn, busy)
        ]
    reason = "No model waits for an index and what serves has not drifted, or one is being built"
    return dg.SensorResult(runs, skip_reason=None if runs else reason)


@dg.sensor(job=promote, minimum_interval_seconds=60, default_status=RUNNING)
def promotion_sensor(pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """A candidate's verdict allows it: let it serve, if the policy is automatic or nothing serves yet."""
    candidates, serving = read_candidates(pipeline)
    policy = pipeline.settings.promotion_policy
    requests = decide_promotion(candidates, serving, policy)
    runs = [
        dg.RunRequest(
            r.run_key,
            partition_key=r.subject,
            run_config=promotion_config("promotion_sensor", r.reason),
            tags={"rag/why": r.reason},
        )
        for r in requests
    ]
    return dg.SensorResult(runs, skip_reason=None if runs else f"Nothing to promote (policy: {policy})")


@dg.run_failure_sensor(name="run_failure_alert", default_status=RUNNING)
def run_failure_alert(context: dg.RunFailureSensorContext) -> None:
    """Log one line for each failed run: the place for an alert of your own."""
    run = context.dagster_run
    context.log.error(f"Run {run.run_id} of {run.job_name} failed: {context.failure_event.message}")


SENSORS = [
    document_source_sensor,
    embedding_model_sensor,
    index_rebuild_sensor,
    promotion_sensor,
    run_failure_alert,
]
