"""What the generations ask of the earlier stages: which chunkers must have cut, for which models.

The stages do not look ahead; this is where the shells learn what is wanted downstream.
"""

from dataclasses import dataclass

from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.chunks.cutting import ChunkReport
from rag_pipeline.embeddings.models import ModelRefused, ModelSpec
from rag_pipeline.embeddings.registry import add_model, find_model, probe_registered_model
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index.building import choose_chunker, cut_for
from rag_pipeline.index.store import ACTIVE_STATES, Generation, list_generations
from rag_pipeline.settings import Settings

KEPT_CURRENT = ("ready", "serving", "soaking")


@dataclass(frozen=True)
class WantedChunker:
    """A chunker whose chunks are wanted. `only_pending`: what has not changed since is known to be cut."""

    id: int
    only_pending: bool


def default_model_spec(settings: Settings) -> ModelSpec:
    """The model of the first generation, as the settings name it."""
    endpoint = settings.embedding_base_url if settings.model.startswith("openai:") else None
    return ModelSpec(settings.model_slug, settings.model, base_url=endpoint)


def find_probed_model(pipeline: Pipeline, slug: str) -> ModelRecord:
    """The model of that slug, probed now if it never was. Raises `UnknownModelError`, `ModelRefused`."""
    record = find_model(pipeline.database, slug)
    if record.state == "refused":
        raise ModelRefused(
            f"Model {slug!r} was refused: {record.reason}. Mend it and register it again: "
            f"rag model add {slug} {record.spec.source}"
        )
    return probe_registered_model(pipeline.database, record) if record.state == "registered" else record


def list_active(pipeline: Pipeline, *states: str) -> list[Generation]:
    """Generations in some of the active states (default: all of them), oldest first."""
    with pipeline.database.connection() as connection:
        return list_generations(connection, states or ACTIVE_STATES)


def list_wanted_chunkers(pipeline: Pipeline) -> list[WantedChunker]:
    """Those of the active generations; before the first, the one that the default model will get."""
    active = list_active(pipeline)
    if active:
        current = {g.chunker_id for g in active if g.state in KEPT_CURRENT}
        return [WantedChunker(id_, id_ in current) for id_ in sorted({g.chunker_id for g in active})]
    record = add_model(pipeline.database, default_model_spec(pipeline.settings))
    return [WantedChunker(id_, False) for id_ in list_model_chunkers(pipeline, record)]


def list_model_chunkers(pipeline: Pipeline, record: ModelRecord) -> list[int]:
    """The chunkers of a probed model: of its active generations, and of the one it would get now."""
    with pipeline.database.transaction() as connection:
        active = list_generations(connection, ACTIVE_STATES)
        serving = next((g for g in active if g.state == "serving"), None)
        chosen = choose_chunker(connection, pipeline.settings, record, serving)
    return sorted({chosen.id, *(g.chunker_id for g in active if g.model_id == record.id)})


def cut_wanted(pipeline: Pipeline, wanted: WantedChunker) -> ChunkReport:
    """Cut what a wanted chunker has not cut."""
    return cut_for(pipeline.database, pipeline.settings, wanted.id, only_pending=wanted.only_pending)
