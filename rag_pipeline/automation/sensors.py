"""Sensors: what is looked at, and which run follows. One mechanism for each edge of the graph:

source -> documents ... index_deltas     document_source_sensor, and the hourly schedule for what failed
registered model -> embeddings           embedding_model_sensor, and the nightly sweep for gaps
embeddings -> hnsw_index, evaluation     index_rebuild_sensor, also for an index that drifted
retrieval_evaluation -> serving_index    promotion_sensor

A run that failed is asked for again, later and later; one that a person cancelled is not. Beside the graph:
model_drift_sensor looks whether the models in use still are what they were, alert_delivery tells someone.
"""

import json

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from rag_pipeline.automation.alerts import deliver_alerts, raise_alert
from rag_pipeline.automation.decisions import (
    Request,
    decide_builds,
    decide_comparisons,
    decide_ingests,
    decide_new_models,
    decide_promotion,
    decide_rebuild,
    list_refusals,
)
from rag_pipeline.automation.drift_watch import watch_models
from rag_pipeline.automation.jobs import (
    build_index,
    embed_model,
    evaluate,
    ingest,
    ingest_config,
    promote,
    promotion_config,
    rebuild_config,
)
from rag_pipeline.automation.observations import (
    ask_again,
    is_work_under_way,
    list_source_groups,
    look_at_source,
    read_build_states,
    read_candidates,
    read_model_states,
    read_rebuild_state,
)
from rag_pipeline.automation.partitions import BUCKET_COUNT, EMBEDDING_MODELS, REQUEST_TAG, range_tags
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.embeddings.registry import register_configured_models
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
    """A model was registered, by command, by SQL or in the settings file: give it its partition and have everything
    embedded with it. The run probes it; one that is refused loses its partition again."""
    for slug, reason in register_configured_models(pipeline.database, pipeline.settings.models).items():
        raise_alert(pipeline, "model_definition", slug, reason)
    partitions = set(context.instance.get_dynamic_partitions(str(EMBEDDING_MODELS.name)))
    asked: dict[str, int] = json.loads(context.cursor or "{}")
    models = read_model_states(pipeline, partitions)
    refusals = list_refusals(models)
    for slug, reason in refusals.items():
        raise_alert(pipeline, "model_refused", slug, reason)
    requests, left_out = decide_new_models(models, asked)
    for slug, reason in left_out.items():
        context.log.warning(f"Model {slug} is left out: {reason}")
    new = [request.subject for request in requests if request.subject not in partitions]
    if is_work_under_way(context.instance):  # what was begun may be what is under way
        requests = [request for request in requests if request.subject in new]
    runs = [
        dg.RunRequest(r.run_key, tags={**range_tags(r.subject, 0, BUCKET_COUNT - 1), **request_tags(r)})
        for r in ask_again(context.instance, requests)
    ]
    asked |= {slug: asked.get(slug, 0) + 1 for slug in new}
    changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if new:
        changes.append(EMBEDDING_MODELS.build_add_request(new))
    if gone := sorted(refusals.keys() & partitions):
        changes.append(EMBEDDING_MODELS.build_delete_request(gone))
    return dg.SensorResult(
        runs,
        skip_reason=None if runs else "Every usable model has its partition",
        cursor=json.dumps(asked),
        dynamic_partitions_requests=changes or None,
    )


def request_tags(request: Request) -> dict[str, str]:
    """What a run says of why it was started."""
    return {"rag/why": request.reason, REQUEST_TAG: request.key}


@dg.sensor(job=build_index, minimum_interval_seconds=60, default_status=RUNNING)
def index_rebuild_sensor(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Every chunk has its vector and there is no index of today's recipe, or the one that serves has drifted:
    build one beside what serves."""
    partitions = context.instance.get_dynamic_partitions(str(EMBEDDING_MODELS.name))
    states, busy = read_build_states(pipeline, partitions)
    busy = busy or is_work_under_way(context.instance)
    requests = ask_again(context.instance, decide_builds(states, recipe_of(pipeline.settings), busy))
    runs = [dg.RunRequest(r.run_key, partition_key=r.subject, tags=request_tags(r)) for r in requests]
    state = read_rebuild_state(pipeline, partitions)
    if state is not None and not runs:
        runs = [
            dg.RunRequest(
                r.run_key,
                partition_key=r.subject,
                run_config=rebuild_config(state.generation),
                tags=request_tags(r),
            )
            for r in ask_again(context.instance, decide_rebuild(state, pipeline.settings.rebuild_churn, busy))
        ]
    reason = "No model waits for an index and what serves has not drifted, or one is being built"
    return dg.SensorResult(runs, skip_reason=None if runs else reason)


@dg.sensor(jobs=[promote, evaluate], minimum_interval_seconds=60, default_status=RUNNING)
def promotion_sensor(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """A candidate's verdict allows it: let it serve, if the policy is automatic or nothing serves yet. One whose
    verdict is missing or about what served before is compared again."""
    candidates, serving = read_candidates(pipeline)
    policy = pipeline.settings.promotion_policy
    runs = [
        dg.RunRequest(
            r.run_key,
            job_name="promote",
            partition_key=r.subject,
            run_config=promotion_config("promotion_sensor", r.reason),
            tags=request_tags(r),
        )
        for r in ask_again(context.instance, decide_promotion(candidates, serving, policy))
    ]
    if not runs and not is_work_under_way(context.instance):
        runs = [
            dg.RunRequest(r.run_key, job_name="evaluate", partition_key=r.subject, tags=request_tags(r))
            for r in ask_again(context.instance, decide_comparisons(candidates, serving, policy))
        ]
    return dg.SensorResult(runs, skip_reason=None if runs else f"Nothing to promote (policy: {policy})")


@dg.run_failure_sensor(name="run_failure_alert", default_status=RUNNING)
def run_failure_alert(context: dg.RunFailureSensorContext, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """An alert for each failed run; none where Dagster runs it again by itself."""
    run, reason = context.dagster_run, explain_failure(context)
    context.log.error(f"Run {run.run_id} of {run.job_name} failed: {reason}")
    if run.tags.get(WILL_RETRY_TAG) != "true":
        partition = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start", "")
        raise_alert(pipeline, "run_failed", f"{run.job_name} {partition}".strip(), reason)


def explain_failure(context: dg.RunFailureSensorContext) -> str:
    """What the first step that failed raised, in one line; for a run without one, what Dagster says."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        if error is not None:
            return (error.cause or error).message.strip()
    return context.failure_event.message or "no reason is known"


@dg.sensor(minimum_interval_seconds=600, default_status=RUNNING)
def model_drift_sensor(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SensorResult:
    """Compute the canaries of the models in use afresh: one that is not what was registered is an alarm, and nothing
    is embedded with it until it is again. What serves goes on."""
    said, cursor = watch_models(pipeline, context.cursor)
    return dg.SensorResult([], skip_reason=said, cursor=cursor)


@dg.sensor(minimum_interval_seconds=30, default_status=RUNNING)
def alert_delivery(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[Pipeline]) -> dg.SkipReason:
    """Deliver the alerts that were raised, through RAG_ALERT_CHANNEL; what fails is tried again."""
    done = deliver_alerts(pipeline)
    if done.failure is not None:
        context.log.error(f"An alert cannot be delivered ({pipeline.settings.alert_channel}): {done.failure}")
    return dg.SkipReason(f"{done.delivered} alerts delivered" + (f"; {done.failure}" if done.failure else ""))


SENSORS = [
    document_source_sensor,
    embedding_model_sensor,
    index_rebuild_sensor,
    promotion_sensor,
    model_drift_sensor,
    run_failure_alert,
    alert_delivery,
]
