import socket
import time

import numpy as np
import pytest

from rag_pipeline.embeddings import openai_compatible
from rag_pipeline.embeddings.backpressure import RetryPolicy
from rag_pipeline.embeddings.fingerprint import compute_fingerprint, same_space
from rag_pipeline.embeddings.models import (
    ModelRefused,
    ModelSpec,
    ModelUnavailable,
    PartialEmbeddingError,
    load_model,
)
from rag_pipeline.embeddings.openai_compatible import BatchLimits, EndpointModel, take_batch
from rag_pipeline_tests.embeddings.scripted_endpoint import Answer, serve

EIGHT = BatchLimits(texts=8)
QUICK = RetryPolicy(total=3.0, first=0.02, longest=0.1)
TEXTS = [f"text number {number}" for number in range(20)]


def _vector_of(text: str) -> list[float]:
    return [float(len(text)), float(sum(text.encode()) % 97) + 1, 1.0]


def _give_vectors(asked, shape=lambda _position, vector: vector) -> Answer:
    rows = [
        {"index": position, "embedding": shape(position, _vector_of(text))}
        for position, text in enumerate(asked["input"])
    ]
    # Backwards, since only `index` says which is which.
    return Answer({"data": rows[::-1], "model": asked["model"]})


def _open(endpoint, *, normalise=False, limits=EIGHT, policy=QUICK, timeout=5.0, **spec):
    return EndpointModel(
        ModelSpec("m", "openai:m", base_url=endpoint.base_url, normalise=normalise, **spec),
        model="m",
        base_url=endpoint.base_url,
        api_key="key",
        limits=limits,
        timeout=timeout,
        document_retry=policy,
        query_retry=policy,
    )


def _expected(texts) -> np.ndarray:
    return np.array([_vector_of(text) for text in texts], dtype=np.float32)


def test_a_real_model_behind_an_endpoint_is_the_same_space_under_another_name(static_model, static_spec):
    def answer(_number, asked):
        vectors = static_model.embed_documents(asked["input"])
        rows = [{"index": row, "embedding": vector.tolist()} for row, vector in enumerate(vectors)]
        return Answer({"data": rows})

    with serve(answer) as endpoint:
        spec = ModelSpec("remote", "openai:anything", base_url=endpoint.base_url)
        remote = load_model(spec)
        assert remote.dimension == 256
        assert np.allclose(remote.embed_queries(TEXTS), static_model.embed_queries(TEXTS), atol=1e-6)
        local = compute_fingerprint(static_model, static_spec)
        assert same_space(compute_fingerprint(remote, spec), local)


def test_rows_are_ordered_by_index_over_several_batches_and_progress_counts_them():
    seen: list[int] = []
    with serve(lambda _number, asked: _give_vectors(asked)) as endpoint:
        model = _open(endpoint, document_prompt="passage: ")
        vectors = model.embed_documents(TEXTS, on_progress=seen.append)
    assert np.array_equal(vectors, _expected([f"passage: {text}" for text in TEXTS]))
    assert sum(seen) == len(TEXTS)
    assert max(len(asked["input"]) for asked in endpoint.requests) == 8
    assert endpoint.requests[0]["path"] == "/v1/embeddings"
    assert endpoint.keys[0] == "Bearer key"


@pytest.mark.parametrize(
    "busy",
    [
        Answer({"error": {"message": "slow down"}}, 429),
        Answer({}, 503),
        Answer({}, 500),
        Answer({"data": []}, cut=3),
        Answer({}, delay=0.6),
    ],
    ids=["429", "503", "500", "broken connection", "timeout"],
)
def test_a_busy_endpoint_is_waited_for_and_no_text_fails(busy):
    with serve(lambda number, asked: busy if number in (0, 1) else _give_vectors(asked)) as endpoint:
        vectors = _open(endpoint, timeout=0.3).embed_documents(TEXTS)
    assert np.array_equal(vectors, _expected(TEXTS))


def test_the_wait_a_server_asks_for_is_kept():
    asked_at: list[float] = []

    def answer(number, asked):
        asked_at.append(time.monotonic())
        return Answer({}, 429, {"Retry-After": "0.5"}) if number == 0 else _give_vectors(asked)

    with serve(answer) as endpoint:
        _open(endpoint).embed_queries(["x"])
    assert 0.5 <= asked_at[1] - asked_at[0] < 1.5


def test_waiting_ends_and_is_no_failure_of_a_text():
    policy = RetryPolicy(total=0.4, first=0.05, longest=0.1)
    with serve(lambda _number, _asked: Answer({}, 429)) as endpoint:
        began = time.monotonic()
        with pytest.raises(ModelUnavailable, match="429"):
            _open(endpoint, policy=policy).embed_documents(TEXTS)
        assert time.monotonic() - began < 2


def test_an_empty_account_is_not_waited_for():
    body = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
    with serve(lambda _number, _asked: Answer(body, 429)) as endpoint:
        with pytest.raises(ModelRefused, match="quota"):
            _open(endpoint).embed_documents(TEXTS)
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [400, 422, 500])
def test_one_poisonous_text_is_isolated_and_all_others_are_kept(status):
    def answer(_number, asked):
        poisoned = any("poison" in text for text in asked["input"])
        return Answer({"error": {"message": "bad input"}}, status) if poisoned else _give_vectors(asked)

    texts = [*TEXTS[:11], "poison", *TEXTS[11:]]
    with serve(answer) as endpoint, pytest.raises(PartialEmbeddingError) as raised:
        _open(endpoint).embed_documents(texts)
    assert [failure.row for failure in raised.value.failures] == [11]
    assert "bad input" in raised.value.failures[0].reason
    good = [row for row in range(len(texts)) if row != 11]
    assert np.array_equal(raised.value.vectors[good], _expected(texts)[good])
    assert np.isnan(raised.value.vectors[11]).all()


def test_a_server_with_smaller_batches_is_learned_once():
    def answer(_number, asked):
        too_many = len(asked["input"]) > 4
        return Answer({"detail": "batch too large"}, 413) if too_many else _give_vectors(asked)

    with serve(answer) as endpoint:
        vectors = _open(endpoint, limits=BatchLimits(texts=16)).embed_documents(TEXTS)
    assert np.array_equal(vectors, _expected(TEXTS))
    sizes = [len(asked["input"]) for asked in endpoint.requests]
    assert sizes == [16, 8, 4, 4, 8, 4, 4, 4]


def test_rows_of_another_dimension_or_without_numbers_fail_alone():
    def shape(position, vector):
        return {2: vector[:2], 5: [None, 1.0, 2.0], 6: [1e300, 0.0, 0.0]}.get(position, vector)

    def answer(number, asked):
        return _give_vectors(asked, shape if number == 0 else lambda _position, vector: vector)

    with serve(answer) as endpoint, pytest.raises(PartialEmbeddingError) as raised:
        _open(endpoint).embed_documents(TEXTS[:8])
    assert [failure.row for failure in raised.value.failures] == [2, 5, 6]
    assert "2 dimensions, not 3" in raised.value.failures[0].reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer({"error": {"message": "no such key"}}, 401), "no such key"),
        (Answer({"error": "model not found"}, 404), "model not found"),
        (Answer({"error": {"message": "unknown model"}}, 400), "takes no text"),
        (Answer({"data": [{"index": 0, "embedding": [1.0]}]}), "20 texts"),
        (Answer({"vectors": []}), "as OpenAI's does"),
        (Answer(b"<html>"), "as OpenAI's does"),
    ],
)
def test_a_fault_of_the_whole_endpoint_is_a_clear_refusal(answer, reason):
    with serve(lambda _number, _asked: answer) as endpoint, pytest.raises(ModelRefused, match=reason):
        _open(endpoint, limits=BatchLimits(texts=64)).embed_documents(TEXTS)


def test_a_query_to_a_server_that_is_not_there_fails_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        load_model(ModelSpec("m", "openai:m", base_url=address)).embed_queries(["x"])
    assert time.monotonic() - began < 2


def test_no_texts_ask_only_for_the_dimension():
    with serve(lambda _number, asked: _give_vectors(asked)) as endpoint:
        assert _open(endpoint).embed_documents([]).shape == (0, 3)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("texts", "tokens", "taken"), [(3, 10**6, 3), (9, 40, 4), (9, 1, 1)])
def test_a_batch_keeps_to_texts_and_tokens_and_is_never_empty(texts, tokens, taken):
    assert take_batch(range(9), ["a text of some words"] * 9, texts, tokens) == list(range(taken))


def test_a_person_waits_less_than_a_document(monkeypatch):
    monkeypatch.setattr(openai_compatible, "QUERY_TIMEOUT", 0.0)  # and a second for the one text
    once = RetryPolicy(total=0.1, first=0.2)

    def answer(_number, asked):
        return Answer({"data": [{"index": 0, "embedding": [1.0, 2.0]}]}, delay=1.6)

    with serve(answer) as endpoint:
        model = _open(endpoint, policy=once)
        model._document_retry = RetryPolicy(total=0.1, first=0.2)
        assert model.embed_documents(["x"]).shape == (1, 2)
        for impatient in (model.embed_queries, model.hurried().embed_documents):
            with pytest.raises(ModelUnavailable, match="no answer"):
                impatient(["x"])
