"""One line, one document, or a reason why not."""

import json

import pytest

from rag_pipeline.documents.rows import BadRow, Row, clean_text, clean_value, hash_row, parse_row, read_rows

GOOD = [
    ("the least there is", b'{"id": "a", "text": "t"}', Row("a", "", "t")),
    ("a number as id", b'{"id": 7, "text": "t"}', Row("7", "", "t")),
    ("nulls are absences", b'{"id": "a", "text": "t", "title": null, "metadata": null}', Row("a", "", "t")),
    ("other fields are metadata", b'{"id": "a", "text": "t", "lang": "en"}', Row("a", "", "t", {"lang": "en"})),
    ("metadata wins", b'{"id": "a", "text": "t", "x": 1, "metadata": {"x": 2}}', Row("a", "", "t", {"x": 2})),
    ("a lone surrogate", b'{"id": "a", "text": "x\\ud800y"}', Row("a", "", "x\ufffdy")),
    ("a pair of escapes", b'{"id": "a", "text": "\\ud83e\\udd8a"}', Row("a", "", "🦊")),
    ("NUL", b'{"id": "a\\u0000", "text": "x\\u0000y", "m": ["\\u0000"]}', Row("a", "", "xy", {"m": [""]})),
    ("bytes that are not UTF-8", b'{"id": "a", "text": "x\xffy"}', Row("a", "", "x\ufffdy")),
]
BAD = [
    ("not JSON", b"{oops", "is not JSON", True),
    ("a list", b"[1]", "is list, not an object", True),
    ("NaN", b'{"id": "a", "text": "t", "x": NaN}', "NaN is not JSON", True),
    ("no id", b'{"text": "t"}', "has no id", True),
    ("an empty id", b'{"id": " ", "text": "t"}', "has no id", True),
    ("a boolean id", b'{"id": true, "text": "t"}', "has no id", True),
    ("no text", b'{"id": "a"}', "has no text", False),
    ("text is a number", b'{"id": "a", "text": 5}', "has no text", False),
    ("title is a list", b'{"id": "a", "text": "t", "title": []}', "has a title that is not a string", False),
    ("metadata is a list", b'{"id": "a", "text": "t", "metadata": []}', "has metadata that is not an object", False),
    ("deeper than any document", b'{"id": "a", "text": ' + b"[" * 100_000 + b"}", "is not JSON", True),
]


@pytest.mark.parametrize(("reason", "line", "row"), GOOD, ids=[case[0] for case in GOOD])
def test_a_row_is_read(reason: str, line: bytes, row: Row) -> None:
    assert parse_row(line, 1) == row, reason


@pytest.mark.parametrize(("case", "line", "reason", "nameless"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_row_is_explained_with_its_line(case: str, line: bytes, reason: str, nameless: bool) -> None:
    found = parse_row(line, 12)
    assert isinstance(found, BadRow), case
    assert reason in found.reason
    assert "line 12" in found.reason
    assert found.nameless is nameless
    assert found.id == ("line 12" if nameless else "a")
    assert len(found.reason) < 300


def test_rows_go_on_behind_bad_ones_blank_lines_and_a_byte_order_mark() -> None:
    lines = [b'\xef\xbb\xbf{"id": 1, "text": "a"}\n', b"\n", b"  \r\n", b"bad\n", b'{"id": 2, "text": "b"}']
    assert [row.id for row in read_rows(lines)] == ["1", "line 4", "2"]


def test_the_first_of_two_rows_with_one_id_is_taken() -> None:
    first, second = read_rows([b'{"id": 1, "text": "a"}', b'{"id": "1", "text": "b"}'])
    assert first == Row("1", "", "a")
    assert isinstance(second, BadRow)
    assert "line 2 repeats the id '1'" in second.reason


def test_the_hash_is_of_what_is_said_and_not_of_how() -> None:
    row = Row("a", "t", "x", {"p": 1, "q": {"r": 2, "s": 3}})
    same = Row("b", "t", "x", {"q": {"s": 3, "r": 2}, "p": 1})
    assert hash_row(row) == hash_row(same)
    for other in (Row("a", "u", "x", row.metadata), Row("a", "t", "y", row.metadata), Row("a", "t", "x", {"p": 2})):
        assert hash_row(other) != hash_row(row)
    assert hash_row(Row("a", "xy", "")) != hash_row(Row("a", "x", "y"))


def test_cleaned_text_can_always_be_stored() -> None:
    for text in ("a\x00b", "\ud800", "\udfff\ud800", "\ud83e\udd8a", "fine 🦊"):
        clean_text(text).encode()
        assert "\x00" not in clean_text(text)
    assert clean_text("fine 🦊") == "fine 🦊"
    assert clean_value({"a\x00": ["\ud800", {"b": 1}], "c": None}) == {"a": ["\ufffd", {"b": 1}], "c": None}
    assert json.dumps(clean_value([True, 1.5]))
