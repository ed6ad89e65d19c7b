import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.embeddings.fingerprint import CANARIES
from rag_pipeline.embeddings.models import ModelRefused, ModelSpec, load_model
from rag_pipeline.embeddings.packaged import find_packaged_model
from rag_pipeline.embeddings.sentence_transformer import LibraryModel, TransformerModel, plan_batches
from rag_pipeline_tests.embeddings.conftest import MINILM

TEXTS = [*CANARIES, "", "  spaces  \n\n here ", "😀", *(f"valve {number} " * number for number in range(20))]


def _encode_with_library(directory: Path, texts, **options) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    return model.encode(list(texts), batch_size=8, show_progress_bar=False, **options)


def _worst_cosine(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


def _make_random_model(directory: Path, kind: str, pooling: str) -> Path:
    """A small model of random weights in the sentence-transformers layout, with the packaged tokenizer."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(7)
    sizes = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 66, "initializer_range": 0.3}
    if kind == "DistilBert":
        sizes = {"vocab_size": 30522, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
        sizes |= {"max_position_embeddings": 64}
    else:
        sizes |= {"pad_token_id": 0}
    base = directory / "base"
    config = getattr(transformers, f"{kind}Config")(**sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(base)
    source, _ = find_packaged_model("all-MiniLM-L6-v2")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / name, base / name)
    inner = Transformer(str(base), max_seq_length=64)
    SentenceTransformer(modules=[inner, Pooling(32, pooling)], device="cpu").save(str(directory / "model"))
    return directory / "model"


def test_vectors_equal_those_of_the_library(minilm):
    expected = _encode_with_library(find_packaged_model("all-MiniLM-L6-v2")[0], TEXTS)
    assert isinstance(minilm, TransformerModel)
    assert _worst_cosine(minilm.embed_documents(TEXTS), expected) > 0.99999


@pytest.mark.parametrize(
    ("kind", "pooling", "expected_class"),
    [
        ("Bert", "cls", TransformerModel),
        ("XLMRoberta", "mean", TransformerModel),
        ("DistilBert", "mean", LibraryModel),
        ("Bert", "max", LibraryModel),
    ],
)
def test_other_models_agree_with_the_library_on_either_path(tmp_path, kind, pooling, expected_class):
    directory = _make_random_model(tmp_path, kind, pooling)
    spec = ModelSpec("m", str(directory), query_prompt="query: ", document_prompt="text: ", normalise=False)
    model = load_model(spec)
    assert isinstance(model, expected_class)
    assert (model.dimension, model.max_tokens) == (32, 64)
    expected = _encode_with_library(directory, TEXTS, prompt="text: ")
    assert np.allclose(model.embed_documents(TEXTS), expected, atol=1e-4)
    queries = _encode_with_library(directory, TEXTS[:3], prompt="query: ")
    assert np.allclose(model.embed_queries(TEXTS[:3]), queries, atol=1e-4)
    assert model.count_tokens(["hello"]) == [5]


def test_rows_come_back_in_the_order_given_and_progress_counts_them_all(minilm):
    seen: list[int] = []
    together = minilm.embed_documents(TEXTS, on_progress=seen.append)
    alone = np.vstack([minilm.embed_documents([text]) for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-5)
    assert sum(seen) == len(TEXTS)
    assert together.dtype == np.float32


def test_no_texts_give_no_rows(minilm):
    assert minilm.embed_documents([]).shape == minilm.embed_queries([]).shape == (0, 384)


def test_prompts_change_the_vectors_and_normalised_ones_have_length_one(minilm):
    prompted = load_model(ModelSpec("m", MINILM.source, query_prompt="query: "))
    assert np.allclose(prompted.embed_queries(["valve"]), minilm.embed_documents(["query: valve"]), atol=1e-6)
    assert np.allclose(np.linalg.norm(minilm.embed_documents(TEXTS), axis=1), 1, atol=1e-5)


def test_batches_hold_every_row_once_and_keep_to_the_limit():
    lengths = [3, 250, 8, 8, 256, 1, 90, 90]
    batches = list(plan_batches(lengths, 300))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 300 for batch in batches)


def test_one_query_starts_without_the_heavy_libraries():
    program = (
        "import sys; from rag_pipeline.embeddings.models import ModelSpec, load_model;"
        "load_model(ModelSpec('m', 'packaged:all-MiniLM-L6-v2')).embed_queries(['hello']);"
        "print([name for name in ('transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_static_model_given_as_a_directory_is_refused_with_the_way_to_register_it(static_directory):
    with pytest.raises(ModelRefused, match="model2vec:"):
        load_model(ModelSpec("m", str(static_directory)))
