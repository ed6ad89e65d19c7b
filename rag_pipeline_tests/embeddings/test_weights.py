import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rag_pipeline.embeddings.models import ModelRefused, ModelSpec, load_model
from rag_pipeline.embeddings.packaged import find_packaged_model
from rag_pipeline.embeddings.weights import hash_weights, open_model_directory, read_declared_prompts


class _Bomb:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def _copy_minilm(target: Path) -> Path:
    directory, _ = find_packaged_model("all-MiniLM-L6-v2")
    return Path(shutil.copytree(directory, target))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickle_weights_are_refused_and_never_read(tmp_path, name):
    directory = _copy_minilm(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    with pytest.raises(ModelRefused, match="pickle"):
        load_model(ModelSpec("m", str(directory)))
    assert not (tmp_path / "exploded").exists()


def test_pickle_weights_in_a_later_module_are_refused_too(tmp_path):
    directory = _copy_minilm(tmp_path / "model")
    modules = json.loads((directory / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "3_Dense").mkdir()
    (directory / "3_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    with pytest.raises(ModelRefused, match="3_Dense"):
        load_model(ModelSpec("m", str(directory)))
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_beside_safetensors_is_never_read(tmp_path):
    directory = _copy_minilm(tmp_path / "model")
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    assert load_model(ModelSpec("m", str(directory))).embed_queries(["valve"]).shape == (1, 384)
    assert not (tmp_path / "exploded").exists()


def test_other_weights_than_the_pinned_ones_are_refused_before_loading(tmp_path):
    directory = _copy_minilm(tmp_path / "model")
    pinned = hash_weights(directory)
    assert open_model_directory(ModelSpec("m", str(directory), weights_sha256=pinned.upper())) == directory
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelRefused, match="pinned"):
        load_model(ModelSpec("m", str(directory), weights_sha256=pinned))


def test_a_packaged_model_is_held_to_a_pinned_hash_of_the_spec():
    with pytest.raises(ModelRefused, match="53aa51172d14"):
        load_model(ModelSpec("m", "packaged:all-MiniLM-L6-v2", weights_sha256="0" * 64))


def test_the_hash_of_several_files_depends_on_each_of_them(tmp_path):
    for number in range(2):
        save_file({"w": np.full(3, number, dtype=np.float32)}, tmp_path / f"model-{number}.safetensors")
    before = hash_weights(tmp_path)
    save_file({"w": np.full(4, 7, dtype=np.float32)}, tmp_path / "model-1.safetensors")
    assert hash_weights(tmp_path) != before


@pytest.mark.parametrize("missing", ["", "empty"])
def test_a_directory_without_a_model_is_refused(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelRefused, match="no directory" if not missing else "no safetensors"):
        load_model(ModelSpec("m", str(tmp_path / (missing or "nowhere"))))


def test_prompts_the_model_declares_can_be_offered(tmp_path):
    directory = _copy_minilm(tmp_path / "model")
    config = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert read_declared_prompts(ModelSpec("m", str(directory))) == ("query: ", "passage: ")
    assert read_declared_prompts(ModelSpec("m", "packaged:all-MiniLM-L6-v2")) == ("", "")


def test_a_hub_that_cannot_be_reached_is_unavailable_not_refused(tmp_path):
    program = (
        "from rag_pipeline.embeddings.models import ModelSpec, ModelUnavailable, load_model\n"
        "try: load_model(ModelSpec('m', 'org/name'))\n"
        "except ModelUnavailable as error: print('unavailable')"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "unavailable", done.stderr
