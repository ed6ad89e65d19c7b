"""From a recipe to a generation that is ready: create, fill, load, build, catch up. Each step resumes."""

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from rag_pipeline.chunks.cutting import Chunker, ChunkReport, cut_missing_versions, read_chunker, record_chunker
from rag_pipeline.chunks.recipe import ChunkerRecipe
from rag_pipeline.database.embedded import memory_megabytes
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.filling import EmbeddingReport, embed_missing
from rag_pipeline.embeddings.registry import open_counter
from rag_pipeline.embeddings.store import ModelRecord, read_model_by_id
from rag_pipeline.errors import ExpectedError, MissingError
from rag_pipeline.index import store
from rag_pipeline.index.applying import apply_changes, load_generation
from rag_pipeline.index.delta_store import Moved
from rag_pipeline.index.recipe import BuildPlan, IndexRecipe, check_dimension, choose_workers, plan_build
from rag_pipeline.index.store import Generation
from rag_pipeline.progress import track
from rag_pipeline.settings import Settings

SPILL_NOTICE = "no longer fits into maintenance_work_mem"


class BuildBusyError(ExpectedError):
    """Another generation is building; one builds at a time."""


@dataclass(frozen=True)
class BuildReport:
    """What building the HNSW index took. `spilled`: the server said that the graph outgrew its memory."""

    plan: BuildPlan
    seconds: float
    index_bytes: int
    spilled: bool


def choose_chunker(
    connection: psycopg.Connection, settings: Settings, model: ModelRecord, serving: Generation | None
) -> Chunker:
    """The chunker of a new generation: the serving one's where its chunks fit the model, so that a swap does not
    cut the corpus anew; else the settings', with the model's tokenizer and limit."""
    if serving is not None:
        chunker = read_chunker(connection, serving.chunker_id)
        if is_as_set(chunker.recipe, settings) and fits_model(chunker.recipe, model.max_tokens):
            return chunker
    recipe = ChunkerRecipe(
        settings.chunker,
        settings.chunk_size,
        settings.chunk_overlap,
        settings.chunk_unit,
        min(settings.chunk_max_tokens, model.max_tokens or settings.chunk_max_tokens),
    )
    return record_chunker(connection, recipe, model.spec.source)


def is_as_set(recipe: ChunkerRecipe, settings: Settings) -> bool:
    """Whether a chunker is what the settings ask for, its token ceiling apart."""
    asked = (settings.chunker, settings.chunk_size, settings.chunk_overlap, settings.chunk_unit)
    return (recipe.name, recipe.size, recipe.overlap, recipe.unit) == asked


def fits_model(recipe: ChunkerRecipe, max_tokens: int | None) -> bool:
    """Whether a model reads chunks of this recipe to their end."""
    return max_tokens is None or (recipe.max_tokens is not None and recipe.max_tokens <= max_tokens)


def recipe_of(settings: Settings) -> dict[str, Any]:
    """The index part of a generation's recipe, from the settings."""
    index = IndexRecipe(settings.vector_type, settings.hnsw_m, settings.hnsw_ef_construction)
    return {"index": index.to_json(), "stemmer": settings.stemmer, "fusion_weight": settings.fusion_weight}


def ensure_generation(database: Database, settings: Settings, model: ModelRecord, *, newer_than: int = 0) -> Generation:
    """The newest active generation of this model and the settings' recipe, created if there is none.

    `newer_than`: one up to that number does not count; its rebuild is asked for. Asking again finds the same
    rebuild, so a retry makes no second one. Raises `BuildBusyError` while another one builds.
    """
    with database.transaction() as connection:
        connection.execute("lock table rag.generation in share row exclusive mode")
        active = store.list_generations(connection, store.ACTIVE_STATES)
        serving = next((g for g in active if g.state == "serving"), None)
        chunker = choose_chunker(connection, settings, model, serving)
        recipe = recipe_of(settings)
        for generation in reversed(active):
            if generation.id > newer_than and is_generation_of(generation, model, chunker.id, recipe):
                return generation
        if building := [g for g in active if g.state == "building"]:
            raise BuildBusyError(
                f"Generation {building[0].id} ({building[0].model}) is building, and one builds at a time. "
                f"Finish it with `rag model swap {building[0].model}`, or drop it with `rag model retire`."
            )
        dimension = model.dimension or 0
        check_dimension(IndexRecipe(**recipe["index"]), dimension)
        number = store.create_generation(connection, model.id, chunker.id, dimension, recipe)
    with database.connection() as connection:
        return _read(connection, number)


def is_generation_of(generation: Generation, model: ModelRecord, chunker_id: int, recipe: dict[str, Any]) -> bool:
    """Whether a generation has this model, chunker and index recipe; a fusion weight is fitted, not built."""
    return (
        (generation.model_id, generation.chunker_id) == (model.id, chunker_id)
        and generation.recipe["index"] == recipe["index"]
        and generation.stemmer == recipe["stemmer"]
    )


def _read(connection: psycopg.Connection, number: int) -> Generation:
    generation = store.read_generation(connection, number)
    if generation is None:
        raise MissingError(f"There is no generation {number}; see `rag status`")
    return generation


def cut_for(database: Database, settings: Settings, chunker_id: int, *, only_pending: bool) -> ChunkReport:
    """Cut what a chunker has not cut."""
    with database.connection() as connection:
        chunker = read_chunker(connection, chunker_id)
    return cut_missing_versions(database, chunker, settings.buckets, open_counter, only_pending=only_pending)


def fill_generation(database: Database, settings: Settings, generation: Generation) -> EmbeddingReport:
    """Cut and embed everything the generation needs; where nothing is missing nothing is loaded."""
    with database.connection() as connection:
        model = read_model_by_id(connection, generation.model_id)
    cut_for(database, settings, generation.chunker_id, only_pending=False)
    return embed_missing(database, model, generation.chunker_id, only_pending=False)


def build_generation(database: Database, settings: Settings, generation: Generation) -> BuildReport | None:
    """Load the table, build the index, call it ready, and catch up with what changed meanwhile, new texts included.

    None if it was built before. What a killed build left is an empty table or a loaded one: both go on here.
    """
    load_generation(database, generation)
    report = _build_index(database, settings, generation)
    apply_changes(database, generation)
    with database.transaction() as connection:
        if store.lock_generation(connection, generation.id) == "building":
            store.set_state(connection, generation.id, "ready")
    # nobody embeds for one that builds: first ready, so that a change is ours or, from now on, its ingestion's
    refresh_generation(database, settings, generation)
    return report


def _build_index(database: Database, settings: Settings, generation: Generation) -> BuildReport | None:
    with database.session() as connection:
        store.lock_build(connection, generation.id)
        state = store.read_index_state(connection, generation)
        if state is not None and state.valid:
            return None
        if state is not None:
            store.drop_index(connection, generation)
        rows = store.count_rows(connection, generation)
        ceiling = settings.build_memory_mb or memory_megabytes() // 3
        plan = plan_build(generation.index_recipe, rows, generation.dimension, ceiling)
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("select set_config('maintenance_work_mem', %s, false)", (f"{plan.memory_mb}MB",))
        if settings.database_url is None:  # of a server elsewhere neither the cores nor who else uses them are ours
            serving = bool(store.list_generations(connection, ["serving"]))
            if (workers := choose_workers(os.cpu_count() or 1, serving=serving)) is not None:
                connection.execute("select set_config('max_parallel_maintenance_workers', %s, false)", (str(workers),))
        seconds = _create_watched(database, connection, generation, rows)
        state = store.read_index_state(connection, generation)
        report = BuildReport(
            plan, seconds, state.bytes if state else 0, any(SPILL_NOTICE in notice for notice in notices)
        )
        store.merge_metrics(
            connection,
            generation.id,
            {
                "build_seconds": round(seconds, 2),
                "rows_at_build": rows,
                "index_bytes": report.index_bytes,
                "spilled": report.spilled,
                "inserted": 0,
                "deleted": 0,
            },
        )
    return report


def _create_watched(database: Database, connection: psycopg.Connection, generation: Generation, rows: int) -> float:
    """Create the index while a second connection moves the progress bar. Returns seconds."""
    done = threading.Event()
    began = time.monotonic()
    with track(f"building {generation.index_name}", rows, "rows") as advance:

        def watch() -> None:
            seen = 0
            with database.connection() as watcher:
                while not done.wait(0.5):
                    row = store.QUERIES.build_progress(watcher, pid=connection.info.backend_pid)
                    if row and row[1] and row[1] > seen:
                        advance(row[1] - seen)
                        seen = row[1]

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            store.create_index(connection, generation)
        finally:
            done.set()
            watcher.join()
    return time.monotonic() - began


def refresh_generation(database: Database, settings: Settings, generation: Generation) -> tuple[EmbeddingReport, Moved]:
    """Bring an active generation up to date with its queue: cut, embed and apply only what changed."""
    with database.connection() as connection:
        model = read_model_by_id(connection, generation.model_id)
    cut_for(database, settings, generation.chunker_id, only_pending=True)
    embedded = embed_missing(database, model, generation.chunker_id, only_pending=True)
    return embedded, apply_changes(database, generation)
