"""Killed anywhere and run again, a life of an index ends where an undisturbed one ends: compared row by row.

The short form of `python -m rag_pipeline_tests.faults`. RAG_FAULT_SEED: another corpus and other moments.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.applying import load_generation
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation
from rag_pipeline.index.store import read_index_state
from rag_pipeline.settings import Settings
from rag_pipeline_tests.faults.ends import compare_ends
from rag_pipeline_tests.faults.run import FaultRun, Wanted
from rag_pipeline_tests.faults.steps import list_store_functions
from rag_pipeline_tests.whole_run import read_folder

SEED = int(os.environ.get("RAG_FAULT_SEED", "1"))
STEPS, KILLS, STOPS = 10, 5, 2

MakeDatabase = Callable[..., tuple[Settings, Database]]


def test_a_swap_killed_at_steps_and_at_random_with_the_server_stopped_ends_like_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    run = FaultRun(tmp_path, SEED, Wanted(True, KILLS, STOPS, 0, STEPS), time.monotonic() + 300, print)
    run.go()
    assert run.unspent == ""
    assert sum(run.total.killed.values()) >= STEPS
    assert (run.total.kills, run.total.stops) == (KILLS, STOPS)
    assert run.total.looks["searches"] > 20, "the observer has hardly looked"
    assert run.total.looks["generations building"], "it has never seen a generation while it was built"


def test_the_named_steps_are_all_functions_of_stores() -> None:
    found = list_store_functions()
    assert len(found) > 90
    assert {"index.store.create_index", "serving.store.move_pointer", "index.delta_store.finish_pending"} <= set(found)


def test_ends_that_differ_in_one_row_or_in_how_often_it_is_there_are_not_equal() -> None:
    calm = {"index": [("a",), ("b",)], "all vectors": [("m", "a", "[1]")]}
    assert compare_ends(calm, {"index": [("b",), ("a",)], "all vectors": []}) == []
    assert compare_ends(calm, {"index": [("a",)], "all vectors": []}) == ["index: 1 lost, 0 added, as ('b',)"]
    assert compare_ends(calm, {"index": [("a",), ("b",), ("b",)], "all vectors": []})
    assert compare_ends(calm, {"index": calm["index"], "all vectors": [("m", "a", "[2]")]})


def start_process(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    assert settings.database_url is not None
    environment = {
        **os.environ,
        "RAG_DATABASE_URL": settings.database_url.get_secret_value(),
        "RAG_HOME": str(settings.home),
        "RAG_MODEL": settings.model,
        "RAG_MODEL_SLUG": "tiny",
        "RAG_HNSW_M": str(settings.hnsw_m),
        "RAG_HNSW_EF_CONSTRUCTION": str(settings.hnsw_ef_construction),
    }
    return subprocess.Popen([sys.executable, *arguments], env=environment, cwd=Path(__file__).parents[1])


BUILD = """
import sys
from rag_pipeline.settings import load_settings
from rag_pipeline.database.engine import open_database
from rag_pipeline.index.building import build_generation
from rag_pipeline.index.store import list_generations
settings = load_settings()
database = open_database(settings)
with database.connection() as connection:
    generation = list_generations(connection)[0]
build_generation(database, settings, generation)
"""


def test_a_build_whose_process_was_killed_is_waited_for_and_not_done_twice(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    settings, database = make_database(hnsw_m=48, hnsw_ef_construction=600)
    (tmp_path / "one.md").write_text("red valve")
    read_folder(database, settings, tmp_path)
    generation = ensure_generation(database, settings, add_model(database, ModelSpec("tiny", settings.model)))
    fill_generation(database, settings, generation)
    load_generation(database, generation)
    with database.connection() as connection:
        connection.execute(
            sql.SQL(
                "insert into rag.{} select -n, 'default', array(select random() + 0 * n from generate_series(1, 32))"
                "::vector::halfvec from generate_series(1, 4000) n"
            ).format(sql.Identifier(generation.table_name))
        )
        process = start_process(settings, "-c", BUILD)
        while not connection.execute("select 1 from pg_stat_progress_create_index").fetchone():
            assert process.poll() is None, "the build ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
    # the server goes on with the statement of the process that is gone
    build_generation(database, settings, generation)
    with database.connection() as connection:
        state = read_index_state(connection, generation)
        assert state is not None
        assert state.valid
        assert connection.execute("select state from rag.generation").fetchall() == [("ready",)]
