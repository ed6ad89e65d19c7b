"""One generation of a recipe stands, unless a fresh one is asked for; and what counts as drift since its build."""

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index.building import (
    BuildBusyError,
    build_generation,
    ensure_generation,
    fill_generation,
    refresh_generation,
)
from rag_pipeline.index.store import Generation, drop_index, read_generation
from rag_pipeline.serving.retirement import retire_generation
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import delete_texts, put_texts
from rag_pipeline_tests.whole_run import bring_up


@pytest.fixture
def serving(database: Database, settings: Settings) -> Generation:
    put_texts(database, {"a": "red valve", "b": "blue pump", "c": "green boiler"})
    return bring_up(database, settings)


@pytest.fixture
def model(database: Database, settings: Settings) -> ModelRecord:
    return add_model(database, ModelSpec("tiny", settings.model))


def test_a_fresh_generation_is_made_once_however_often_it_is_asked_for(
    database: Database, settings: Settings, serving: Generation, model: ModelRecord
) -> None:
    assert ensure_generation(database, settings, model).id == serving.id
    fresh = ensure_generation(database, settings, model, newer_than=serving.id)
    assert (fresh.id, fresh.state, fresh.recipe) == (serving.id + 1, "building", serving.recipe)
    assert ensure_generation(database, settings, model, newer_than=serving.id).id == fresh.id
    with pytest.raises(BuildBusyError, match="one builds at a time"):
        ensure_generation(database, settings, model, newer_than=fresh.id)
    assert fill_generation(database, settings, fresh).embedded == 0
    build_generation(database, settings, fresh)
    assert ensure_generation(database, settings, model, newer_than=serving.id).id == fresh.id
    assert ensure_generation(database, settings, model).id == fresh.id
    retire_generation(database, fresh.id)
    assert ensure_generation(database, settings, model).id == serving.id


def test_rows_that_come_and_go_are_counted_from_the_build_on(
    database: Database, settings: Settings, serving: Generation
) -> None:
    def count() -> tuple[int, int, int]:
        with database.connection() as connection:
            now = read_generation(connection, serving.id)
        assert now is not None
        return now.metrics["rows_at_build"], now.metrics["inserted"], now.metrics["deleted"]

    assert count() == (3, 0, 0)
    put_texts(database, {"a": "red valve new", "d": "old dog"})
    delete_texts(database, "b")
    refresh_generation(database, settings, serving)
    assert count() == (3, 2, 2)
    refresh_generation(database, settings, serving)
    assert count() == (3, 2, 2)
    with database.connection() as connection:
        drop_index(connection, serving)
    build_generation(database, settings, serving)
    assert count() == (3, 0, 0)
