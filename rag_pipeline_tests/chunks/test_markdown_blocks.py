"""Tables of what the line scanner makes of Markdown and plain text, with the reason per row."""

import pytest

from rag_pipeline.chunks.markdown_blocks import (
    Block,
    BlockKind,
    clean_heading,
    normalise_line_breaks,
    scan_blocks,
)

BLOCKS = [
    ("# A\ntext", [("HEADING", "# A"), ("TEXT", "text")], "an ATX heading ends at its line"),
    ("#hashtag\n", [("TEXT", "#hashtag")], "without a space it is no heading"),
    ("A\n===\nb", [("HEADING", "A\n==="), ("TEXT", "b")], "setext, level 1"),
    ("A\nB\n---\n", [("TEXT", "A\nB"), ("TEXT", "---")], "two lines are a paragraph, then a rule"),
    ("one\n\ntwo", [("TEXT", "one"), ("TEXT", "two")], "a blank line parts paragraphs"),
    (
        "```\n# no\n\nx\n```\ny",
        [("CODE", "```\n# no\n\nx\n```"), ("TEXT", "y")],
        "a fence hides headings and blanks",
    ),
    ("~~~\n```\n~~~\nz", [("CODE", "~~~\n```\n~~~"), ("TEXT", "z")], "another fence character doesn't close"),
    ("````\n```\n````\nz", [("CODE", "````\n```\n````"), ("TEXT", "z")], "a shorter fence doesn't close"),
    ("```\nopen\n\n# still", [("CODE", "```\nopen\n\n# still")], "an unclosed fence runs to the end"),
    ("|a|b|\n|-|-|\n|1|2|\nend", [("TABLE", "|a|b|\n|-|-|\n|1|2|"), ("TEXT", "end")], "a pipe table"),
    ("a | b\n--|--\n1 | 2", [("TABLE", "a | b\n--|--\n1 | 2")], "a table without outer pipes"),
    (
        "- a\n  more\n- b\n\n  c\nend",
        [("LIST", "- a\n  more\n- b\n\n  c\nend")],
        "lazy line belongs to the item",
    ),
    ("- a\n\nend", [("LIST", "- a"), ("TEXT", "end")], "text at the margin after a blank ends the list"),
    (
        "1. a\n   ```\n   # no\n   ```\n2. b",
        [("LIST", "1. a\n   ```\n   # no\n   ```\n2. b")],
        "a fence in an item",
    ),
    ("::: tip\nx\n:::", [("OPENER", "::: tip"), ("TEXT", "x"), ("CLOSER", ":::")], "a container's marks"),
    (
        "---\nt: 1\n---\n# A",
        [("CODE", "---\nt: 1\n---"), ("HEADING", "# A")],
        "front matter is no setext heading",
    ),
    ("<!--\n# no\n-->\nx", [("CODE", "<!--\n# no\n-->"), ("TEXT", "x")], "a comment hides headings"),
    ("a\r\n\r\nb\r\n", [("TEXT", "a\r"), ("TEXT", "b\r")], "CRLF, offsets as in the original"),
    ("page\fnext", [("TEXT", "page\fnext")], "a form feed is a line break"),
    (" \n\t\n", [], "nothing but white space"),
]


@pytest.mark.parametrize(("text", "expected", "reason"), BLOCKS, ids=[row[2] for row in BLOCKS])
def test_text_is_cut_into_the_blocks_a_reader_sees(text: str, expected: list[tuple[str, str]], reason: str) -> None:
    found = scan_blocks(normalise_line_breaks(text))
    assert [(block.kind.name, text[block.start : block.end]) for block in found] == expected, reason


HEADINGS = [
    ("## A b { #a-b }", "A b", "an anchor is no word"),
    ("# A {: .big #x }", "A", "attributes in the Python-Markdown spelling"),
    ("## A ##", "A", "closing hashes"),
    ("# C#", "C#", "a hash that is part of the word"),
    ("#", "", "an empty heading"),
    ("#  A \t b ", "A b", "one space between words"),
    ("# f{x}", "f{x}", "braces without # or . are text"),
]


@pytest.mark.parametrize(("line", "words", "reason"), HEADINGS, ids=[row[2] for row in HEADINGS])
def test_a_heading_is_reduced_to_its_words(line: str, words: str, reason: str) -> None:
    assert clean_heading(line) == words, reason


def test_setext_levels_are_one_and_two() -> None:
    assert scan_blocks("A\n=\nx") == [Block(0, 5, BlockKind.TEXT)], "a single = is text"
    blocks = scan_blocks("A\n==\n\nB\n---\n")
    assert [(block.level, block.heading) for block in blocks] == [(1, "A"), (2, "B")]


def test_normalising_line_breaks_moves_no_character() -> None:
    text = "a\r\nb\rc\fd\u2028e\x85f\vg"
    assert len(normalise_line_breaks(text)) == len(text)
    assert normalise_line_breaks(text).split() == list("abcdefg")
