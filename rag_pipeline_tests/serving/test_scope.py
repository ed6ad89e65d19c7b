"""Filters: what a user writes, and what it may mean in JSON."""

from typing import Any

import pytest

from rag_pipeline.serving.scope import FilterError, match_values, parse_filters

MEANINGS: list[tuple[str, list[Any]]] = [
    ("eu", ["eu"]),
    ("5", ["5", 5]),
    ("5.5", ["5.5", 5.5]),
    ("true", ["true", True]),
    ("null", ["null", None]),
    ("", [""]),
    ('"quoted"', ['"quoted"']),
    ("[1]", ["[1]"]),
    ("{}", ["{}"]),
    ("a=b", ["a=b"]),
    ("1e3", ["1e3", 1000.0]),
]


@pytest.mark.parametrize(("text", "meanings"), MEANINGS)
def test_a_value_means_itself_and_what_it_reads_as(text: str, meanings: list[Any]) -> None:
    assert match_values(text) == meanings


def test_filters_are_read_as_key_and_value() -> None:
    assert parse_filters(["a=b", " key = v w ", "x=", "u=a=b"]) == {"a": "b", "key": " v w ", "x": "", "u": "a=b"}


@pytest.mark.parametrize("item", ["", "key", "=value", "  =value"])
def test_a_filter_without_key_or_equals_is_refused_with_an_example(item: str) -> None:
    with pytest.raises(FilterError, match="write key=value"):
        parse_filters([item])
