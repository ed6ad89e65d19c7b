import subprocess
import sys

import pytest

from rag_pipeline.embeddings.models import ModelRefused
from rag_pipeline.embeddings.packaged import PACKAGED_MODELS, find_packaged_model
from rag_pipeline.embeddings.weights import hash_weights


def test_the_packaged_model_is_found_without_importing_its_package():
    code = (
        "import sys; from rag_pipeline.embeddings.packaged import find_packaged_model;"
        " _, packaged = find_packaged_model('all-MiniLM-L6-v2'); print(packaged.module in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    directory, packaged = find_packaged_model("all-MiniLM-L6-v2")
    assert hash_weights(directory) == packaged.weights_sha256


def test_an_unknown_packaged_model_is_refused_with_the_known_names():
    with pytest.raises(ModelRefused, match=next(iter(PACKAGED_MODELS))):
        find_packaged_model("all-MiniLM-L12-v2")
