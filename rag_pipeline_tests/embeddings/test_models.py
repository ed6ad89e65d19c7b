import os

import numpy as np
import pytest

from rag_pipeline.embeddings.models import ModelRefused, ModelSpec, load_model, normalise_rows, parse_source
from rag_pipeline_tests.embeddings.scripted_endpoint import Answer, serve


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("packaged:all-MiniLM-L6-v2", ("packaged", "all-MiniLM-L6-v2")),
        ("openai:text-embedding-3-small", ("openai", "text-embedding-3-small")),
        ("openai:intfloat/e5-base", ("openai", "intfloat/e5-base")),
        ("model2vec:minishlab/potion-base-8M", ("model2vec", "minishlab/potion-base-8M")),
        ("intfloat/e5-base@v2", ("hub", "intfloat/e5-base@v2")),
        ("./not-there", ("directory", "not-there")),
        ("/not/there", ("directory", "/not/there")),
    ],
)
def test_a_source_says_what_kind_of_model_it_is(source, expected):
    assert parse_source(source) == expected


@pytest.mark.parametrize("source", ["", "minilm", "openai:", "a/b/c", "org/"])
def test_a_source_of_no_known_form_is_refused(source):
    with pytest.raises(ModelRefused, match="source"):
        parse_source(source)


def test_an_existing_directory_is_a_directory_even_if_it_looks_like_a_hub_name(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/name") == ("directory", os.path.join("org", "name"))


def test_normalising_leaves_a_zero_row_zero():
    rows = normalise_rows(np.array([[3, 4], [0, 0]], dtype=np.float32))
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


def test_the_openai_key_never_goes_to_another_address(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-openai")
    monkeypatch.delenv("RAG_EMBEDDING_API_KEY", raising=False)
    with serve(lambda _number, _asked: Answer({"data": [{"index": 0, "embedding": [1.0, 0.0]}]})) as endpoint:
        spec = ModelSpec("m", "openai:m", base_url=endpoint.base_url)
        assert load_model(spec).dimension == 2
        monkeypatch.setenv("RAG_EMBEDDING_API_KEY", "for-this-one")
        assert load_model(spec).dimension == 2
    assert endpoint.keys == [None, "Bearer for-this-one"]
