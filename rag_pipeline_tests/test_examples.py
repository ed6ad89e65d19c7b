"""The example corpus stays consistent: judgements name what exists, answers stand where they should."""

import csv
import json
import re
import zipfile
from collections import Counter
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
CORPUS = EXAMPLES / "corpus"
TEXT_SUFFIXES = {".md", ".html"}
REVISIONS = sorted(
    p.relative_to(EXAMPLES / "revisions").as_posix() for p in (EXAMPLES / "revisions").rglob("*") if p.is_file()
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def read_notes() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(CORPUS / "support-notes.jsonl")}


@cache
def read_judgements() -> tuple[tuple[str, str, int], ...]:
    with (EXAMPLES / "qrels.tsv").open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, "excel-tab")
        return tuple((query, document, int(grade)) for query, document, grade in rows)


def read_queries() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(EXAMPLES / "queries.jsonl")}


def extract_text(document: str) -> str:
    """What a person sees of the document or the note; source text for Markdown and HTML."""
    if document in read_notes():
        return str(read_notes()[document]["text"])
    path = CORPUS / document
    if path.suffix in TEXT_SUFFIXES:
        return path.read_text(encoding="utf-8")
    if path.suffix == ".pdf":
        pdfium = pytest.importorskip("pypdfium2")
        return "\n".join(page.get_textpage().get_text_range() for page in pdfium.PdfDocument(path))
    with zipfile.ZipFile(path) as parts:
        wanted = [n for n in parts.namelist() if n in ("word/document.xml", "xl/sharedStrings.xml")]
        return "\n".join(unescape(re.sub(r"<[^>]+>", " ", parts.read(n).decode())) for n in wanted)


def squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)


def find_language(document: str) -> str:
    if document in read_notes():
        return str(read_notes()[document]["metadata"]["language"])
    folder = document.split("/")[0]
    return folder if folder in ("ja", "ko") else "en"


def test_every_judgement_names_a_query_and_a_document_or_row_that_exists() -> None:
    queries = read_queries()
    unknown = [
        (query, document)
        for query, document, _ in read_judgements()
        if query not in queries or not (document in read_notes() or (CORPUS / document).is_file())
    ]
    assert unknown == []


def test_no_pair_is_judged_twice_and_grades_are_one_or_two() -> None:
    pairs = Counter((query, document) for query, document, _ in read_judgements())
    assert [pair for pair, times in pairs.items() if times > 1] == []
    assert {grade for _, _, grade in read_judgements()} == {1, 2}


def test_every_query_has_a_document_that_answers_it() -> None:
    answered = {query for query, _, grade in read_judgements() if grade == 2}
    assert answered == set(read_queries())


def test_grade_two_goes_to_another_language_only_where_the_own_one_has_no_answer() -> None:
    full: dict[str, set[str]] = {}
    for query, document, grade in read_judgements():
        if grade == 2:
            full.setdefault(query, set()).add(find_language(document))
    assert [
        query
        for query, row in read_queries().items()
        if row["language"] in full[query] and full[query] != {row["language"]}
    ] == []


def test_ids_and_texts_of_queries_and_notes_are_unique() -> None:
    rows = read_rows(EXAMPLES / "queries.jsonl") + read_rows(EXAMPLES / "unanswerable.jsonl")
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    assert len(read_notes()) == len(read_rows(CORPUS / "support-notes.jsonl"))


def test_every_answer_stands_in_a_document_that_answers_its_query() -> None:
    astray = []
    for row in read_rows(EXAMPLES / "answers.jsonl"):
        texts = [
            (Path(document).suffix in TEXT_SUFFIXES or document in read_notes(), extract_text(document))
            for query, document, grade in read_judgements()
            if query == row["id"] and grade == 2
        ]
        if row["verbatim"]:
            found = any(row["answer"] in text for is_source, text in texts if is_source)
        else:
            found = any(squeeze(row["answer"]) in squeeze(text) for _, text in texts)
        if not found:
            astray.append(row)
    assert astray == []


def test_every_query_has_one_answer() -> None:
    assert [row["id"] for row in read_rows(EXAMPLES / "answers.jsonl")] == list(read_queries())


def test_the_languages_are_mixed_as_the_readme_says() -> None:
    files = Counter(
        find_language(p.relative_to(CORPUS).as_posix())
        for p in CORPUS.rglob("*")
        if p.is_file() and p.suffix != ".jsonl"
    )
    assert files == {"en": 30, "ja": 8, "ko": 6}
    assert Counter(row["language"] for row in read_queries().values()) == {"en": 63, "ja": 17, "ko": 13}
    assert len(read_notes()) == 34


@pytest.mark.parametrize(("language", "script"), [("ja", "[぀-ヿ]"), ("ko", "[가-힣]")])
def test_a_text_that_claims_a_language_is_written_in_its_script(language: str, script: str) -> None:
    texts = {
        row["id"]: row["text"]
        for row in [*read_queries().values(), *read_notes().values()]
        if (row.get("language") or row["metadata"]["language"]) == language
    }
    texts |= {p.name: extract_text(p.relative_to(CORPUS).as_posix()) for p in (CORPUS / language).iterdir()}
    assert texts
    # A query such as "E-44 頻発 対策" has no kana, so kanji count for Japanese too.
    letters = re.compile(script + ("|[一-鿿]" if language == "ja" else ""))
    assert [name for name, text in texts.items() if not letters.search(text)] == []


@pytest.mark.parametrize("path", REVISIONS)
def test_a_revision_changes_little_of_its_document(path: str) -> None:
    before, after = (
        set((EXAMPLES / side / path).read_text(encoding="utf-8").split("\n")) for side in ("corpus", "revisions")
    )
    assert before != after
    assert len(before & after) / len(before | after) > 0.75


def test_there_are_six_revisions_and_one_is_japanese() -> None:
    assert len(REVISIONS) == 6
    assert sum(path.startswith("ja/") for path in REVISIONS) == 1


def test_the_bad_inputs_are_bad() -> None:
    bad = EXAMPLES / "bad"
    assert (bad / "empty.md").stat().st_size == 0
    assert b"%%EOF" not in (bad / "truncated.pdf").read_bytes()
    with zipfile.ZipFile(bad / "malformed.docx") as parts:
        assert "word/document.xml" not in parts.namelist()
    broken = 0
    for line in (bad / "one-broken-row.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            json.loads(line)
        except json.JSONDecodeError:
            broken += 1
    assert broken == 1


def test_the_examples_stay_below_one_megabyte() -> None:
    assert sum(p.stat().st_size for p in EXAMPLES.rglob("*") if p.is_file()) < 1_000_000
