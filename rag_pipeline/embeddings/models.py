"""What an embedding model is to the rest of the pipeline: a spec that names it and a protocol it answers."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from rag_pipeline.settings import load_settings

SourceKind = Literal["packaged", "directory", "hub", "model2vec", "openai"]

OPENAI_BASE_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class ModelSpec:
    """What `rag model add SLUG SOURCE` records: enough to load the same model again, nothing else.

    `source` is "packaged:all-MiniLM-L6-v2", a local directory, a Hugging Face name ("org/name" or
    "org/name@revision"), "model2vec:DIRECTORY_OR_NAME", or "openai:MODEL" with the endpoint in `base_url`.
    Prompts are put in front of every text as they stand. `weights_sha256` pins the weights: see
    `weights.hash_weights` for what is hashed.
    """

    slug: str
    source: str
    query_prompt: str = ""
    document_prompt: str = ""
    normalise: bool = True
    base_url: str | None = None
    weights_sha256: str | None = None


class EmbeddingModel(Protocol):
    """A loaded model. Rows come back in the order given; prompts and normalisation are already applied."""

    @property
    def dimension(self) -> int:
        """Numbers per vector."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens after which a text is cut, special tokens included; None where the model does not say."""

    def embed_documents(self, texts: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> np.ndarray:
        """(n, dimension) float32. `on_progress` gets the number of texts finished since its last call.

        Raises PartialEmbeddingError where single texts cannot be embedded, ModelUnavailable where the
        model as a whole cannot be reached.
        """

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dimension) float32, with the query prompt."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as `embed_documents` sends it: document prompt and special tokens included."""


class ModelError(Exception):
    """Anything that stops a model from giving vectors."""


class ModelRefused(ModelError):
    """The model is there and must not or cannot be used: pickle weights, a wrong hash, a rejected key."""


class ModelUnavailable(ModelError):
    """The model cannot be reached now; trying again later may work. Never the fault of one text."""


@dataclass(frozen=True)
class RowFailure:
    """One text, by its position in the call, that the model would not embed."""

    row: int
    reason: str


class PartialEmbeddingError(ModelError):
    """Some texts failed and the rest did not. `vectors` is (n, dimension) with NaN in the failed rows."""

    def __init__(self, vectors: np.ndarray, failures: Sequence[RowFailure]) -> None:
        self.vectors = vectors
        self.failures = tuple(failures)
        first = self.failures[0]
        super().__init__(
            f"{len(self.failures)} of {len(vectors)} texts could not be embedded; row {first.row}: {first.reason}"
        )


def parse_source(source: str) -> tuple[SourceKind, str]:
    """Split a source into its kind and name. A path that exists, or looks like one, is a directory.

    Raises ModelRefused for a source that is none of the five kinds.
    """
    prefix, _, rest = source.partition(":")
    if prefix in ("packaged", "model2vec", "openai"):
        if not rest:
            raise ModelRefused(f"source {source!r} names no model after {prefix!r}")
        return prefix, rest  # type: ignore[return-value]
    path = Path(source).expanduser()
    if source and (path.is_dir() or source.startswith((".", "~")) or path.is_absolute()):
        return "directory", str(path)
    if source.count("/") == 1 and all(part.strip() for part in source.split("/")):
        return "hub", source
    raise ModelRefused(
        f"source {source!r} is no directory and no known form: packaged:NAME, DIRECTORY, ORG/NAME, "
        "model2vec:DIRECTORY_OR_NAME or openai:MODEL"
    )


def is_endpoint(spec: ModelSpec) -> bool:
    """Whether the model is behind an address, where it can change or go away at any time."""
    return spec.source.startswith("openai:")


def load_model(spec: ModelSpec, *, api_key: str | None = None) -> EmbeddingModel:
    """Load the model a spec names; weights are checked before anything reads them.

    `api_key` is for endpoints. Without one, the setting RAG_EMBEDDING_API_KEY is taken; OPENAI_API_KEY only goes to
    OpenAI's own address, so that a key never leaks to whatever `base_url` a spec carries.
    Raises ModelRefused, or ModelUnavailable for a hub or an endpoint that does not answer.
    """
    kind, name = parse_source(spec.source)
    if kind == "openai":
        from rag_pipeline.embeddings.openai_compatible import EndpointModel

        secret = load_settings().embedding_api_key
        key = api_key or (secret.get_secret_value() if secret else None)
        if key is None and (spec.base_url or OPENAI_BASE_URL) == OPENAI_BASE_URL:
            key = os.environ.get("OPENAI_API_KEY")
        return EndpointModel(spec, model=name, base_url=spec.base_url or OPENAI_BASE_URL, api_key=key)
    if kind == "model2vec":
        from rag_pipeline.embeddings.static import load_static_model

        return load_static_model(spec)
    from rag_pipeline.embeddings.sentence_transformer import load_transformer_model

    return load_transformer_model(spec)


def normalise_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; a zero row stays zero, so that it can still be recognised as one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
