"""Static models (model2vec): a table of token vectors and a mean. No torch, thousands of texts a second."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import numpy as np

from rag_pipeline.embeddings.models import EmbeddingModel, ModelSpec, normalise_rows
from rag_pipeline.embeddings.packaged import find_packaged_model
from rag_pipeline.embeddings.tokens import TokenCounter, make_token_counter, open_tokenizer
from rag_pipeline.embeddings.weights import open_model_directory

if TYPE_CHECKING:
    from model2vec import StaticModel

_WINDOW = 8192


def load_static_model(spec: ModelSpec) -> EmbeddingModel:
    """Load from checked safetensors, by directory or hub name. Raises ModelRefused, ModelUnavailable."""
    from model2vec import StaticModel

    directory = open_model_directory(spec)
    return StaticTableModel(spec, directory, StaticModel.from_pretrained(directory))


class StaticTableModel:
    """A loaded static model. A text without a single known token gets a zero vector."""

    def __init__(self, spec: ModelSpec, directory: Path, model: "StaticModel") -> None:
        self.dimension: int = int(model.dim)
        self.max_tokens: int | None = model.max_length
        self._spec = spec
        self._model = model
        self.count_tokens: TokenCounter = make_token_counter(
            open_tokenizer(directory), spec.document_prompt, special_tokens=False
        )

    def embed_documents(self, texts: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> np.ndarray:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _WINDOW):
            window = [self._spec.document_prompt + text for text in texts[start : start + _WINDOW]]
            vectors[start : start + len(window)] = self._encode(window)
            if on_progress is not None:
                on_progress(len(window))
        return vectors

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return self._encode([self._spec.query_prompt + text for text in texts])

    def _encode(self, texts: list[str]) -> np.ndarray:
        vectors = np.asarray(self._model.encode(texts), dtype=np.float32)
        return normalise_rows(vectors) if self._spec.normalise else vectors


def distil_static_model(directory: Path, dimension: int = 256) -> Path:
    """Make a static model of the packaged all-MiniLM-L6-v2 in `directory`, offline; half a minute.

    An existing one of the same dimension is kept. Written beside and renamed, so a killed run leaves nothing
    half done. Needs the extra `distil` (skeletoken). Source: model2vec.distill (PCA and SIF weighting).
    """
    if _holds_static_model(directory, dimension):
        return directory
    with _offline():
        from model2vec.distill import distill

        source, _ = find_packaged_model("all-MiniLM-L6-v2")
        model = distill(str(source), pca_dims=dimension, device="cpu")
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        model.save_pretrained(made)
        if directory.exists():
            shutil.rmtree(directory)
        made.rename(directory)
    except OSError:
        # Another process was first with the same model: its directory is as good as ours.
        if not _holds_static_model(directory, dimension):
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return directory


def _holds_static_model(directory: Path, dimension: int) -> bool:
    weights = directory / "model.safetensors"
    if not weights.is_file() or not (directory / "tokenizer.json").is_file():
        return False
    from safetensors import safe_open

    with safe_open(str(weights), framework="np") as file:
        return bool(file.get_slice("embeddings").get_shape()[1] == dimension)


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub's client from looking anything up: everything needed is on disk."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
