"""A model is what it computes: the same under two names is one space, another under the same name is refused."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import registry
from rag_pipeline.embeddings.models import ModelRefused, ModelSpec
from rag_pipeline.embeddings.registry import (
    DriftError,
    SlugTakenError,
    UnknownModelError,
    add_model,
    find_model,
    open_checked_model,
)
from rag_pipeline_tests.tiny_model import save_tiny_model


@pytest.fixture(autouse=True)
def _fresh_caches() -> None:
    """Every test stands for a process of its own."""
    for cached in (registry.open_model, registry._canaries_now, registry.open_counter):
        cached.cache_clear()


def test_the_same_spec_twice_is_one_model(database: Database, tiny_spec: ModelSpec) -> None:
    first = add_model(database, tiny_spec)
    assert add_model(database, tiny_spec) == first == find_model(database, "tiny")
    assert (first.state, first.dimension, first.space_id) == ("probed", 32, first.id)


def test_the_same_model_under_another_name_and_path_is_the_same_space(
    database: Database, tiny_spec: ModelSpec, tiny_model: Path, tmp_path: Path
) -> None:
    first = add_model(database, tiny_spec)
    copied = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    second = add_model(database, ModelSpec("second", f"model2vec:{copied}"))
    assert second.id != first.id
    assert second.space == first.space


@pytest.mark.parametrize(
    "other", [{"document_prompt": "red "}, {"query_prompt": "blue "}, {"normalise": False}], ids=lambda d: next(iter(d))
)
def test_other_prompts_or_lengths_are_another_space(
    database: Database, tiny_spec: ModelSpec, other: dict[str, object]
) -> None:
    first = add_model(database, tiny_spec)
    assert add_model(database, ModelSpec("second", tiny_spec.source, **other)).space != first.space  # type: ignore[arg-type]


def test_another_model_is_another_space(database: Database, tiny_spec: ModelSpec, other_tiny_model: Path) -> None:
    first = add_model(database, tiny_spec)
    assert add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}")).space != first.space


def test_a_slug_never_changes_its_meaning(database: Database, tiny_spec: ModelSpec, other_tiny_model: Path) -> None:
    add_model(database, tiny_spec)
    with pytest.raises(SlugTakenError, match="Choose another slug"):
        add_model(database, ModelSpec("tiny", f"model2vec:{other_tiny_model}"))
    assert find_model(database, "tiny").spec == tiny_spec


def test_an_unknown_slug_is_answered_with_the_known_ones(database: Database, tiny_spec: ModelSpec) -> None:
    with pytest.raises(UnknownModelError, match=r"Registered: none\. Add it"):
        find_model(database, "nope")
    add_model(database, tiny_spec)
    with pytest.raises(UnknownModelError, match="Registered: tiny"):
        find_model(database, "nope")


def test_weights_that_changed_under_their_path_are_drift(database: Database, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model", seed=1)
    record = add_model(database, ModelSpec("mine", f"model2vec:{path}"))
    open_checked_model(record)
    shutil.rmtree(path)
    save_tiny_model(path, seed=2)
    _fresh_process()
    with pytest.raises(DriftError, match=r"'mine'.*not the one that was registered.*another slug"):
        open_checked_model(record)
    shutil.rmtree(path)
    save_tiny_model(path, seed=1)
    _fresh_process()
    assert open_checked_model(record).dimension == 32


def _fresh_process() -> None:
    for cached in (registry.open_model, registry._canaries_now, registry.open_counter):
        cached.cache_clear()


def test_a_model_that_cannot_be_used_is_recorded_as_refused_with_the_reason(database: Database, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    spec = ModelSpec("bad", f"model2vec:{tmp_path}")
    with pytest.raises(ModelRefused, match="pickle"):
        add_model(database, spec)
    record = find_model(database, "bad")
    assert record.state == "refused"
    assert "pickle" in (record.reason or "")
    with pytest.raises(LookupError, match=r"'bad' is refused: .*pickle"):
        _ = record.space


def test_a_model_whose_vectors_are_zero_is_refused(database: Database, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path = save_tiny_model(tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    save_file({name: np.zeros_like(tensor) for name, tensor in weights.items()}, path / "model.safetensors")
    with pytest.raises(ModelRefused, match="zero vector"):
        add_model(database, ModelSpec("zero", f"model2vec:{path}"))
    assert find_model(database, "zero").state == "refused"


def test_two_that_add_the_same_model_at_once_agree(database: Database, tiny_spec: ModelSpec) -> None:
    spaces: list[int] = []
    slugs = ["one", "two", "three", "one"]
    adders = [
        threading.Thread(
            target=lambda slug=slug: spaces.append(add_model(database, ModelSpec(slug, tiny_spec.source)).space)
        )
        for slug in slugs
    ]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join(timeout=60)
    assert len(spaces) == 4
    assert len(set(spaces)) == 1


def test_counting_tokens_loads_no_model(tiny_model: Path) -> None:
    program = (
        "import sys; from rag_pipeline.embeddings.registry import open_counter;"
        f"print(open_counter('model2vec:{tiny_model}')(['red valve']));"
        "print(*[name in sys.modules for name in ('torch', 'model2vec')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[2]", "False", "False"]
