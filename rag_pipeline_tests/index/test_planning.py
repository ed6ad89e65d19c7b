"""A plan says what a swap takes in tokens, money, time, memory and disk; it spends nothing."""

import random
from pathlib import Path

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.embeddings.store import count_embeddings
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation
from rag_pipeline.index.planning import estimate_build, plan_swap
from rag_pipeline.index.recipe import IndexRecipe, choose_workers, plan_build
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.tiny_model import make_text
from rag_pipeline_tests.whole_run import bring_up


def test_tokens_money_time_and_disk_agree_with_what_the_swap_then_takes(
    database: Database, settings: Settings, other_tiny_model: Path
) -> None:
    put_texts(database, {f"d{n}": make_text(random.Random(n), 400) for n in range(100)})
    serving = bring_up(database, settings)
    model = add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    with database.connection() as connection:
        before = count_embeddings(connection)
        size = connection.execute("select pg_database_size(current_database())").fetchone()
    plan = plan_swap(database, settings, model, price_per_million=2.0, tokens_per_minute=600)
    assert plan.cost == plan.tokens * 2 / 1e6
    assert plan.limit_seconds == plan.tokens / 10
    assert plan_swap(database, settings, model).cost is None
    with database.connection() as connection:
        assert count_embeddings(connection) == before, "a plan spends nothing"
    generation = ensure_generation(database, settings, model)
    report = fill_generation(database, settings, generation)
    assert (report.embedded, report.tokens) == (plan.to_embed, plan.tokens)
    assert generation.chunker_id == serving.chunker_id
    build_generation(database, settings, generation)
    with database.connection() as connection:
        after = connection.execute("select pg_database_size(current_database())").fetchone()
    assert size is not None
    assert after is not None
    assert 0.5 < plan.disk_bytes / (after[0] - size[0]) < 2


def test_the_same_space_under_a_second_name_costs_nothing(
    database: Database, settings: Settings, tiny_model: Path
) -> None:
    put_texts(database, {f"d{n}": make_text(random.Random(n), 60) for n in range(10)})
    bring_up(database, settings)
    copy = add_model(database, ModelSpec("same", f"model2vec:{tiny_model}"))
    plan = plan_swap(database, settings, copy, price_per_million=5.0)
    assert (plan.to_embed, plan.tokens, plan.cost) == (0, 0, 0.0)
    assert plan.in_ledger == plan.chunks > 0
    assert fill_generation(database, settings, ensure_generation(database, settings, copy)).tokens == 0


def test_a_build_is_estimated_from_an_earlier_one_and_not_from_a_tiny_one(
    database: Database, settings: Settings
) -> None:
    put_texts(database, {"a": "red valve"})
    generation = bring_up(database, settings)
    plan = plan_build(IndexRecipe(), 10_000, 128, 1000)
    assert estimate_build(plan, [generation]) is None
    known = generation.metrics | {"rows_at_build": 5_000, "build_seconds": 10.0}
    large = type(generation)(**{**vars(generation), "metrics": known, "dimension": 64})
    assert estimate_build(plan, [large]) == 40.0


@pytest.mark.parametrize(
    ("cores", "serving", "workers"),
    [(2, True, 0), (1, True, 0), (8, True, 6), (8, False, None)],
    ids=["the leader alone", "no fewer than none", "one core is left", "nobody waits"],
)
def test_a_build_leaves_a_core_to_those_who_search(cores: int, serving: bool, workers: int | None) -> None:
    assert choose_workers(cores, serving=serving) == workers
