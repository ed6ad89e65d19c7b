"""Judged queries from files, and sentences to ask for a chunk with."""

from pathlib import Path

import pytest

from rag_pipeline.serving.questions import JudgedQuery, QueryFileError, pick_sentence, read_queries


def write(tmp_path: Path, queries: str, qrels: str) -> tuple[Path, Path]:
    (tmp_path / "q.jsonl").write_text(queries)
    (tmp_path / "qrels.tsv").write_text(qrels)
    return tmp_path / "q.jsonl", tmp_path / "qrels.tsv"


QUERIES = '{"id": 1, "text": "red"}\n\n{"id": "2", "text": "blue"}\n{"id": "3", "text": "unjudged"}\n'


@pytest.mark.parametrize(
    "qrels",
    [
        "1\ta\t2\n2\tb\t0\n2\tc\t1\n",
        "query\tdocument\tgrade\n1\ta\t2\n2\tb\t0\n2\tc\t1\n",
        "1 0 a 2\n2 0 b 0\n2 0 c 1\n",
    ],
    ids=["plain", "with a header", "TREC"],
)
def test_queries_come_with_their_judgements(tmp_path: Path, qrels: str) -> None:
    assert read_queries(*write(tmp_path, QUERIES, qrels)) == [
        JudgedQuery("1", "red", {"a": 2.0}),
        JudgedQuery("2", "blue", {"b": 0.0, "c": 1.0}),
    ]


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        (QUERIES, "1\ta\t2\nbroken\n", r"qrels\.tsv, line 2"),
        (QUERIES, "1\ta\t2\n1\ta\tmuch\n", r"qrels\.tsv, line 2"),
        ("not json\n", "1\ta\t2\n", r"q\.jsonl, line 1"),
        ('{"id": 1}\n', "1\ta\t2\n", r"q\.jsonl, line 1"),
        (QUERIES, "77\ta\t2\n", "do the ids agree"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, queries: str, qrels: str, message: str) -> None:
    with pytest.raises(QueryFileError, match=message):
        read_queries(*write(tmp_path, queries, qrels))


def test_a_sentence_of_middle_length_is_picked() -> None:
    text = (
        "Short one. The relief valve opens at twelve bar and closes again at ten bar when all is well. "
        + "Here is another sentence that says something about pumps and pipes and not more than that. " * 3
    )
    sentence = pick_sentence(text)
    assert sentence is not None
    assert sentence in text
    assert 60 < len(sentence) < 120


@pytest.mark.parametrize("text", ["", "Too short.", "# Heading\n\n- a\n- b", "no end of a sentence " * 30])
def test_a_text_without_a_sentence_gives_none(text: str) -> None:
    assert pick_sentence(text) is None
