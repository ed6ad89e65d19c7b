"""The jobs: what runs together. The tag `rag/work` keeps two of a kind from running at once (dagster.yaml)."""

from typing import Any

import dagster as dg

from rag_pipeline.automation.partitions import WORK_TAG
from rag_pipeline.documents.assets import DOCUMENTS
from rag_pipeline.embeddings.ops import register_model
from rag_pipeline.serving.ops import (
    answer_queries,
    retire_soaked_generations,
    roll_back,
    watch_recall_of_generations,
)

READING = {WORK_TAG: "documents"}
MODELLING = {WORK_TAG: "models"}
MOVING = {WORK_TAG: "pointer"}

ingest = dg.define_asset_job(
    "ingest",
    dg.AssetSelection.assets(DOCUMENTS.key, "document_versions", "chunks", "index_deltas"),
    tags=READING,
    description="Read sources and bring every active generation up to date with what changed.",
)
embed_model = dg.define_asset_job(
    "embed_model",
    dg.AssetSelection.assets("embeddings"),
    tags=MODELLING,
    description="Embed what a model has no vectors for.",
)
build_index = dg.define_asset_job(
    "build_index",
    dg.AssetSelection.assets("hnsw_index", "retrieval_evaluation"),
    tags=MODELLING,
    description="Build a model's generation beside the one that serves, and compare the two.",
)
evaluate = dg.define_asset_job(
    "evaluate",
    dg.AssetSelection.assets("retrieval_evaluation"),
    tags=MODELLING,
    description="Compare a model's generation with what serves, again.",
)
promote = dg.define_asset_job(
    "promote",
    dg.AssetSelection.assets("serving_index"),
    tags=MOVING,
    description="Let a model's ready generation serve, if its verdict allows.",
)
swap_model = dg.define_asset_job(
    "swap_model",
    dg.AssetSelection.assets("hnsw_index", "retrieval_evaluation", "serving_index"),
    tags=MODELLING,
    description="Build, compare and promote in one run.",
)
reconcile = dg.define_asset_job(
    "reconcile",
    dg.AssetSelection.checks(
        dg.AssetCheckKey(dg.AssetKey("hnsw_index"), "index_is_used"),
        dg.AssetCheckKey(dg.AssetKey("serving_index"), "index_matches_documents"),
    ),
    tags=READING,
    description="Compare documents, ledger and index whole, and look at the search's plan.",
)


@dg.job(name="answer_queries", description="Search, and answer where asked to; results with provenance.")
def answer_queries_job() -> None:
    answer_queries()


@dg.job(name="retire_generations", tags=MOVING, description="Drop the generations whose soak is over.")
def retire_generations_job() -> None:
    retire_soaked_generations()


@dg.job(name="register_model", tags=MODELLING, description="Register an embedding model; the sensor embeds with it.")
def register_model_job() -> None:
    register_model()


@dg.job(name="roll_back", tags=MOVING, description="Let the previous generation serve again; nothing written is lost.")
def roll_back_job() -> None:
    roll_back()


@dg.job(name="watch_recall", tags=MODELLING, description="Measure HNSW against exact search, and set ef_search.")
def watch_recall_job() -> None:
    watch_recall_of_generations()


JOBS: list[Any] = [
    ingest,
    embed_model,
    build_index,
    evaluate,
    promote,
    swap_model,
    reconcile,
    answer_queries_job,
    retire_generations_job,
    register_model_job,
    roll_back_job,
    watch_recall_job,
]


def ingest_config(locations: list[dict[str, Any]], prune: bool) -> dict[str, Any]:
    """Run config of `ingest`; no locations: every registered source."""
    return {"ops": {"read_documents": {"config": {"locations": locations, "prune": prune}}}}


def rebuild_config(generation: int) -> dict[str, Any]:
    """Run config of `build_index` for a fresh index beside this generation."""
    return {"ops": {"hnsw_index": {"config": {"rebuild_of": generation}}}}


def promotion_config(actor: str, reason: str) -> dict[str, Any]:
    """Run config of `promote` and `swap_model`."""
    return {"ops": {"serving_index": {"config": {"actor": actor, "reason": reason}}}}
