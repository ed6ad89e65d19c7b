"""Loading and building a generation against a bare binary COPY and a bare CREATE INDEX.

The baseline copies vectors that lie ready in memory into a table (chunk_id, halfvec) and builds the HNSW index
with the same maintenance_work_mem, m and ef_construction. Ours starts from the ledger and does more: it works
out which version of each document is served, marks it, keeps a primary key and a tenant index, vacuums, and
applies what changed meanwhile; at a chunker's first load it also counts the words of every chunk and writes the
BM25 postings, which later generations find there. Both are given: with the words the baseline has nothing like it.

    python -m benchmarks.load_build --short
"""

import argparse
import sys

import numpy as np
import psycopg
from psycopg import sql

from benchmarks import corpora, scratch
from benchmarks.measuring import measure_seconds, spread, spread_ratios
from benchmarks.reporting import Figure, Goal, Report, run_benchmark
from rag_pipeline.database.embedded import memory_megabytes
from rag_pipeline.database.engine import Database, driver_url
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.index import store
from rag_pipeline.index.applying import load_generation
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation
from rag_pipeline.index.recipe import plan_build
from rag_pipeline.index.store import Generation
from rag_pipeline.settings import Settings

Seconds = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passages", type=int, help="rows of the corpus (100,000; short: 8,000)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", help="a model source; default: a distilled static model of 384 dimensions")


def forget_words(database: Database, chunker_id: int) -> None:
    """Empty the lexical index, as before a chunker's first load."""
    with database.transaction() as connection:
        connection.execute("truncate rag.lexical_chunk, rag.lexical_term, rag.lexical_index")
        connection.execute(sql.SQL("drop table if exists rag.{}").format(sql.Identifier(f"posting_{chunker_id}")))


def time_ours(database: Database, settings: Settings, record: ModelRecord) -> Seconds:
    """A new generation, loaded and built; dropped afterwards."""
    generation = ensure_generation(database, settings, record)
    with database.connection() as connection:
        connection.execute("checkpoint")
    load = measure_seconds(lambda: load_generation(database, generation))
    with database.connection() as connection:
        loaded = store.read_generation(connection, generation.id) or generation
    build = measure_seconds(lambda: build_generation(database, settings, loaded))
    with database.transaction() as connection:
        store.set_state(connection, generation.id, "retired")
        store.drop_generation_tables(connection, generation)
    return {"load": load, "build": build, "both": load + build}


def time_bare(
    database: Database, generation: Generation, ids: list[int], vectors: np.ndarray, memory_mb: int
) -> Seconds:
    """COPY and CREATE INDEX as a script would do them."""
    from pgvector import HalfVector
    from pgvector.psycopg import register_vector

    recipe = generation.index_recipe
    halves = [HalfVector(vector) for vector in vectors]

    def load() -> None:
        statement = "copy public.bare (chunk_id, embedding) from stdin (format binary)"
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["int8", "halfvec"])
            for row in zip(ids, halves, strict=True):
                copy.write_row(row)

    with psycopg.connect(driver_url(database.url), autocommit=True) as connection:
        register_vector(connection)
        connection.execute("drop table if exists public.bare")
        connection.execute(
            sql.SQL("create table public.bare (chunk_id bigint, embedding halfvec({}))").format(
                sql.Literal(generation.dimension)
            )
        )
        connection.execute("checkpoint")
        loaded = measure_seconds(load)
        connection.execute("select set_config('maintenance_work_mem', %s, false)", (f"{memory_mb}MB",))
        built = measure_seconds(
            lambda: connection.execute(
                sql.SQL(
                    "create index on public.bare using hnsw (embedding halfvec_cosine_ops)"
                    " with (m = {}, ef_construction = {})"
                ).format(sql.Literal(recipe.m), sql.Literal(recipe.ef_construction))
            )
        )
        connection.execute("drop table public.bare")
    return {"load": loaded, "build": built, "both": loaded + built}


def read_vectors(database: Database, space_id: int) -> tuple[list[int], np.ndarray]:
    """Every vector of the ledger: (chunk ids, (n, dimension) float32)."""
    with database.connection() as connection:
        rows = connection.execute(
            "select chunk_id, vector from rag.embedding where space_id = %s order by chunk_id", (space_id,)
        ).fetchall()
    return [row[0] for row in rows], np.stack([row[1].to_numpy() for row in rows])


def measure(options: argparse.Namespace) -> Report:
    rows, _, origin = corpora.read_passages(options.passages or (8_000 if options.short else 100_000), options.seed)
    model = options.model or corpora.find_static_model()
    ours: list[Seconds] = []
    bare: list[Seconds] = []
    worded: list[Seconds] = []
    with scratch.open_scratch(model=model, model_slug="bench") as (settings, database):
        scratch.ingest_file(database, settings, corpora.write_rows(settings.home / "corpus.jsonl", rows))
        record = scratch.add_settings_model(database, settings)
        generation = ensure_generation(database, settings, record)
        fill_generation(database, settings, generation)
        ids, vectors = read_vectors(database, record.space)
        plan = plan_build(generation.index_recipe, len(ids), generation.dimension, memory_megabytes() // 3)
        time_ours(database, settings, record)  # the words are there from here on, and the caches warm
        for turn in range(options.repeats):
            for which in ("ours", "bare") if turn % 2 == 0 else ("bare", "ours"):
                if which == "ours":
                    ours.append(time_ours(database, settings, record))
                else:
                    bare.append(time_bare(database, generation, ids, vectors, plan.memory_mb))
            forget_words(database, generation.chunker_id)
            worded.append(time_ours(database, settings, record))
        facts = scratch.read_server_version(database)

    def compare(what: str, step: str, runs: list[Seconds], goal: Goal | None = None) -> Figure:
        left, right = [run[step] for run in runs], [run[step] for run in bare]
        return Figure(what, spread(left), "s", spread(right), spread_ratios(left, right), goal)

    return Report(
        "load_build",
        [
            compare("load and build, words there", "both", ours, Goal(1.15)),
            compare("load and build, with the words", "both", worded),
            compare("load, words there", "load", ours),
            compare("load, with the words", "load", worded),
            compare("build", "build", ours),
        ],
        notes=["the baseline has no words, no versions and no keys: see the head of the script"],
        facts={**facts, "corpus": origin, "rows": len(ids), "dimension": generation.dimension,
               "repeats": options.repeats, "maintenance_work_mem": f"{plan.memory_mb} MB"},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_benchmark("load_build", __doc__, add_arguments, measure))
