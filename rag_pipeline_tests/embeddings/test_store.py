"""The ledger: one vector per space and text, and no vector that could not be found."""

import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.embeddings.store import (
    ModelRecord,
    count_embeddings,
    land_embeddings,
    list_embedding_failures,
    missing_chunks,
    read_coverage,
    record_embedding_failure,
    try_lock_bucket,
    unlock_bucket,
)
from rag_pipeline.index.building import cut_for, ensure_generation
from rag_pipeline.index.store import Generation
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import delete_texts, put_texts

TEXTS = {"a": "red valve", "b": "blue pump", "c": "green boiler"}


@pytest.fixture
def record(database: Database, tiny_spec: ModelSpec) -> ModelRecord:
    return add_model(database, tiny_spec)


@pytest.fixture
def generation(database: Database, settings: Settings, record: ModelRecord) -> Generation:
    put_texts(database, TEXTS)
    generation = ensure_generation(database, settings, record)
    cut_for(database, settings, generation.chunker_id, only_pending=False)
    return generation


def list_missing(database: Database, record: ModelRecord, generation: Generation, **more: object) -> list[int]:
    with database.connection() as connection:
        found = missing_chunks(connection, record.space, generation.chunker_id, **{"only_pending": False, **more})  # type: ignore[arg-type]
    return sorted(chunk.id for chunk in found)


def land(database: Database, record: ModelRecord, ids: list[int], vectors: object) -> int:
    with database.transaction() as connection:
        return land_embeddings(connection, record.space, ids, np.asarray(vectors, dtype=np.float32))


def test_what_is_missing_is_what_has_neither_vector_nor_refusal(
    database: Database, record: ModelRecord, generation: Generation
) -> None:
    first, second, third = list_missing(database, record, generation)
    assert land(database, record, [first], np.ones((1, 32))) == 1
    assert list_missing(database, record, generation) == [second, third]
    with database.transaction() as connection:
        record_embedding_failure(connection, record.space, second, "too odd")
        assert [row[:3] for row in list_embedding_failures(connection)] == [("tiny", second, "too odd")]
        coverage = read_coverage(connection, record.space, generation.chunker_id)
    assert (coverage.chunks, coverage.embedded, coverage.refused, coverage.missing) == (3, 1, 1, 1)
    assert list_missing(database, record, generation) == [third]
    delete_texts(database, "a", "b", "c")
    assert list_missing(database, record, generation) == []


def test_the_buckets_part_the_work(database: Database, record: ModelRecord, generation: Generation) -> None:
    parts = [list_missing(database, record, generation, buckets=[bucket]) for bucket in range(16)]
    assert sorted(chunk for part in parts for chunk in part) == list_missing(database, record, generation)
    assert list_missing(database, record, generation, buckets=[]) == []


def test_a_vector_lands_exactly_and_a_second_one_changes_nothing(
    database: Database, record: ModelRecord, generation: Generation
) -> None:
    ids = list_missing(database, record, generation)
    vectors = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    assert land(database, record, ids, vectors) == 3
    assert land(database, record, ids, np.ones((3, 32))) == 0
    with database.connection() as connection:
        rows = connection.execute("select vector from rag.embedding order by chunk_id").fetchall()
        assert count_embeddings(connection) == {record.space: 3}
    assert np.array_equal(np.stack([row[0].to_numpy() for row in rows]), vectors)
    assert land(database, record, [], np.empty((0, 32))) == 0


BAD = {
    "zero": np.zeros((1, 32)),
    "NaN": np.full((1, 32), np.nan),
    "infinite": np.full((1, 32), np.inf),
    "one NaN": np.where(np.arange(32) == 5, np.nan, 1.0)[None],
    "too short": np.ones((1, 31)),
    "too long": np.ones((1, 33)),
}


@pytest.mark.parametrize("name", BAD)
def test_the_database_itself_refuses_a_vector_that_cannot_be_found(
    database: Database, record: ModelRecord, generation: Generation, name: str
) -> None:
    chunk = list_missing(database, record, generation)[0]
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.DataException)):
        land(database, record, [chunk], BAD[name])
    assert chunk in list_missing(database, record, generation)


def test_a_bad_vector_takes_its_batch_with_it_and_nothing_else(
    database: Database, record: ModelRecord, generation: Generation
) -> None:
    first, second, third = list_missing(database, record, generation)
    land(database, record, [first], np.ones((1, 32)))
    with pytest.raises(psycopg.errors.CheckViolation):
        land(database, record, [second, third], np.stack([np.ones(32), np.zeros(32)]))
    assert list_missing(database, record, generation) == [second, third]


def test_a_vector_of_no_space_is_refused(database: Database, record: ModelRecord, generation: Generation) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"), database.transaction() as connection:
        land_embeddings(connection, 99, list_missing(database, record, generation)[:1], np.ones((1, 32)))


def test_two_that_land_the_same_texts_at_once_land_each_once(
    database: Database, record: ModelRecord, generation: Generation
) -> None:
    ids = list_missing(database, record, generation)
    landed: list[int] = []
    with database.transaction() as connection:
        landed.append(land_embeddings(connection, record.space, ids[:2], np.ones((2, 32), dtype=np.float32)))
        second = threading.Thread(target=lambda: landed.append(land(database, record, ids[::-1], np.ones((3, 32)))))
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
    second.join(timeout=30)
    assert landed == [2, 1]


def test_a_lease_keeps_others_out_until_its_session_ends(database: Database) -> None:
    with database.session() as first, database.session() as second:
        assert try_lock_bucket(first, 1, 5)
        assert not try_lock_bucket(second, 1, 5)
        assert try_lock_bucket(second, 1, 6)
        assert try_lock_bucket(second, 2, 5)
        unlock_bucket(first, 1, 5)
        assert try_lock_bucket(second, 1, 5)
        assert not try_lock_bucket(first, 1, 5)
    with database.session() as third:
        assert try_lock_bucket(third, 1, 5)


def test_ledgers_of_two_spaces_stand_side_by_side(
    database: Database, record: ModelRecord, generation: Generation, other_tiny_model: Path
) -> None:
    other = add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    ids = list_missing(database, record, generation)
    land(database, record, ids, np.ones((3, 32)))
    assert list_missing(database, other, generation) == ids
    land(database, other, ids[:1], np.ones((1, 32)))
    with database.connection() as connection:
        assert count_embeddings(connection) == {record.space: 3, other.space: 1}
