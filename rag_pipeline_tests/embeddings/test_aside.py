"""Embedding aside: the model's own vectors, from a thread that gives way, and no caller slowed down for it."""

import os
import sys
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from rag_pipeline.embeddings.aside import NICENESS, give_way
from rag_pipeline.embeddings.models import EmbeddingModel, ModelSpec, PartialEmbeddingError, RowFailure, load_model


class Watching:
    """A model that notes at which niceness it, and a thread it starts, are asked to embed."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model, self.seen = model, [0]

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def note(self) -> None:
        self.seen.append(os.getpriority(os.PRIO_PROCESS, 0))

    def embed_documents(self, texts: Sequence[str], **named: object) -> np.ndarray:
        self.note()
        helper = threading.Thread(target=self.note)
        helper.start()
        helper.join()
        return self.model.embed_documents(texts, **named)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_the_embedding_threads_give_way_and_the_callers_do_not(tiny_spec: ModelSpec) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    watching = Watching(load_model(tiny_spec))
    with give_way(watching, tiny_spec) as model:  # type: ignore[arg-type]
        vectors = model.embed_documents(["old valve", "red boat"])
        assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert watching.seen == [0, max(before, NICENESS), max(before, NICENESS)]
    assert np.array_equal(vectors, watching.model.embed_documents(["old valve", "red boat"]))


def test_it_is_the_model_in_everything_else(tiny_spec: ModelSpec) -> None:
    plain, progress = load_model(tiny_spec), []
    with give_way(plain, tiny_spec) as model:
        assert (model.dimension, model.max_tokens) == (plain.dimension, plain.max_tokens)
        assert model.count_tokens(["old valve"]) == plain.count_tokens(["old valve"])
        assert np.array_equal(model.embed_queries(["old"]), plain.embed_queries(["old"]))
        model.embed_documents(["old valve", "red boat"], on_progress=progress.append)
    assert sum(progress) == 2


def test_an_error_of_the_model_reaches_the_caller(tiny_spec: ModelSpec) -> None:
    class Refusing(Watching):
        def embed_documents(self, texts: Sequence[str], **_named: object) -> np.ndarray:
            raise PartialEmbeddingError(np.zeros((len(texts), 2)), [RowFailure(0, "too long")])

    with (
        pytest.raises(PartialEmbeddingError, match="too long"),
        give_way(Refusing(load_model(tiny_spec)), tiny_spec) as model,  # type: ignore[arg-type]
    ):
        model.embed_documents(["old valve"])


def test_an_endpoint_is_left_as_it_is(tiny_spec: ModelSpec) -> None:
    """A thread of ours would go on sending after its run was cancelled, and be paid for."""
    model = load_model(tiny_spec)
    with give_way(model, ModelSpec("far", "openai:x", base_url="http://localhost:1")) as same:
        assert same is model
