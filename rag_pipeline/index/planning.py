"""What a model swap will take, before anything is spent."""

from dataclasses import dataclass

from rag_pipeline.database.embedded import memory_megabytes
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import store as embeddings
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index import store
from rag_pipeline.index.building import choose_chunker, cut_for
from rag_pipeline.index.recipe import BuildPlan, IndexRecipe, plan_build
from rag_pipeline.settings import Settings


@dataclass(frozen=True)
class SwapPlan:
    """Chunks to embed and already in the ledger, tokens, the estimated seconds at the probed rate, the build."""

    model: str
    chunks: int
    in_ledger: int
    to_embed: int
    tokens: int
    embed_seconds: float
    build: BuildPlan


def plan_swap(database: Database, settings: Settings, model: ModelRecord) -> SwapPlan:
    """Plan a swap to a probed model; cuts the corpus if the model needs other chunks, embeds nothing.

    Raises LookupError for a model that was not probed.
    """
    space = model.space
    with database.connection() as connection:
        serving = next(iter(store.list_generations(connection, ["serving"])), None)
        chunker = choose_chunker(connection, settings, model, serving)
    cut_for(database, settings, chunker.id, only_pending=False)
    with database.connection() as connection:
        coverage = embeddings.read_coverage(connection, space, chunker.id)
        missing = embeddings.missing_chunks(connection, space, chunker.id, only_pending=False)
    recipe = IndexRecipe(settings.vector_type, settings.hnsw_m, settings.hnsw_ef_construction)
    ceiling = settings.build_memory_mb or memory_megabytes() // 3
    return SwapPlan(
        model.slug,
        coverage.chunks,
        coverage.embedded,
        len(missing),
        sum(chunk.token_count for chunk in missing),
        len(missing) * float(model.probe.get("seconds_per_text", 0.0)),
        plan_build(recipe, coverage.chunks, model.dimension or 0, ceiling),
    )
