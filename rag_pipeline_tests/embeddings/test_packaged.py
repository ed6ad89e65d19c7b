import sys

import pytest

from rag_pipeline.embeddings.models import ModelRefused
from rag_pipeline.embeddings.packaged import PACKAGED_MODELS, find_packaged_model
from rag_pipeline.embeddings.weights import hash_weights


def test_the_packaged_model_is_found_without_importing_its_package():
    directory, packaged = find_packaged_model("all-MiniLM-L6-v2")
    assert packaged.module not in sys.modules
    assert hash_weights(directory) == packaged.weights_sha256


def test_an_unknown_packaged_model_is_refused_with_the_known_names():
    with pytest.raises(ModelRefused, match=next(iter(PACKAGED_MODELS))):
        find_packaged_model("all-MiniLM-L12-v2")
