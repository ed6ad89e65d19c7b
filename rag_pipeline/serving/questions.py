"""Queries to measure retrieval with: read from files, or made from the corpus without labels."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rag_pipeline.errors import MisuseError


class QueryFileError(MisuseError, ValueError):
    """A queries or qrels file that cannot be read; the message names the line."""


@dataclass(frozen=True)
class JudgedQuery:
    """A query and its judgements: document id (a row's own id, or the URI) -> grade."""

    id: str
    text: str
    relevant: Mapping[str, float]


SENTENCE = re.compile(r"[^\n.!?。！？]{10,300}(?:[.!?](?=\s|$)|[。！？])")
SHORTEST, MIDDLE = 30, 90


def read_queries(queries: Path, qrels: Path) -> list[JudgedQuery]:
    """Queries ({"id", "text"} per line) with their judgements (query, document, grade; tab separated).

    TREC's four columns work too. Queries without a judgement are left out. Raises `QueryFileError`.
    """
    judged: dict[str, dict[str, float]] = {}
    for number, line in enumerate(qrels.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) == 4:
            fields = [fields[0], fields[2], fields[3]]
        try:
            query, document, grade = fields
            judged.setdefault(query, {})[document] = float(grade)
        except ValueError:
            if number == 1:
                continue  # a header
            raise QueryFileError(
                f"{qrels}, line {number}: query, document and grade are needed, tab separated"
            ) from None
    result = []
    for number, line in enumerate(queries.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            identity, text = str(row["id"]), str(row["text"])
        except (ValueError, KeyError, TypeError):
            raise QueryFileError(f'{queries}, line {number}: {{"id": …, "text": …}} is needed') from None
        if identity in judged:
            result.append(JudgedQuery(identity, text, judged[identity]))
    if not result:
        raise QueryFileError(f"No query of {queries} has a judgement in {qrels}: do the ids agree?")
    return result


def pick_sentence(text: str) -> str | None:
    """The sentence of a chunk to ask for it with: of middle length, so neither a heading nor half the chunk."""
    sentences = [match.strip(" \t#>*-|") for match in SENTENCE.findall(text)]
    # in bytes, since a character of Japanese or Korean says about as much as three Latin letters
    sized = [(len(s.encode()), s) for s in sentences]
    fitting = [(abs(size - MIDDLE), s) for size, s in sized if SHORTEST <= size <= len(text.encode()) // 2]
    return min(fitting)[1] if fitting else None
