"""Content-defined cuts: the same words are cut in the same places wherever they stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.chunks.anchors import cut_at_anchors, split_into_atoms
from rag_pipeline.chunks.markdown_blocks import BlockKind

ATOMS = [
    (
        "One two. Three four. Five six.",
        BlockKind.TEXT,
        12,
        ["One two. ", "Three four. ", "Five six."],
        "sentences",
    ),
    (
        "一二三。四五六！七八九",
        BlockKind.TEXT,
        5,
        ["一二三。", "四五六！", "七八九"],
        "no spaces between sentences",
    ),
    (
        "他说“好。”然后走",
        BlockKind.TEXT,
        6,
        ["他说“好。”", "然后走"],
        "a closing quote ends with its sentence",
    ),
    ("aa bb cc dd", BlockKind.TEXT, 6, ["aa ", "bb ", "cc ", "dd"], "words where nothing else parts"),
    ("|a|\n|b|\n|c|", BlockKind.TABLE, 6, ["|a|\n", "|b|\n", "|c|"], "rows"),
    ("a\nb\n\nc\nd", BlockKind.CODE, 5, ["a\nb\n\n", "c\nd"], "blank lines in code before lines"),
    ("- a\n  - b\n- c", BlockKind.LIST, 11, ["- a\n  - b\n", "- c"], "an item keeps its children"),
]


@pytest.mark.parametrize(("text", "kind", "limit", "expected", "reason"), ATOMS, ids=[row[4] for row in ATOMS])
def test_a_block_is_taken_apart_at_its_strongest_boundaries(
    text: str, kind: BlockKind, limit: int, expected: list[str], reason: str
) -> None:
    starts = [atom.start for atom in split_into_atoms(text, 0, len(text), kind, limit, 0)]
    ends = [*starts[1:], len(text)]
    assert [text[start:end] for start, end in zip(starts, ends, strict=True)] == expected, reason


@given(st.text(alphabet="ab .。\n", max_size=400), st.integers(4, 50))
def test_no_atom_and_no_piece_is_longer_than_the_limit(text: str, limit: int) -> None:
    atoms = split_into_atoms(text, 0, len(text), BlockKind.TEXT, limit, 0)
    cuts = cut_at_anchors(text, atoms, len(text), limit)
    for starts in ([atom.start for atom in atoms], cuts):
        assert starts == sorted(set(starts))
        assert starts[0] == 0
        assert all(end - start <= limit for start, end in zip(starts, [*starts[1:], len(text)], strict=True))


def test_cuts_fall_into_step_after_an_insertion_at_the_start() -> None:
    sentences = "".join(f"Sentence {number} says {number * 7919 % 1000}. " for number in range(400))

    def cut(text: str) -> set[int]:
        atoms = split_into_atoms(text, 0, len(text), BlockKind.TEXT, 300, 0)
        return {len(text) - start for start in cut_at_anchors(text, atoms, len(text), 300)}

    before, after = cut(sentences), cut("Something new comes first. " + sentences)
    assert len(before - after) <= 0.1 * len(before)
