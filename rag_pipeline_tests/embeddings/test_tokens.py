import subprocess
import sys

import pytest

from rag_pipeline.embeddings.fingerprint import CANARIES
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.tokens import estimate_tokens, load_token_counter, max_tokens
from rag_pipeline_tests.embeddings.conftest import MINILM


def test_counts_include_special_tokens_and_nothing_is_cut():
    assert load_token_counter(MINILM)(["hello", "", "hello " * 400]) == [3, 2, 402]


def test_counts_include_the_document_prompt():
    spec = ModelSpec("m", MINILM.source, document_prompt="passage: ")
    assert load_token_counter(spec)(["hello"]) == [5]


def test_the_counter_agrees_with_the_loaded_model(minilm, static_model, static_spec):
    assert load_token_counter(MINILM)(CANARIES) == minilm.count_tokens(CANARIES)
    assert load_token_counter(static_spec)(CANARIES) == static_model.count_tokens(CANARIES)
    assert max_tokens(MINILM) == minilm.max_tokens == 256
    assert max_tokens(static_spec) == static_model.max_tokens == 512


def test_the_limit_is_where_the_model_stops_reading(minilm):
    limit = max_tokens(MINILM)
    fits, longer = "hello " * (limit - 2), "hello " * (limit - 2) + "valve"
    counter = load_token_counter(MINILM)
    assert counter([fits, longer]) == [limit, limit + 1]
    one, other = minilm.embed_documents([fits, longer])
    assert one @ other == pytest.approx(1, abs=1e-6)


def test_counting_loads_neither_torch_nor_transformers():
    program = (
        "import sys; from rag_pipeline.embeddings.models import ModelSpec;"
        "from rag_pipeline.embeddings.tokens import load_token_counter, max_tokens;"
        "spec = ModelSpec('m', 'packaged:all-MiniLM-L6-v2');"
        "assert load_token_counter(spec)(['hello']) == [3] and max_tokens(spec) == 256;"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_estimate_for_an_endpoint_is_not_below_a_real_tokenizer():
    real = load_token_counter(MINILM)(CANARIES)
    assert all(estimate_tokens(text) >= count for text, count in zip(CANARIES, real, strict=True))
    # Nor so far above that English chunks would come out a fraction of their size.
    assert estimate_tokens(CANARIES[2]) < 2.2 * real[2]


@pytest.mark.parametrize(("model", "limit"), [("text-embedding-3-small", 8191), ("e5-base", 512)])
def test_an_endpoint_has_a_documented_limit(model, limit):
    spec = ModelSpec("m", f"openai:{model}", base_url="http://127.0.0.1:1")
    assert max_tokens(spec) == limit
    assert load_token_counter(spec)(["hello"]) == [estimate_tokens("hello")]
