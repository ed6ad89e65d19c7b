"""The one place where everything meets. Importing it opens nothing."""

import dagster as dg

from rag_pipeline.automation.jobs import JOBS
from rag_pipeline.automation.resources import pipeline_resource
from rag_pipeline.automation.schedules import SCHEDULES
from rag_pipeline.automation.sensors import SENSORS
from rag_pipeline.chunks.assets import chunks
from rag_pipeline.embeddings.assets import embeddings
from rag_pipeline.index.assets import hnsw_index, index_deltas
from rag_pipeline.serving.assets import (
    index_is_used,
    index_matches_documents,
    retrieval_evaluation,
    serving_index,
)
from rag_pipeline.serving.checks import recall_holds
from rag_pipeline.versions.assets import read_documents

defs = dg.Definitions(
    assets=[read_documents, chunks, embeddings, index_deltas, hnsw_index, retrieval_evaluation, serving_index],
    asset_checks=[index_is_used, index_matches_documents, recall_holds],
    jobs=JOBS,
    sensors=SENSORS,
    schedules=SCHEDULES,
    resources={"pipeline": pipeline_resource},
    # a step of its own process costs three seconds and loads the model again
    executor=dg.in_process_executor,
)
