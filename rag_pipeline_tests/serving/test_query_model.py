"""A model that fails is left alone for a while, and what answers at its address is checked again and again."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import registry
from rag_pipeline.embeddings.models import ModelError, ModelSpec, load_model
from rag_pipeline.embeddings.registry import DriftError, add_model
from rag_pipeline.serving.query_model import QueryModel
from rag_pipeline_tests.serving.remote_model import RemoteModel, serve_model
from rag_pipeline_tests.tiny_model import save_tiny_model


@pytest.fixture
def remote(tiny_model: Path) -> Iterator[RemoteModel]:
    with serve_model(tiny_model) as remote:
        yield remote


def test_after_a_failure_nobody_asks_again_for_a_while_and_then_it_works_again(
    database: Database, remote: RemoteModel
) -> None:
    model = QueryModel(add_model(database, remote.spec))
    good = model.embed(["red valve"])
    remote.broken, before = True, remote.asked
    for _ in range(5):
        with pytest.raises(ModelError, match="out of order"):
            model.embed(["red valve"])
    assert remote.asked == before + 1, "four of five were told without asking"
    remote.broken = False
    with pytest.raises(ModelError, match="out of order"):
        model.embed(["red valve"])
    model._try_again_at = 0.0  # as some seconds later
    assert np.allclose(model.embed(["red valve"]), good)


def ask_from_threads(model: QueryModel, count: int) -> list[ModelError]:
    failures: list[ModelError] = []

    def ask() -> None:
        try:
            model.embed(["red"])
        except ModelError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@pytest.mark.parametrize("known", [True, False], ids=["known to fail", "never asked before"])
def test_of_many_threads_one_pays_for_an_endpoint_that_fails(
    database: Database, remote: RemoteModel, known: bool
) -> None:
    record = add_model(database, remote.spec)
    registry.forget_model(record.spec)  # a process that starts now
    remote.broken, remote.delay, model = True, 0.3, QueryModel(record)
    if known:
        with pytest.raises(ModelError):
            model.embed(["red"])
        model._try_again_at = 0.0  # as some seconds later
    before = remote.asked
    assert len(ask_from_threads(model, 8)) == 8
    assert remote.asked == before + 1


def test_another_model_behind_the_same_address_is_found_at_the_next_check_and_its_return_too(
    database: Database, remote: RemoteModel, tiny_model: Path, other_tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = QueryModel(add_model(database, remote.spec))
    good = model.embed(["red valve"])
    remote.model = load_model(ModelSpec("swapped", f"model2vec:{other_tiny_model}"))
    monkeypatch.setattr(registry, "RECHECK_SECONDS", 0.0)
    model._good_until = float("-inf")  # as some minutes later
    for _ in range(2):
        with pytest.raises(DriftError, match="not the one that was registered"):
            model.embed(["red valve"])
    remote.model = load_model(ModelSpec("back", f"model2vec:{tiny_model}"))
    model._try_again_at = 0.0
    assert np.allclose(model.embed(["red valve"]), good)


def test_a_check_that_is_due_is_made_beside_the_searches_and_not_by_them(
    database: Database, remote: RemoteModel, other_tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "RECHECK_SECONDS", 0.0)
    model = QueryModel(add_model(database, remote.spec))
    model.embed(["red"])
    before = remote.asked
    model.embed(["red"])
    assert remote.asked == before + 1
    model.check()
    assert remote.asked > before + 2, "the canaries"
    remote.model = load_model(ModelSpec("new", f"model2vec:{other_tiny_model}"))
    with pytest.raises(DriftError):
        model.check()
    with pytest.raises(DriftError):
        model.embed(["red"])


def test_an_endpoint_that_was_away_is_checked_before_it_is_believed(
    database: Database, remote: RemoteModel, other_tiny_model: Path
) -> None:
    model = QueryModel(add_model(database, remote.spec))
    model.check()
    remote.broken = True
    with pytest.raises(ModelError):
        model.embed(["red"])
    remote.broken, remote.model = False, load_model(ModelSpec("new", f"model2vec:{other_tiny_model}"))
    model._try_again_at = 0.0
    with pytest.raises(DriftError):
        model.embed(["red"])


def test_a_model_in_memory_serves_on_when_its_files_change_or_go(database: Database, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model", seed=9)
    record = add_model(database, ModelSpec("mine", f"model2vec:{path}"))
    model = QueryModel(record)
    good = model.embed(["red valve"])
    shutil.rmtree(path)
    save_tiny_model(path, seed=10)
    assert np.array_equal(model.embed(["red valve"]), good)
    registry.forget_model(record.spec)  # a process that starts now
    with pytest.raises(DriftError):
        QueryModel(record).embed(["red valve"])
    shutil.rmtree(path)
    with pytest.raises(ModelError, match="no directory"):
        QueryModel(record).embed(["red valve"])
    assert np.array_equal(model.embed(["red valve"]), good)


def test_weights_that_are_cut_short_are_an_error_of_the_model(database: Database, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model", seed=11)
    record = add_model(database, ModelSpec("mine", f"model2vec:{path}"))
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    registry.forget_model(record.spec)
    with pytest.raises(ModelError, match="its weights have SHA-256"):
        QueryModel(record).embed(["red valve"])
    with pytest.raises(ModelError, match="cannot be loaded"):
        registry.open_model(record.spec)
