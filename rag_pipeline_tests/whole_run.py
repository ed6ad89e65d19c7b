"""The whole pipeline on one folder, and what it leaves as comparable rows."""

import importlib
from pathlib import Path
from typing import Any

from psycopg import sql

from rag_pipeline.database.engine import Database
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation, refresh_generation
from rag_pipeline.index.store import Generation, list_generations
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.promotion import promote
from rag_pipeline.settings import Settings
from rag_pipeline.versions.ingestion import IngestReport, ingest_locations

# Small batches, so that a small corpus has many of every kind.
SMALL_BATCHES = {
    "rag_pipeline.versions.ingestion": {"BATCH_DOCUMENTS": 40},
    "rag_pipeline.chunks.cutting": {"BATCH_VERSIONS": 40},
    "rag_pipeline.embeddings.filling": {"LEASED_CHUNKS": 64, "FIRST_LANDING": 16, "LARGEST_LANDING": 16},
    "rag_pipeline.index.applying": {"MOST_TAKEN": 15, "LEXICAL_BATCH": 40},
}


def read_folder(database: Database, settings: Settings, folder: Path, *, prune: bool = True) -> IngestReport:
    """Read a folder as source 'test'; what is gone is deleted unless `prune` is off."""
    return ingest_locations(database, settings, [resolve_location(str(folder), "default", "test")], prune=prune)


def add_generation(database: Database, settings: Settings, slug: str, directory: Path) -> Generation:
    """A generation of another static model, ready beside the one that serves."""
    record = add_model(database, ModelSpec(slug, f"model2vec:{directory}"))
    generation = ensure_generation(database, settings, record)
    fill_generation(database, settings, generation)
    build_generation(database, settings, generation)
    return generation


def bring_up(database: Database, settings: Settings, spec: ModelSpec | None = None) -> Generation:
    """From documents to a generation that serves, or that is up to date if it serves already."""
    model = add_model(database, spec or ModelSpec(settings.model_slug, settings.model))
    generation = ensure_generation(database, settings, model)
    if generation.state == "building":
        fill_generation(database, settings, generation)
        build_generation(database, settings, generation)
    refresh_generation(database, settings, generation)
    with database.connection() as connection:
        serving = list_generations(connection, ["serving"])
    if not serving:
        evaluate_candidate(database, settings, generation)
        promote(database, generation.id, actor="test", reason="first")
    with database.connection() as connection:
        return next(g for g in list_generations(connection) if g.id == generation.id)


def run_whole(database: Database, settings: Settings, folder: Path) -> Generation:
    """Everything that one ingest does, from files to what is served."""
    read_folder(database, settings, folder)
    return bring_up(database, settings)


ROWS = {
    "documents": """
        select d.uri, d.external_id, d.deleted_at is null, v.ordinal, v.title, v.text, v.metadata::text
        from rag.document d left join rag.document_version v on v.id = d.current_version_id""",
    "history": """
        select d.uri, v.ordinal, encode(v.content_sha256, 'hex'), v.valid_to is null
        from rag.document_version v join rag.document d on d.id = v.document_id""",
    "failures": "select uri, code from rag.document_failure",
    "chunks": """
        select d.uri, v.ordinal, vc.ordinal, encode(c.content_sha256, 'hex'), vc.start_offset, vc.end_offset, c.bucket
        from rag.version_chunk vc join rag.chunk c on c.id = vc.chunk_id
        join rag.document_version v on v.id = vc.version_id join rag.document d on d.id = v.document_id""",
    "chunked": """
        select d.uri, v.ordinal, n.chunk_count
        from rag.version_chunking n join rag.document_version v on v.id = n.version_id
        join rag.document d on d.id = v.document_id""",
    "embeddings": """
        select m.slug, encode(c.content_sha256, 'hex'), e.vector::text
        from rag.embedding e join rag.chunk c on c.id = e.chunk_id
        join rag.embedding_model m on m.id = e.space_id""",
    "refused": """
        select encode(c.content_sha256, 'hex'), f.reason
        from rag.embedding_failure f join rag.chunk c on c.id = f.chunk_id""",
    "served": """
        select d.uri, v.ordinal, v.id = d.current_version_id from rag.generation_version g
        join rag.document d on d.id = g.document_id join rag.document_version v on v.id = g.version_id""",
    "index": """
        select encode(c.content_sha256, 'hex'), i.tenant, i.embedding::text
        from rag.{table} i join rag.chunk c on c.id = i.chunk_id""",
    "postings": """
        select t.term, encode(c.content_sha256, 'hex'), p.frequency, p.length
        from rag.posting p join rag.chunk c on c.id = p.chunk_id
        join rag.lexical_term t on t.chunker_id = p.chunker_id and t.term_id = p.term_id""",
    "terms": "select term, chunk_count from rag.lexical_term where chunk_count <> 0",
    "collection": "select chunk_count, total_length from rag.lexical_index",
    "queue": "select document_id from rag.pending_change",
    "generations": "select state from rag.generation",
    "serving": "select count(*) from rag.serving s join rag.generation g on g.id = s.generation_id",
    "promotions": "select action, forced from rag.promotion",
}


def dump_rows(database: Database, generation: Generation) -> dict[str, list[tuple[Any, ...]]]:
    """Every table as sorted rows without numbers and times: equal for databases that hold the same."""
    with database.connection() as connection:
        return {
            name: sorted(
                connection.execute(
                    sql.SQL(query).format(table=sql.Identifier(generation.table_name))  # type: ignore[arg-type]
                ).fetchall(),
                key=repr,
            )
            for name, query in ROWS.items()
        }


def use_small_batches() -> None:
    for module, constants in SMALL_BATCHES.items():
        for name, value in constants.items():
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name} any more"
            setattr(importlib.import_module(module), name, value)
