"""Filling the ledger: each text once, by however many workers, and no model where there is nothing to do."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import filling, registry
from rag_pipeline.embeddings.filling import embed_missing, lease_buckets
from rag_pipeline.embeddings.models import ModelSpec, load_model
from rag_pipeline.embeddings.registry import DriftError, add_model
from rag_pipeline.embeddings.store import MissingChunk, ModelRecord, count_embeddings, try_lock_bucket
from rag_pipeline.index.building import cut_for, ensure_generation
from rag_pipeline.index.store import Generation
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.tiny_model import make_text, save_tiny_model

WORKER = """
import sys, time
from rag_pipeline.database.engine import open_database
from rag_pipeline.embeddings import filling, store
from rag_pipeline.embeddings.registry import find_model, open_checked_model
from rag_pipeline.settings import load_settings
chunker_id, pause = int(sys.argv[1]), float(sys.argv[2])
filling.LEASED_CHUNKS = filling.FIRST_LANDING = filling.LARGEST_LANDING = 16
land = store.land_embeddings
def land_slowly(*arguments):
    print("embedded", len(arguments[2]), flush=True)
    time.sleep(pause)
    return land(*arguments)
store.land_embeddings = land_slowly
database = open_database(load_settings())
record = find_model(database, "tiny")
open_checked_model(record)
print("ready", flush=True)
sys.stdin.readline()
report = filling.embed_missing(database, record, chunker_id, only_pending=False)
print("landed", report.embedded, flush=True)
"""


@pytest.fixture
def record(database: Database, tiny_spec: ModelSpec) -> ModelRecord:
    return add_model(database, tiny_spec)


@pytest.fixture
def generation(database: Database, settings: Settings, record: ModelRecord) -> Generation:
    chosen = random.Random(1)
    put_texts(database, {f"doc{n}": make_text(chosen, 40) for n in range(160)})
    generation = ensure_generation(database, settings, record)
    cut_for(database, settings, generation.chunker_id, only_pending=False)
    return generation


def start_worker(settings: Settings, generation: Generation, pause: float) -> subprocess.Popen[str]:
    assert settings.database_url is not None
    environment = {**os.environ, "RAG_DATABASE_URL": settings.database_url.get_secret_value()}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(generation.chunker_id), str(pause)],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def release(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


def count_chunks(database: Database) -> int:
    with database.connection() as connection:
        row = connection.execute("select count(*) from rag.chunk").fetchone()
    return int(row[0]) if row else 0


def count_vectors(database: Database, record: ModelRecord) -> int:
    with database.connection() as connection:
        return count_embeddings(connection).get(record.space, 0)


def test_every_vector_is_the_models_own_for_its_text(
    database: Database, record: ModelRecord, generation: Generation
) -> None:
    report = embed_missing(database, record, generation.chunker_id, only_pending=False)
    chunks = count_chunks(database)
    assert (report.embedded, report.refused) == (chunks, 0)
    assert report.characters > 0
    assert report.tokens > 0
    with database.connection() as connection:
        rows = connection.execute(
            "select c.title, c.heading_path, c.text, e.vector from rag.embedding e"
            " join rag.chunk c on c.id = e.chunk_id"
        ).fetchall()
    vectors = load_model(record.spec).embed_documents([embedded_text(*row[:3]) for row in rows])
    assert np.allclose(np.stack([row[3].to_numpy() for row in rows]), vectors, atol=1e-6)


def test_a_second_run_embeds_nothing_and_does_not_even_load_the_model(
    database: Database, settings: Settings, generation: Generation, tmp_path: Path
) -> None:
    path = save_tiny_model(tmp_path / "model", seed=5)
    record = add_model(database, ModelSpec("mine", f"model2vec:{path}"))
    assert embed_missing(database, record, generation.chunker_id, only_pending=False).embedded > 0
    shutil.rmtree(path)  # whoever loads it now, fails
    registry.open_model.cache_clear()
    registry._canaries_now.cache_clear()
    assert embed_missing(database, record, generation.chunker_id, only_pending=False).embedded == 0
    cut_for(database, settings, generation.chunker_id, only_pending=False)
    put_texts(database, {"new": "red valve"})
    cut_for(database, settings, generation.chunker_id, only_pending=False)
    with pytest.raises(Exception, match="no directory"):
        embed_missing(database, record, generation.chunker_id, only_pending=False)


def test_the_same_model_under_a_second_name_has_nothing_to_embed(
    database: Database, record: ModelRecord, generation: Generation, tiny_model: Path, tmp_path: Path
) -> None:
    embed_missing(database, record, generation.chunker_id, only_pending=False)
    copied = shutil.copytree(tiny_model, tmp_path / "copy")
    second = add_model(database, ModelSpec("second", f"model2vec:{copied}"))
    assert embed_missing(database, second, generation.chunker_id, only_pending=False).embedded == 0


def test_a_model_that_drifted_embeds_nothing(database: Database, generation: Generation, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model", seed=5)
    record = add_model(database, ModelSpec("mine", f"model2vec:{path}"))
    shutil.rmtree(path)
    save_tiny_model(path, seed=6)
    registry.open_model.cache_clear()
    registry._canaries_now.cache_clear()
    with pytest.raises(DriftError, match="Nothing was embedded"):
        embed_missing(database, record, generation.chunker_id, only_pending=False)
    assert count_vectors(database, record) == 0


def test_two_worker_processes_share_the_work_and_embed_each_text_once(
    database: Database, settings: Settings, record: ModelRecord, generation: Generation
) -> None:
    workers = [start_worker(settings, generation, 0.02) for _ in range(2)]
    release(*workers)
    outputs = [worker.communicate(timeout=60)[0].split("\n") for worker in workers]
    chunks = count_chunks(database)
    assert count_vectors(database, record) == chunks
    embedded = [sum(int(line.split()[1]) for line in lines if line.startswith("embedded")) for lines in outputs]
    assert sum(embedded) == chunks, "no text was embedded twice"
    assert min(embedded) > chunks // 10, f"one worker did almost all: {embedded}"


def test_what_a_killed_worker_had_leased_is_free_at_once(
    database: Database, settings: Settings, record: ModelRecord, generation: Generation
) -> None:
    worker = start_worker(settings, generation, 30)
    release(worker)
    assert worker.stdout is not None
    assert worker.stdout.readline().startswith("embedded")  # and holds its lease, asleep before it lands
    with database.session() as connection:
        held = [bucket for bucket in range(16) if not try_lock_bucket(connection, record.space, bucket)]
    assert held
    worker.kill()
    worker.wait()
    began = time.monotonic()
    report = embed_missing(database, record, generation.chunker_id, only_pending=False)
    assert report.embedded == count_chunks(database)
    assert time.monotonic() - began < 10


def test_a_worker_waits_for_what_another_holds_and_finishes_it_if_that_one_gives_up(
    database: Database, record: ModelRecord, generation: Generation
) -> None:
    import threading

    with database.session() as other:
        assert all(try_lock_bucket(other, record.space, bucket) for bucket in range(8))
        reports = []
        worker = threading.Thread(
            target=lambda: reports.append(embed_missing(database, record, generation.chunker_id, only_pending=False))
        )
        worker.start()
        worker.join(timeout=2)
        assert worker.is_alive()  # its promise is that nothing is missing
        assert 0 < count_vectors(database, record) < count_chunks(database)
    worker.join(timeout=30)
    assert reports[0].embedded == count_chunks(database)


def test_a_text_the_model_refuses_costs_nobody_else(
    database: Database, settings: Settings, record: ModelRecord, generation: Generation
) -> None:
    put_texts(database, {"odd": "qqqqq xxxxx", "good": "red valve"})
    cut_for(database, settings, generation.chunker_id, only_pending=False)
    report = embed_missing(database, record, generation.chunker_id, only_pending=False)
    assert report.refused == 1
    assert report.embedded == count_chunks(database) - 1
    again = embed_missing(database, record, generation.chunker_id, only_pending=False)
    assert (again.embedded, again.refused) == (0, 0)


def test_only_the_asked_buckets_are_filled(database: Database, record: ModelRecord, generation: Generation) -> None:
    embed_missing(database, record, generation.chunker_id, only_pending=False, buckets=[3, 5])
    with database.connection() as connection:
        rows = connection.execute(
            "select distinct c.bucket, e.chunk_id is not null from rag.chunk c"
            " left join rag.embedding e on e.chunk_id = c.id"
        ).fetchall()
    assert {bucket for bucket, embedded in rows if embedded} == {3, 5}
    assert not any(embedded for bucket, embedded in rows if bucket not in (3, 5))


def test_leases_are_handed_over_when_they_hold_enough(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "LEASED_CHUNKS", 10)
    missing = [MissingChunk(n, n % 4, 1) for n in range(32)]
    with database.session() as connection:
        handed = [(leased, len(chunks)) for leased, chunks in lease_buckets(connection, 1, missing)]
    assert handed == [([0, 1], 16), ([2, 3], 16)]
