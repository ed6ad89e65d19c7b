"""A recipe is a value: checked when made, fingerprinted, the same everywhere."""

import json
from dataclasses import asdict, replace

import pytest

from rag_pipeline.chunks.recipe import ChunkerRecipe
from rag_pipeline.settings import Settings


def test_the_fingerprint_moves_with_every_field_and_survives_json() -> None:
    base = ChunkerRecipe(name="recursive", overlap=10)
    changed = [
        replace(base, size=501), replace(base, overlap=11), replace(base, unit="tokens"),
        replace(base, max_tokens=None), ChunkerRecipe(),
    ]  # fmt: skip
    assert len({recipe.fingerprint for recipe in [base, *changed]}) == 6
    assert ChunkerRecipe(**json.loads(json.dumps(asdict(base)))).fingerprint == base.fingerprint
    assert len(base.fingerprint) == 64


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "semantic"}, "unknown chunker"),
        ({"unit": "words"}, "unknown unit"),
        ({"size": 10}, "too small for a sentence"),
        ({"overlap": 50}, "structure repeats nothing"),
        ({"name": "recursive", "size": 100, "overlap": 100}, "overlap as long as the chunk"),
        ({"max_tokens": 8}, "no room beside the header"),
    ],
)
def test_a_recipe_no_text_could_satisfy_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=r"chunk|unit|size|overlap|ceiling"):
        pytest.fail(f"{reason}: {ChunkerRecipe(**fields)}")  # type: ignore[arg-type]


def test_the_default_recipe_is_what_the_default_settings_ask_for() -> None:
    fields = {name: Settings.model_fields[f"chunk_{name}"].default for name in ("size", "overlap", "unit")}
    assert ChunkerRecipe(name=Settings.model_fields["chunker"].default, **fields) == ChunkerRecipe()
