"""`register_model`: a model by name and source, probed once, for those who work in Dagster's UI."""

import dagster as dg

from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model


class ModelConfig(dg.Config):
    """As `rag model add SLUG SOURCE` takes it."""

    slug: str
    source: str
    query_prompt: str = ""
    document_prompt: str = ""
    normalise: bool = True
    base_url: str | None = None
    weights_sha256: str | None = None


@dg.op(name="register")
def register_model(context: dg.OpExecutionContext, config: ModelConfig, pipeline: dg.ResourceParam[Pipeline]) -> None:
    """Register a model and probe it once; `embedding_model_sensor` goes on from there. Nothing is embedded here."""
    record = add_model(pipeline.database, ModelSpec(**config.model_dump()))
    context.add_output_metadata(
        {
            "model": record.slug,
            "dimension": record.dimension or 0,
            "max_tokens": record.max_tokens or 0,
            "same_space_as": record.space if record.space != record.id else 0,
            "texts_per_second": round(1 / max(float(record.probe.get("seconds_per_text", 0)), 1e-6), 1),
        }
    )
