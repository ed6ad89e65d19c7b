"""What is embedded, and when two chunks are one to a model."""

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.chunks.embedded_text import content_address, embedded_text, estimate_tokens, visible_words

EMBEDDED = [
    ("T", (), "x", "T\n\nx", "title, blank line, text"),
    ("", (), "x", "x", "no header, no blank line"),
    ("T", ("A", "B"), "x", "T\nA > B\n\nx", "the path on its own line"),
    ("T", ("A", "B"), "## B\nx", "T\nA\n\n## B\nx", "the text says its own heading"),
    ("T", ("A", "B"), "# A\n\n## B { #b }\nx", "T\n\n# A\n## B\nx", "both are said"),
    ("T", ("B",), "# **T**\n\n## B\nx", "# **T**\n## B\nx", "the title is said too, marked up"),
    ("T\nU", (), "x", "T U\n\nx", "a title is one line"),
]


@pytest.mark.parametrize(("title", "path", "text", "expected", "reason"), EMBEDDED, ids=[row[4] for row in EMBEDDED])
def test_the_header_says_once_what_the_text_does_not(
    title: str, path: tuple[str, ...], text: str, expected: str, reason: str
) -> None:
    assert embedded_text(title, path, text) == expected, reason


WORDS = [
    ("[a](https://b.c/d) e", "a e", "a link keeps its words"),
    ('![i](img/x.png "t"){.big} e', "i e", "an image keeps its description"),
    ("[a](b.md#c)", "a", "a relative link"),
    ("[![i](img/x.png)](https://b.c)", "[i]", "an image that is a link"),
    ("[a] (b) and [c][d]", "[a] (b) and [c][d]", "brackets without a destination are text"),
    ("<a href='x' target=_blank>b</a>", "<a>b</a>", "an HTML link"),
    ("`[a](https://b)`", "`[a](https://b)`", "code stays"),
    ("```\n[a](https://b)\n```", "```\n[a](https://b)\n```", "fenced code stays"),
    ("[this](int a) { #b }", "[this](int a)", "a C++ capture is no link; attributes end a line"),
    ("<https://a.b>", "<https://a.b>", "a bare address is its own word"),
    ("x = {#a} y", "x = {#a} y", "braces within a line are text"),
    ("| a |\n|---|\n| b |", "| a |\n| b |", "the rule of a table"),
    ("a | b\r\n:-:|-\r\nc | d", "a | b\nc | d", "the rule of a table without outer pipes, CRLF"),
    ("a\n\n\n  b\t\tc  \n", "a\nb c", "white space is one space or one line break"),
    ("a-b -- c\n- d", "a-b -- c\n- d", "dashes beside words stay"),
    ("|---|---|\n", "|---|---|", "a text of nothing else stays: something must be embedded"),
    ("{ #a }", "{ #a }", "attributes of nothing stay"),
    (" \n", "", "white space alone is no words"),
]


@pytest.mark.parametrize(("text", "expected", "reason"), WORDS, ids=[row[2] for row in WORDS])
def test_only_what_a_reader_sees_is_words(text: str, expected: str, reason: str) -> None:
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


LAYOUT = st.text(alphabet=" \t", max_size=6)
LINES = st.lists(st.tuples(LAYOUT, st.text(alphabet="ab.語", min_size=1, max_size=5), LAYOUT), min_size=1, max_size=6)


@given(LINES, st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]))
def test_layout_never_moves_an_address(lines: list[tuple[str, str, str]], line_break: str) -> None:
    plain = "\n".join(words for _, words, _ in lines)
    laid_out = line_break.join(before + words + after for before, words, after in lines)
    assert content_address("T", ("A",), laid_out) == content_address("T", ("A",), plain)


@given(st.text(alphabet='ab []()!<>/{#.}`|-:"\n\t\r', max_size=80))
def test_words_are_never_more_than_the_text_and_never_nothing(text: str) -> None:
    words = visible_words(text)
    assert len(words) <= len(text)
    assert bool(words) == bool(text.strip())


UNSEEN = [
    ("see [x](https://old.example/a)", "see [x](https://new.example/b)", "a site moved"),
    ("see [x](a.md)", "see x", "a link was taken away"),
    ("- a\n  - b", "- a\n    - b", "indented anew"),
    ("|a|b|\n|-|-|\n|1|2|", "|a|b|\n|:---|---:|\n|1|2|", "the columns were aligned"),
    ("## A { #a }\nx", "## A { #b }\nx", "an anchor was renamed"),
]


@pytest.mark.parametrize(("old", "new", "reason"), UNSEEN, ids=[row[2] for row in UNSEEN])
def test_an_edit_no_model_sees_is_the_same_chunk(old: str, new: str, reason: str) -> None:
    assert content_address("T", ("P",), old) == content_address("T", ("P",), new), reason


SEEN = [("see [x](a.md)", "see [y](a.md)", "other words"), ("`[x](a.md)`", "`[x](b.md)`", "code is text"),
        ("a b", "ab", "one word or two"), ("<https://a.b>", "<https://a.c>", "the address is the text")]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "reason"), SEEN, ids=[row[2] for row in SEEN])
def test_an_edit_a_model_sees_is_another_chunk(old: str, new: str, reason: str) -> None:
    assert content_address("T", ("P",), old) != content_address("T", ("P",), new), reason


def test_an_address_never_changes_between_releases() -> None:
    address = content_address("T", ("A", "B"), "[x](https://a.b)  y")
    assert address == hashlib.sha256(b"T\nA > B\n\nx y").digest()


HOSTILE = [" ", "\t", "|", "-", "[", "](/", "<a ", "{ #", "`", "\n ", " \n", "|-|\n", "[a](b/", "---  ", "[a](b/c  "]


@pytest.mark.parametrize("unit", HOSTILE)
def test_the_time_to_find_the_words_grows_with_the_text_and_no_faster(unit: str) -> None:
    def measure(length: int) -> float:
        text = "--- [a](/b) {#c} <a x>" + unit * (length // len(unit))
        start = time.perf_counter()
        visible_words(text)
        return time.perf_counter() - start

    measure(1000)
    # Eight times the text: quadratic work would take 64 times as long.
    assert measure(1_600_000) < 24 * measure(200_000) + 0.3
