import dataclasses
import shutil

import numpy as np
import pytest

from rag_pipeline.embeddings.fingerprint import (
    CANARIES,
    QUERY_CANARY,
    TOLERANCE,
    compute_fingerprint,
    make_fingerprint,
    pack_fingerprint,
    probe_model,
    same_space,
    unpack_fingerprint,
)
from rag_pipeline.embeddings.models import ModelSpec, PartialEmbeddingError, RowFailure, load_model, normalise_rows
from rag_pipeline.embeddings.packaged import find_packaged_model
from rag_pipeline_tests.embeddings.conftest import MINILM


@pytest.fixture(scope="module")
def fingerprint(minilm):
    return compute_fingerprint(minilm, MINILM)


def test_the_same_weights_under_another_name_are_the_same_space(fingerprint, tmp_path):
    directory, _ = find_packaged_model("all-MiniLM-L6-v2")
    spec = ModelSpec("renamed", str(shutil.copytree(directory, tmp_path / "model")))
    other = compute_fingerprint(load_model(spec), spec)
    assert same_space(fingerprint, other)
    assert fingerprint.digest == other.digest


def test_noise_of_batching_and_of_the_library_passes(fingerprint, minilm):
    from sentence_transformers import SentenceTransformer

    alone = [minilm.embed_documents([text]) for text in CANARIES]
    vectors = np.vstack([*alone, minilm.embed_queries([QUERY_CANARY])])
    assert same_space(fingerprint, make_fingerprint(vectors, MINILM, 256))
    directory, _ = find_packaged_model("all-MiniLM-L6-v2")
    library = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    encoded = library.encode([*CANARIES, QUERY_CANARY], batch_size=3)
    assert same_space(fingerprint, make_fingerprint(encoded, MINILM, 256))


@pytest.mark.parametrize(
    "tensor",
    [
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.3.attention.output.dense.weight",
        "encoder.layer.5.intermediate.dense.weight",
        "encoder.layer.5.output.LayerNorm.bias",
    ],
)
def test_one_significant_weight_with_its_sign_turned_is_another_space(fingerprint, tmp_path, tensor):
    from safetensors.numpy import load_file, save_file

    directory, _ = find_packaged_model("all-MiniLM-L6-v2")
    copied = tmp_path / "model"
    shutil.copytree(directory, copied)
    weights = load_file(copied / "model.safetensors")
    flat = weights[tensor].reshape(-1)
    flat[np.abs(flat).argmax()] *= -1
    save_file(weights, copied / "model.safetensors")
    spec = ModelSpec(MINILM.slug, str(copied))
    verdict = same_space(fingerprint, compute_fingerprint(load_model(spec), spec))
    assert not verdict
    assert "cosine distance" in verdict.reason


def test_another_model_is_another_space(fingerprint, static_model, static_spec):
    verdict = same_space(fingerprint, compute_fingerprint(static_model, static_spec))
    assert not verdict
    assert verdict.reason == "dimension 384 and 256"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query_prompt": "query: "}, "query_prompt"),
        ({"document_prompt": "passage: "}, "document_prompt"),
        ({"normalise": False}, "normalise"),
        ({"max_tokens": 512}, "max_tokens"),
    ],
)
def test_other_settings_are_another_space_even_with_equal_canaries(fingerprint, change, reason):
    verdict = same_space(fingerprint, dataclasses.replace(fingerprint, **change))
    assert not verdict
    assert reason in verdict.reason


def test_an_unknown_limit_is_judged_by_the_long_canary(fingerprint, minilm, tmp_path):
    endpoint = dataclasses.replace(fingerprint, max_tokens=None)
    assert same_space(fingerprint, endpoint)
    assert minilm.count_tokens(CANARIES[-1:])[0] > 600
    directory, _ = find_packaged_model("all-MiniLM-L6-v2")
    longer = tmp_path / "model"
    shutil.copytree(directory, longer)
    (longer / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    spec = ModelSpec("longer", str(longer))
    reads_on = dataclasses.replace(compute_fingerprint(load_model(spec), spec), max_tokens=None)
    assert not same_space(endpoint, reads_on)


def test_a_noisy_server_widens_the_tolerance_but_not_without_end(fingerprint):
    noise = np.random.default_rng(3).normal(0, 4e-4, fingerprint.canary_vectors.shape)
    vectors = normalise_rows(fingerprint.canary_vectors + noise.astype(np.float32))
    moved = dataclasses.replace(fingerprint, canary_vectors=vectors)
    assert not same_space(fingerprint, moved)
    assert same_space(fingerprint, dataclasses.replace(moved, noise=3e-5))
    far = dataclasses.replace(moved, canary_vectors=np.roll(moved.canary_vectors, 1, axis=0), noise=1.0)
    assert not same_space(fingerprint, far)


def test_vectors_of_another_length_are_another_space(fingerprint):
    longer = dataclasses.replace(fingerprint, canary_vectors=fingerprint.canary_vectors * 1.01)
    assert "lengths" in same_space(fingerprint, longer).reason


def test_the_own_noise_of_a_local_model_is_far_below_the_tolerance(fingerprint):
    assert fingerprint.noise < TOLERANCE / 4


def test_a_fingerprint_survives_the_database(fingerprint):
    back = unpack_fingerprint(pack_fingerprint(fingerprint))
    assert np.array_equal(back.canary_vectors, fingerprint.canary_vectors)
    for field in dataclasses.fields(fingerprint)[1:]:
        assert getattr(back, field.name) == getattr(fingerprint, field.name)


class _RefusesLongTexts:
    """A real model that, like many servers, refuses what is longer than its window."""

    def __init__(self, model):
        self._model = model
        self.dimension, self.max_tokens = model.dimension, None
        self.embed_queries, self.count_tokens = model.embed_queries, model.count_tokens

    def embed_documents(self, texts, *, on_progress=None):
        vectors = self._model.embed_documents(texts, on_progress=on_progress)
        failures = [RowFailure(row, "too long") for row, text in enumerate(texts) if len(text) > 1500]
        for failure in failures:
            vectors[failure.row] = np.nan
        if failures:
            raise PartialEmbeddingError(vectors, failures)
        return vectors


def test_a_server_that_refuses_the_long_canary_is_still_recognised(fingerprint, minilm):
    refusing = compute_fingerprint(_RefusesLongTexts(minilm), MINILM)
    assert np.isnan(refusing.canary_vectors).any(axis=1).tolist() == [False] * 7 + [True, False]
    assert same_space(fingerprint, refusing)


def test_a_probe_reports_what_a_corpus_would_cost(minilm):
    probe = probe_model(minilm)
    assert probe.dimension == 384
    assert probe.finite
    assert probe.norm_min == pytest.approx(1, abs=1e-5)
    assert probe.norm_max == pytest.approx(1, abs=1e-5)
    assert 0 < probe.seconds_per_text < 5


def test_a_probe_of_refused_texts_is_not_finite(minilm):
    assert not probe_model(_RefusesLongTexts(minilm), ["short", "long " * 400]).finite
