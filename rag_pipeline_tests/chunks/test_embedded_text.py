"""What is embedded, and when two chunks are one to a model."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.chunks.embedded_text import content_address, embedded_text, estimate_tokens, visible_words

EMBEDDED = [
    ("T", (), "x", "T\n\nx", "title, blank line, text"),
    ("", (), "x", "x", "no header, no blank line"),
    ("T", ("A", "B"), "x", "T\nA > B\n\nx", "the path on its own line"),
    ("T", ("A", "B"), "## B\nx", "T\nA\n\n## B\nx", "the text says its own heading"),
    ("T", ("A", "B"), "# A\n\n## B { #b }\nx", "T\n\n# A\n\n## B\nx", "both are said"),
    ("T", ("B",), "# **T**\n\n## B\nx", "# **T**\n\n## B\nx", "the title is said too, marked up"),
    ("T\nU", (), "x", "T U\n\nx", "a title is one line"),
]


@pytest.mark.parametrize(("title", "path", "text", "expected", "reason"), EMBEDDED, ids=[row[4] for row in EMBEDDED])
def test_the_header_says_once_what_the_text_does_not(
    title: str, path: tuple[str, ...], text: str, expected: str, reason: str
) -> None:
    assert embedded_text(title, path, text) == expected, reason


WORDS = [
    ("[a](https://b.c/d) e", "[a] e", "a link keeps its words"),
    ('![i](img/x.png "t"){.big} e', "![i] e", "an image keeps its description"),
    ("[a](b.md#c)", "[a]", "a relative link"),
    ("<a href='x' target=_blank>b</a>", "<a>b</a>", "an HTML link"),
    ("`[a](https://b)`", "`[a](https://b)`", "code stays"),
    ("```\n[a](https://b)\n```", "```\n[a](https://b)\n```", "fenced code stays"),
    ("[this](int a) { #b }", "[this](int a)", "a C++ capture is no link; attributes end a line"),
    ("<https://a.b>", "<https://a.b>", "a bare address is its own word"),
    ("x = {#a} y", "x = {#a} y", "braces within a line are text"),
]


@pytest.mark.parametrize(("text", "expected", "reason"), WORDS, ids=[row[2] for row in WORDS])
def test_destinations_and_attributes_are_not_words(text: str, expected: str, reason: str) -> None:
    assert visible_words(text) == expected, reason


@pytest.mark.parametrize("title", ["long words " * 500, "語" * 5000, "한" * 5000, "!" * 5000, "x" * 5000, "a.b" * 2000])
def test_a_header_is_bounded_whatever_its_script(title: str) -> None:
    header = embedded_text(title, (title, title), "")
    assert 8 < len(header) < 400
    assert estimate_tokens([header])[0] <= 110


def test_the_address_is_32_bytes_and_moves_with_each_part() -> None:
    base = content_address("T", ("A",), "x")
    assert len(base) == 32
    assert len({base, content_address("U", ("A",), "x"), content_address("T", ("B",), "x"),
                content_address("T", ("A",), "y"), content_address("T", (), "x")}) == 5  # fmt: skip


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_equal_addresses_mean_equal_parts(title: str, text: str, other: str, another: str) -> None:
    for changed in ((other, text), (title, another), (title + text, ""), ("", title + text)):
        same = content_address(title, (), text) == content_address(changed[0], (), changed[1])
        assert same == ((title, text) == changed)


def test_a_moved_link_is_another_chunk_though_it_embeds_alike() -> None:
    old, new = "see [x](https://old.example/a)", "see [x](https://new.example/a)"
    assert embedded_text("T", (), old) == embedded_text("T", (), new)
    assert content_address("T", (), old) != content_address("T", (), new)


def test_an_address_never_changes_between_releases() -> None:
    parts = b"".join(len(part).to_bytes(8, "big") + part for part in (b"T", b"A", b"B", b"x"))
    assert content_address("T", ("A", "B"), "x") == hashlib.sha256(parts).digest()
