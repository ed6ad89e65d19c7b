"""A budget is never passed, pauses cleanly, and the next call goes on from the ledger."""

import random

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.filling import (
    Budget,
    BudgetError,
    BudgetReachedError,
    EmbeddingReport,
    embed_missing,
    make_budget,
)
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.embeddings.store import missing_chunks
from rag_pipeline.index.building import cut_for, ensure_generation
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.tiny_model import make_text


def test_a_budget_is_kept_and_the_next_call_goes_on(
    database: Database, settings: Settings, tiny_spec: ModelSpec
) -> None:
    put_texts(database, {f"d{n}": make_text(random.Random(n), 120) for n in range(30)})
    model = add_model(database, tiny_spec)
    chunker = ensure_generation(database, settings, model).chunker_id
    cut_for(database, settings, chunker, only_pending=False)

    def missing() -> dict[int, int]:
        with database.connection() as connection:
            found = missing_chunks(connection, model.space, chunker, only_pending=False)
        return {chunk.id: chunk.token_count for chunk in found}

    before = missing()
    total, limit = sum(before.values()), sum(before.values()) // 3
    report = EmbeddingReport()
    with pytest.raises(BudgetReachedError, match="The budget is spent after"):
        embed_missing(database, model, chunker, only_pending=False, budget=Budget(limit), report=report)
    left = missing()
    assert total - sum(left.values()) == report.tokens
    assert limit - max(before.values()) < report.tokens <= limit
    with pytest.raises(BudgetReachedError):
        embed_missing(database, model, chunker, only_pending=False, budget=Budget(0))
    assert missing() == left
    rest = embed_missing(database, model, chunker, only_pending=False, budget=Budget(sum(left.values())))
    assert (rest.tokens, missing()) == (sum(left.values()), {})


def test_the_tighter_limit_counts_and_money_needs_a_price() -> None:
    assert make_budget(None, None, 2.0) is None
    assert make_budget(100, None, None) == Budget(100)
    assert make_budget(None, 0.5, 2.0) == Budget(250_000)
    assert make_budget(100, 0.5, 2.0) == Budget(100)
    with pytest.raises(BudgetError, match="--price-per-million"):
        make_budget(100, 0.5, None)
