"""The model of a generation as searches use it: checked, and left alone for a while after it failed."""

import threading
import time

import numpy as np

from rag_pipeline.embeddings.models import (
    EmbeddingModel,
    ModelError,
    ModelUnavailable,
    PartialEmbeddingError,
    is_endpoint,
)
from rag_pipeline.embeddings.registry import DriftError, forget_model, open_checked_model, recheck_after
from rag_pipeline.embeddings.store import ModelRecord

# A model that failed is not tried again for so long: nobody waits for the time-out of a dead endpoint twice.
RETRY_SECONDS = 15.0


class QueryModel:
    """Embeds queries by one registered model. Safe to share between threads.

    The model is loaded at the first use and held: its files may change or go, it serves on. What is behind an
    address is checked against its canaries again and again. After a failure one caller tries again every
    `RETRY_SECONDS`; all others get the same error at once.
    """

    def __init__(self, record: ModelRecord) -> None:
        self.record = record
        self._model: EmbeddingModel | None = None
        self._good_until = float("-inf")
        self._failure: ModelError | None = None
        self._try_again_at = float("-inf")
        self._lock = threading.Lock()

    def embed(self, queries: list[str]) -> np.ndarray:
        """(n, dimension) float32. Raises `ModelError`: `PartialEmbeddingError` where a query was at fault."""
        self._refuse_while_failing()
        try:
            vectors = self._checked().embed_queries(queries)
        except PartialEmbeddingError:
            raise
        except ModelError as error:
            self._remember(error)
            raise
        self._failure = None
        return vectors

    def check(self) -> None:
        """Load the model if need be, and check it if a check is due. Raises `ModelError` where it cannot be used."""
        if self._failure is not None:
            self.embed(["check"])
            return
        try:
            self._checked()
        except ModelError as error:
            self._remember(error)
            raise

    def _checked(self) -> EmbeddingModel:
        model = self._model
        if model is None or time.monotonic() > self._good_until:
            model = open_checked_model(self.record, patient=False)
            self._model, self._good_until = model, time.monotonic() + recheck_after(self.record.spec)
        return model

    def _refuse_while_failing(self) -> None:
        with self._lock:
            if self._failure is None:
                return
            if time.monotonic() >= self._try_again_at:
                self._try_again_at = time.monotonic() + RETRY_SECONDS  # this caller tries
                return
            # a new error for every thread: one that is raised collects the traceback
            kind = DriftError if isinstance(self._failure, DriftError) else ModelUnavailable
            raise kind(str(self._failure))

    def _remember(self, error: ModelError) -> None:
        with self._lock:
            self._failure, self._try_again_at = error, time.monotonic() + RETRY_SECONDS
            if is_endpoint(self.record.spec):  # who answers at that address next may be someone else
                self._good_until = float("-inf")
                forget_model(self.record.spec)
