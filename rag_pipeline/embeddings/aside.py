"""Embedding that gives way: whole corpora are embedded in what the machine has left over from answering searches."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from rag_pipeline.embeddings.models import EmbeddingModel, ModelSpec, is_endpoint

# What the command `nice` gives: a tenth of a core's time against someone who wants all of it, all of it against nobody.
NICENESS = 10


def lower_priority() -> None:
    """Lower the priority of the calling thread and of those it starts; Linux alone has it by thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


class AsideModel:
    """A model whose embedding runs in a thread of low priority; torch's threads inherit it. All else is the model's."""

    def __init__(self, model: EmbeddingModel, thread: ThreadPoolExecutor) -> None:
        self._model, self._thread = model, thread

    @property
    def dimension(self) -> int:
        return self._model.dimension

    @property
    def max_tokens(self) -> int | None:
        return self._model.max_tokens

    def embed_documents(self, texts: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> np.ndarray:
        return self._thread.submit(self._model.embed_documents, texts, on_progress=on_progress).result()

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._thread.submit(self._model.embed_queries, texts).result()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._model.count_tokens(texts)


@contextmanager
def rest_after(resting: bool) -> Iterator[None]:
    """Idle as long as the block worked, where others search meanwhile: the server's time is theirs half of the time."""
    began = time.monotonic()
    yield
    if resting:
        time.sleep(time.monotonic() - began)


@contextmanager
def give_way(model: EmbeddingModel, spec: ModelSpec) -> Iterator[EmbeddingModel]:
    """The same model, embedding at low priority until the block ends; the caller's own priority stays as it is.

    Of an interrupted caller the call under way ends by itself. An endpoint computes elsewhere and is left as it is: a
    call that went on after its run was cancelled would be paid for.
    """
    if is_endpoint(spec):
        yield model
        return
    thread = ThreadPoolExecutor(1, thread_name_prefix="embedding", initializer=lower_priority)
    try:
        yield AsideModel(model, thread)
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
