from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.serving.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "expected", "reason"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"], "the plain case"),
        ("See Fig. 3, e.g. the valve. Done.", ["See Fig. 3, e.g. the valve.", "Done."], "abbreviations"),
        ("J. Smith wrote it. It is 3.14 long.", ["J. Smith wrote it.", "It is 3.14 long."], "initials, numbers"),
        ('He said "stop." Then left.', ['He said "stop."', "Then left."], "a stop within quotes"),
        ("吾輩は猫である。名前はまだ無い。", ["吾輩は猫である。", "名前はまだ無い。"], "no spaces"),
        ("彼は「行く。待て。」と言った。終わり。", ["彼は「行く。待て。」と言った。", "終わり。"], "Japanese quotes"),
        ("서울은 수도이다. 인구가 많다.", ["서울은 수도이다.", "인구가 많다."], "Korean"),
        ("Heading\n\nBody text", ["Heading", "Body text"], "a blank line"),
        ("- first\n- second", ["- first", "- second"], "list items"),
        ("line one\nline two.", ["line one\nline two."], "a wrapped line goes on"),
        (" \n ", [], "only space"),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, expected, reason):
    assert [text[span.start : span.end] for span in split_sentences(text)] == expected, reason


@given(st.text(alphabet="aB1 .!?。「」\n-あ가", max_size=60))
def test_sentences_cover_every_character_that_is_not_space_once(text):
    spans = split_sentences(text)
    assert all(left.end <= right.start for left, right in pairwise(spans))
    covered = {place for span in spans for place in range(span.start, span.end)}
    assert all(character.isspace() or place in covered for place, character in enumerate(text))
