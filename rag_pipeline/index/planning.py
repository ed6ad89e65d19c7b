"""What a model swap will take, before anything is spent."""

from collections.abc import Sequence
from dataclasses import dataclass

from rag_pipeline.database.embedded import memory_megabytes
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import store as embeddings
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index import store
from rag_pipeline.index.building import choose_chunker, cut_for
from rag_pipeline.index.recipe import BuildPlan, IndexRecipe, plan_build
from rag_pipeline.index.store import Generation
from rag_pipeline.settings import Settings


@dataclass(frozen=True)
class SwapPlan:
    """Chunks to embed and already in the ledger, tokens, time, money, disk and memory, before anything is spent.

    `embed_seconds` is at the probed rate, `limit_seconds` at a provider's tokens per minute (None: no limit
    given); what an endpoint takes is the larger one. `cost` is in the price's currency (None: no price given).
    `disk_bytes` is what the swap adds while both generations stand, `resident_bytes` what the new HNSW index
    wants of the server's page cache; `build_seconds` follows from earlier builds (None: there was none).
    """

    model: str
    chunks: int
    in_ledger: int
    to_embed: int
    tokens: int
    embed_seconds: float
    build: BuildPlan
    cost: float | None = None
    limit_seconds: float | None = None
    build_seconds: float | None = None
    disk_bytes: int = 0
    resident_bytes: int = 0


# A row of the ledger beside its float32 values: tuple header, item pointer, keys, and its primary key's entry.
LEDGER_ROW_BYTES = 24 + 4 + 16 + 8 + 24
# The index table's primary key and index of tenants: 22 bytes a row each where full, more after updates.
KEY_ROW_BYTES = 64
FEWEST_BUILT = 1000


def plan_swap(
    database: Database,
    settings: Settings,
    model: ModelRecord,
    *,
    price_per_million: float | None = None,
    tokens_per_minute: float | None = None,
) -> SwapPlan:
    """Plan a swap to a probed model; cuts the corpus if the model needs other chunks, embeds nothing.

    Raises MissingError for a model that was not probed.
    """
    space = model.space
    with database.connection() as connection:
        serving = next(iter(store.list_generations(connection, ["serving"])), None)
        chunker = choose_chunker(connection, settings, model, serving)
    cut_for(database, settings, chunker.id, only_pending=False)
    with database.connection() as connection:
        coverage = embeddings.read_coverage(connection, space, chunker.id)
        missing = embeddings.missing_chunks(connection, space, chunker.id, only_pending=False)
        built = store.list_generations(connection)
    recipe = IndexRecipe(settings.vector_type, settings.hnsw_m, settings.hnsw_ef_construction)
    ceiling = settings.build_memory_mb or memory_megabytes() // 3
    dimension, tokens = model.dimension or 0, sum(chunk.token_count for chunk in missing)
    build = plan_build(recipe, coverage.chunks, dimension, ceiling)
    price = price_per_million if price_per_million is not None else settings.price_per_million
    ledger = len(missing) * (LEDGER_ROW_BYTES + 4 * dimension)
    return SwapPlan(
        model.slug,
        coverage.chunks,
        coverage.embedded,
        len(missing),
        tokens,
        len(missing) * float(model.probe.get("seconds_per_text", 0.0)),
        build,
        cost=None if price is None else tokens / 1e6 * price,
        limit_seconds=60 * tokens / tokens_per_minute if tokens_per_minute else None,
        build_seconds=estimate_build(build, built),
        disk_bytes=ledger + build.table_bytes + build.index_bytes + KEY_ROW_BYTES * build.rows,
        resident_bytes=build.index_bytes,
    )


def estimate_build(plan: BuildPlan, built: Sequence[Generation]) -> float | None:
    """Seconds of an HNSW build from the newest large enough one on this server, per row and dimension. Pure.

    A build that spills is slower, and a larger graph a little: an estimate, not measured.
    """
    for generation in reversed(built):
        rows, seconds = generation.metrics.get("rows_at_build", 0), generation.metrics.get("build_seconds")
        if seconds and rows >= FEWEST_BUILT:
            scale = plan.rows / float(rows) * max(plan.dimension, 64) / max(generation.dimension, 64)
            return float(seconds) * scale
    return None
