"""A look at a model sees what it computes now, whatever this process has in memory, and costs as little as it can."""

import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rag_pipeline.embeddings import drift
from rag_pipeline.embeddings.drift import look_at_model
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model, find_model
from rag_pipeline.embeddings.weights import hash_weights
from rag_pipeline_tests.embeddings.scripted_endpoint import Answer, serve
from rag_pipeline_tests.tiny_model import save_tiny_model


@pytest.fixture
def directory(tmp_path):
    return save_tiny_model(tmp_path / "model")


@pytest.fixture
def record(database, directory):
    return add_model(database, ModelSpec("mine", f"model2vec:{directory}"))


def flip_weight(directory, row=7, bit=0):
    """Turn one bit of one weight (0 is the lowest of the mantissa); the file keeps its size."""
    file = directory / "model.safetensors"
    weights = load_file(file)
    name = max(weights, key=lambda name: weights[name].size)
    weights[name].view(np.uint32)[row, 3] ^= 1 << bit
    save_file(weights, file)


def test_a_model_that_is_as_it_was_is_well_and_is_not_read_again(record, monkeypatch):
    look = look_at_model(record)
    assert (look.drift, look.away, look.loaded) == (None, None, True)
    monkeypatch.setattr(drift, "load_model", lambda _: pytest.fail("the model was loaded again"))
    again = look_at_model(record, look.token)
    assert (again.drift, again.token, again.loaded) == (None, look.token, False)


def test_a_model_that_would_have_to_be_loaded_waits_its_turn(record):
    assert look_at_model(record, "", may_load=False) is None


@pytest.mark.parametrize("bit", [0, 12, 22, 30], ids=lambda bit: f"bit {bit}")
def test_any_flipped_bit_of_one_weight_is_seen_before_the_model_is_loaded(record, directory, monkeypatch, bit):
    token = look_at_model(record).token
    flip_weight(directory, bit=bit)
    monkeypatch.setattr(drift, "load_model", lambda _: pytest.fail("the model was loaded"))
    found = look_at_model(record, token)
    assert "its weights have SHA-256" in found.drift
    assert "register the new ones under another slug" in found.drift
    assert found.token != token


def test_without_a_recorded_hash_the_canaries_still_see_a_weight_they_use(database, record, directory):
    with database.connection() as connection:  # as probed by an earlier release
        connection.execute("update rag.embedding_model set probe = probe - 'weights_sha256'")
    old = find_model(database, "mine")
    assert look_at_model(old).drift is None
    shutil.rmtree(directory)
    save_tiny_model(directory, seed=2)
    assert "canaries differ" in look_at_model(old).drift


def test_a_changed_tokenizer_is_seen_by_the_canaries(record, directory):
    file = directory / "tokenizer.json"
    file.write_text(file.read_text().replace('"Lowercase"', '"Strip","strip_left":true,"strip_right":true'))
    assert "canaries differ" in look_at_model(record).drift


def test_a_touched_file_is_looked_at_again_and_is_no_drift(record, directory):
    token = look_at_model(record).token
    os.utime(directory / "model.safetensors")
    again = look_at_model(record, token)
    assert (again.drift, again.loaded) == (None, True)
    assert again.token != token


def test_a_pinned_model_with_any_flipped_bit_and_a_folder_that_is_gone_are_drift(database, directory):
    spec = ModelSpec("pinned", f"model2vec:{directory}", weights_sha256=hash_weights(directory))
    record = add_model(database, spec)
    flip_weight(directory)
    assert "not the pinned" in look_at_model(record).drift
    shutil.rmtree(directory)
    assert "no directory" in look_at_model(record).drift


def test_files_that_cannot_be_loaded_now_are_not_called_drift(database, record, directory):
    (directory / "tokenizer.json").write_text("{")
    look = look_at_model(record)
    assert look.drift is None
    assert "cannot be loaded" in look.away


def make_answer(seed):
    """An endpoint whose vectors follow from the text and a seed."""

    def answer(_number, asked):
        rows = []
        for position, text in enumerate(asked["input"]):
            numbers = np.random.default_rng([seed, *text.encode()[:40]]).normal(size=8).tolist()
            rows.append({"index": position, "embedding": numbers})
        return Answer({"data": rows})

    return answer


def test_an_endpoint_is_asked_once_per_look_and_another_model_behind_it_is_drift(database):
    behind = {"seed": 1}
    with serve(lambda number, asked: make_answer(behind["seed"])(number, asked)) as endpoint:
        spec = ModelSpec("far", "openai:x", "query: ", "passage: ", base_url=endpoint.base_url)
        record = add_model(database, spec)
        before = len(endpoint.requests)
        assert look_at_model(record).drift is None
        assert len(endpoint.requests) == before + 1
        texts = endpoint.requests[-1]["input"]
        assert len(texts) == 9
        assert texts[0] == "passage: hello"
        assert texts[-1].startswith("query: ")
        behind["seed"] = 2
        assert "canaries differ" in look_at_model(record).drift
        behind["seed"] = 1
        assert look_at_model(record).drift is None
    gone = look_at_model(record)
    assert gone.drift is None
    assert "cannot be reached" in gone.away
