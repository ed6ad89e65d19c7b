"""Schedules: what is done again whether or not anything was seen to change."""

import dagster as dg

from rag_pipeline.automation.decisions import list_gaps
from rag_pipeline.automation.jobs import (
    embed_model,
    evaluate,
    ingest,
    ingest_config,
    reconcile,
    retire_generations_job,
    watch_recall_job,
)
from rag_pipeline.automation.observations import find_gaps, list_serving_models, list_source_groups
from rag_pipeline.automation.partitions import EMBEDDING_MODELS, range_tags
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.index.store import list_soaked, list_undropped

RUNNING = dg.DefaultScheduleStatus.RUNNING


@dg.schedule(job=ingest, cron_schedule="17 * * * *", default_status=RUNNING)
def hourly_ingest(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.RunRequest | dg.SkipReason:
    """Read every registered source; also what the source sensor asked for and what failed then."""
    if not list_source_groups(pipeline):
        return dg.SkipReason("No source is registered: rag ingest PATH registers one")
    hour = context.scheduled_execution_time
    return dg.RunRequest(f"hourly-{hour:%Y%m%dT%H%MZ}", run_config=ingest_config([], False))


@dg.schedule(job=embed_model, cron_schedule="40 1 * * *", default_status=RUNNING)
def nightly_embedding_sweep(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> list[dg.RunRequest] | dg.SkipReason:
    """Embed what is missing, for the models and buckets with gaps only."""
    partitions = context.instance.get_dynamic_partitions(str(EMBEDDING_MODELS.name))
    gaps = list_gaps(find_gaps(pipeline, partitions), f"{context.scheduled_execution_time:%Y%m%d}")
    if not gaps:
        return dg.SkipReason("No chunk is without its vector")
    return [
        dg.RunRequest(r.run_key, tags={**range_tags(r.subject, first, last), "rag/why": r.reason})
        for r, first, last in gaps
    ]


@dg.schedule(job=evaluate, cron_schedule="20 3 * * *", default_status=RUNNING)
def nightly_evaluation(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> list[dg.RunRequest] | dg.SkipReason:
    """Measure what serves and compare what waits to, on today's documents."""
    models = list_serving_models(pipeline)
    if not models:
        return dg.SkipReason("No generation is ready")
    day = f"{context.scheduled_execution_time:%Y%m%d}"
    return [dg.RunRequest(f"evaluate-{slug}-{day}", partition_key=slug) for slug in models]


nightly_reconciliation = dg.ScheduleDefinition(
    name="nightly_reconciliation", job=reconcile, cron_schedule="50 2 * * *", default_status=RUNNING
)


@dg.schedule(
    name="retire_soaked_generations", job=retire_generations_job, cron_schedule="5 * * * *", default_status=RUNNING
)
def retire_soaked_schedule(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.RunRequest | dg.SkipReason:
    """Drop what was replaced RAG_SOAK_HOURS ago; it cannot be rolled back to afterwards."""
    with pipeline.database.connection() as connection:
        due = [*list_soaked(connection, pipeline.settings.soak_hours), *list_undropped(connection)]
    if not due:
        return dg.SkipReason("No generation's soak is over")
    return dg.RunRequest(f"retire-{context.scheduled_execution_time:%Y%m%dT%H%MZ}")


@dg.schedule(job=watch_recall_job, cron_schedule="20 4 * * *", default_status=RUNNING)
def daily_recall_watch(
    context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.RunRequest | dg.SkipReason:
    """Measure recall after the night's changes, and set ef_search to hold its target."""
    if not list_serving_models(pipeline):
        return dg.SkipReason("No generation is ready")
    return dg.RunRequest(f"recall-{context.scheduled_execution_time:%Y%m%d}")


SCHEDULES = [
    hourly_ingest,
    nightly_embedding_sweep,
    nightly_evaluation,
    nightly_reconciliation,
    daily_recall_watch,
    retire_soaked_schedule,
]
