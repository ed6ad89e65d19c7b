"""Any endpoint that answers POST {base_url}/embeddings as OpenAI's does.

A busy endpoint is waited for; one text it will not take is found by halving the batch and reported alone.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from rag_pipeline.embeddings.backpressure import (
    EndpointBusy,
    RetryPolicy,
    make_client,
    read_error_message,
    send_patiently,
)
from rag_pipeline.embeddings.models import (
    ModelRefused,
    ModelSpec,
    ModelUnavailable,
    PartialEmbeddingError,
    RowFailure,
    normalise_rows,
)
from rag_pipeline.embeddings.tokens import estimate_tokens

if TYPE_CHECKING:
    import httpx2

# A person waits for a query, nobody for a document.
# An answer to it is waited for this many seconds, and one more for each text of the request.
QUERY_TIMEOUT = 10.0
QUERY_RETRY = RetryPolicy(total=8.0, first=0.25, longest=2.0, retry_refused_connection=False)
DOCUMENT_RETRY = RetryPolicy()
JSON = {"Content-Type": "application/json"}
# Statuses that can be the fault of one text (or of the batch's size): 400, 413, 422, and a 500 that stays.
_TEXT_REFUSED = frozenset({400, 413, 422, 500})
# So many refused texts and none accepted: the fault is not in the texts.
_HOPELESS_REFUSALS = 8


@dataclass(frozen=True)
class BatchLimits:
    """OpenAI takes 2,048 texts and 300,000 tokens a request, other servers far less: 64 suits most.

    A server that takes fewer answers 413 or 422, and the batch is halved for the rest of the call.
    """

    texts: int = 64
    tokens: int = 50_000


@dataclass
class _Call:
    """What one `embed_documents` has so far."""

    texts: list[str]
    policy: RetryPolicy
    on_progress: Callable[[int], None] | None = None
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    failures: list[RowFailure] = field(default_factory=list)

    def finish(self, rows: int) -> None:
        if self.on_progress is not None:
            self.on_progress(rows)


class EndpointModel:
    """A model behind an endpoint. The dimension is learned from a first answer, on first use."""

    max_tokens: int | None = None

    def __init__(
        self,
        spec: ModelSpec,
        *,
        model: str,
        base_url: str,
        api_key: str | None,
        limits: BatchLimits = BatchLimits(),
        timeout: float = 120.0,
        document_retry: RetryPolicy = DOCUMENT_RETRY,
        query_retry: RetryPolicy = QUERY_RETRY,
    ) -> None:
        self._spec = spec
        self._name = model
        self._client: httpx2.Client = make_client(base_url, api_key, read_timeout=timeout)
        self._timeout = timeout
        self._limits = limits
        self._most_texts = limits.texts
        self._document_retry = document_retry
        self._query_retry = query_retry
        self._dimension: int | None = None

    @property
    def dimension(self) -> int:
        """As of the first answer; where there was none yet, a short text is sent, which may raise."""
        if self._dimension is None:
            call = _Call(["dimension"], self._query_retry)
            self._embed_batch(call, [0])
            if call.failures:
                raise ModelRefused(f"endpoint model {self._name!r}: {call.failures[0].reason}")
            self._dimension = len(call.rows[0])
        return self._dimension

    def hurried(self) -> "EndpointModel":
        """The same model for someone who waits: documents are given up as soon as queries are."""
        other = copy.copy(self)
        other._document_retry = self._query_retry
        return other

    def embed_documents(self, texts: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> np.ndarray:
        given = [self._spec.document_prompt + text for text in texts]
        return self._embed(_Call(given, self._document_retry, on_progress))

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(_Call([self._spec.query_prompt + text for text in texts], self._query_retry))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Estimates on the high side (`tokens.estimate_tokens`): the protocol has no way to ask."""
        return [estimate_tokens(self._spec.document_prompt + text) for text in texts]

    def _embed(self, call: _Call) -> np.ndarray:
        pending = list(range(len(call.texts)))
        while pending:
            batch = take_batch(pending, call.texts, self._most_texts, self._limits.tokens)
            pending = pending[len(batch) :]
            self._embed_batch(call, batch)
        if self._dimension is None and call.rows:
            lengths = Counter(len(vector) for vector in call.rows.values())
            self._dimension = lengths.most_common(1)[0][0]
        vectors = np.full((len(call.texts), self.dimension), np.nan, dtype=np.float32)
        for row, vector in call.rows.items():
            if len(vector) == self.dimension:
                vectors[row] = vector
            else:
                reason = f"the endpoint gave {len(vector)} dimensions, not {self.dimension}"
                call.failures.append(RowFailure(row, reason))
        if self._spec.normalise:
            vectors = normalise_rows(vectors)
        if call.failures:
            raise PartialEmbeddingError(vectors, sorted(call.failures, key=lambda failure: failure.row))
        return vectors

    def _embed_batch(self, call: _Call, batch: list[int]) -> None:
        """Embed the rows of one batch, halving it where the endpoint refuses it."""
        response = self._ask(call, batch)
        if response.status_code == 200:
            self._read_rows(call, batch, response.content)
            call.finish(len(batch))
            return
        message = f"HTTP {response.status_code}: {read_error_message(response)}"
        if response.status_code not in _TEXT_REFUSED:
            raise ModelRefused(f"endpoint model {self._name!r}: {message}")
        if len(batch) > 1:
            self._embed_halves(call, batch)
            return
        call.failures.append(RowFailure(batch[0], message))
        call.finish(1)
        if not call.rows and len(call.failures) >= _HOPELESS_REFUSALS:
            kind = ModelUnavailable if response.status_code == 500 else ModelRefused
            raise kind(f"endpoint model {self._name!r} takes no text at all: {message}")

    def _embed_halves(self, call: _Call, batch: list[int]) -> None:
        half = (len(batch) + 1) // 2
        failed = len(call.failures)
        self._embed_batch(call, batch[:half])
        self._embed_batch(call, batch[half:])
        if len(call.failures) == failed:
            # No text was at fault, so it was the size.
            self._most_texts = min(self._most_texts, half)

    def _ask(self, call: _Call, batch: list[int]) -> "httpx2.Response":
        body = {"model": self._name, "input": [call.texts[row] for row in batch], "encoding_format": "float"}
        hurried = call.policy is self._query_retry
        timeout = min(self._timeout, QUERY_TIMEOUT + len(batch)) if hurried else self._client.timeout
        request = self._client.build_request(
            "POST", "embeddings", content=orjson.dumps(body), headers=JSON, timeout=timeout
        )
        try:
            return send_patiently(self._client, request, call.policy)
        except EndpointBusy as error:
            raise ModelUnavailable(f"endpoint model {self._name!r}: {error}") from error

    def _read_rows(self, call: _Call, batch: list[int], body: bytes) -> None:
        """Take the answer apart by its `index` fields: the order of `data` is not promised."""
        vectors = dict(_read_vectors(body, self._name))
        if sorted(vectors) != list(range(len(batch))):
            raise ModelRefused(
                f"endpoint model {self._name!r} answered {len(batch)} texts with indexes {sorted(vectors)[:9]}"
            )
        for position, row in enumerate(batch):
            vector = vectors[position]
            if vector is None or not np.isfinite(vector).all():
                call.failures.append(RowFailure(row, "the endpoint gave numbers that are not finite"))
            else:
                call.rows[row] = vector


def take_batch(rows: Sequence[int], texts: Sequence[str], most_texts: int, most_tokens: int) -> list[int]:
    """The first rows that fit both limits together; at least one."""
    batch: list[int] = []
    tokens = 0
    for row in rows[:most_texts]:
        tokens += estimate_tokens(texts[row])
        if batch and tokens > most_tokens:
            break
        batch.append(row)
    return batch


def _read_vectors(body: bytes, model: str) -> Iterator[tuple[int, np.ndarray | None]]:
    """(index, float32 vector) pairs; None for a vector with nulls. Raises ModelRefused for another shape."""
    try:
        data: Any = orjson.loads(body)["data"]
        for item in data:
            yield int(item["index"]), _to_vector(item["embedding"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelRefused(f"endpoint model {model!r} does not answer as OpenAI's does: {error!r}") from error


def _to_vector(numbers: list[float | None]) -> np.ndarray | None:
    if any(number is None for number in numbers):
        return None
    with np.errstate(over="ignore"):
        vector = np.asarray(numbers, dtype=np.float32)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"an embedding of shape {vector.shape}")
    return vector
