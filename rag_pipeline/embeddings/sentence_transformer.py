"""sentence-transformers models: the plain ones by `encoder.py`, all others by the library itself."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rag_pipeline.embeddings.encoder import Encoder, EncoderPlan, read_encoder_plan
from rag_pipeline.embeddings.models import EmbeddingModel, ModelRefused, ModelSpec, normalise_rows
from rag_pipeline.embeddings.tokens import TokenCounter, make_token_counter, open_tokenizer, read_max_tokens
from rag_pipeline.embeddings.weights import open_model_directory, read_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Measured with all-MiniLM-L6-v2 on a CPU core: 8 texts of 256 tokens fill the caches; larger batches lose
# up to a fifth, and short texts gain nothing above the same number of tokens.
_CPU_BATCH_TOKENS = 2048
_GPU_BATCH_TOKENS = 65536
_LIBRARY_BATCH = 8
# Texts are tokenised and sorted by length in windows, so that memory does not grow with the call.
_WINDOW = 2048


def load_transformer_model(spec: ModelSpec) -> EmbeddingModel:
    """Load from checked safetensors, never with remote code. Raises ModelRefused, ModelUnavailable."""
    directory = open_model_directory(spec)
    if read_json(directory / "config.json") is None and not (directory / "modules.json").is_file():
        raise ModelRefused(f"{directory} is no sentence-transformers or transformers model: no config.json")
    if (read_json(directory / "config.json") or {}).get("model_type") == "model2vec":
        raise ModelRefused(f"{directory} is a static model: register it as model2vec:{directory}")
    device = _choose_device()
    plan = read_encoder_plan(directory)
    if isinstance(plan, EncoderPlan):
        return TransformerModel(spec, directory, plan, device)
    return LibraryModel(spec, directory, device)


class TransformerModel:
    """A plain BERT or RoBERTa encoder without the library: same vectors, quicker start."""

    def __init__(self, spec: ModelSpec, directory: Path, plan: EncoderPlan, device: str) -> None:
        self.dimension: int = plan.dimension
        self.max_tokens: int | None = read_max_tokens(directory)
        self._spec = spec
        self._normalise = spec.normalise or _always_normalises(directory)
        self._encoder = Encoder(directory, plan, device)
        self._batch_tokens = _CPU_BATCH_TOKENS if device == "cpu" else _GPU_BATCH_TOKENS
        self._tokenizer = open_tokenizer(directory)
        if self.max_tokens is not None:
            self._tokenizer.enable_truncation(self.max_tokens)
        self.count_tokens: TokenCounter = make_token_counter(
            open_tokenizer(directory), spec.document_prompt, special_tokens=True
        )

    def embed_documents(self, texts: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> np.ndarray:
        return self._embed(self._spec.document_prompt, texts, on_progress)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(self._spec.query_prompt, texts, None)

    def _embed(self, prompt: str, texts: Sequence[str], on_progress: Callable[[int], None] | None) -> np.ndarray:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _WINDOW):
            window = [prompt + text for text in texts[start : start + _WINDOW]]
            tokens = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(window)]
            for rows in plan_batches([len(row) for row in tokens], self._batch_tokens):
                vectors[[start + row for row in rows]] = self._encoder.embed([tokens[row] for row in rows])
                if on_progress is not None:
                    on_progress(len(rows))
        return normalise_rows(vectors) if self._normalise else vectors


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows grouped by falling length, each group at most `batch_tokens` after padding, or a single row.

    Longest first, as sentence-transformers does: memory is at its highest in the first batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


class LibraryModel:
    """Any other sentence-transformers model, through the library."""

    def __init__(self, spec: ModelSpec, directory: Path, device: str) -> None:
        self._spec = spec
        self._model = _load_library_model(directory, device)
        dimension = self._model.get_embedding_dimension()
        if dimension is None:
            raise ModelRefused(f"{directory} does not say how many dimensions its vectors have")
        self.dimension: int = dimension
        self.max_tokens: int | None = self._model.max_seq_length or read_max_tokens(directory)
        self._directory = directory

    def embed_documents(self, texts: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> np.ndarray:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _WINDOW):
            window = list(texts[start : start + _WINDOW])
            # An empty prompt is passed on purpose: None would bring in a default prompt of the model's own.
            vectors[start : start + len(window)] = self._model.encode_document(
                window,
                prompt=self._spec.document_prompt,
                batch_size=_LIBRARY_BATCH,
                show_progress_bar=False,
            )
            if on_progress is not None:
                on_progress(len(window))
        return normalise_rows(vectors) if self._spec.normalise else vectors

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        vectors = np.asarray(
            self._model.encode_query(
                list(texts),
                prompt=self._spec.query_prompt,
                batch_size=_LIBRARY_BATCH,
                show_progress_bar=False,
            ),
            dtype=np.float32,
        )
        return normalise_rows(vectors) if self._spec.normalise else vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        counter = make_token_counter(open_tokenizer(self._directory), self._spec.document_prompt, special_tokens=True)
        return counter(texts)


def _load_library_model(directory: Path, device: str) -> "SentenceTransformer":
    import torch
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(directory),
        device=device,
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": torch.float32},
    )


def _always_normalises(directory: Path) -> bool:
    modules = read_json(directory / "modules.json") or []
    return any(str(module.get("type", "")).endswith(".Normalize") for module in modules)


def _choose_device() -> str:
    """A GPU where there is one; on the CPU no more threads than this process may use."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    # torch counts the machine's cores, not the container's: too many threads are several times slower.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), count_usable_cores())))
    return "cpu"


def count_usable_cores() -> int:
    """Cores this process may run on: its CPU affinity, and the cgroup's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
