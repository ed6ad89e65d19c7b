import json
import os
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.serving.answering import (
    SentenceVectors,
    answer_from_hits,
    embed_sentences,
    list_sentences,
    list_terms,
)
from rag_pipeline.serving.citations import check_citations
from rag_pipeline_tests.serving.passages import make_hits

DATA = Path(os.environ.get("RAG_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))


@pytest.mark.parametrize(
    ("question", "texts", "quote", "citation"),
    [
        (
            "Which valve was leaking steam?",
            ["The plant was built in 1967. It has six boilers.", "Pumps were fine. The relief valve leaked steam."],
            "The relief valve leaked steam.",
            2,
        ),
        (
            "名古屋城を築いたのは誰ですか?",
            ["東京は日本の首都である。人口は多い。", "名古屋城は徳川家康が築いた城である。金の鯱で知られる。"],
            "名古屋城は徳川家康が築いた城である。",
            2,
        ),
        (
            "경복궁은 언제 지어졌나요?",
            ["경복궁은 1395년에 지어졌다. 정문은 광화문이다.", "부산은 항구 도시이다."],
            "경복궁은 1395년에 지어졌다.",
            1,
        ),
    ],
)
def test_the_sentence_that_answers_is_quoted_word_for_word(question, texts, quote, citation):
    hits = make_hits(*texts)
    answer = answer_from_hits(question, hits)
    best = max(answer.quotes, key=lambda quoted: quoted.score)
    assert (best.text, best.citation) == (quote, citation)
    assert all(hits[item.citation - 1].text[item.start : item.end] == item.text for item in answer.quotes)
    assert answer.extractive
    report = check_citations(answer.text, hits)
    assert report.sound
    assert report.uncited_sentences == 0


def test_vectors_find_an_answer_that_shares_no_word(minilm_of_serving):
    hits = make_hits("The cat slept on the mat. Physicians should wash their hands.", "It rained.")
    question = "doctor hygiene"
    assert answer_from_hits(question, hits).quotes == ()
    vectors = embed_sentences(question, list_sentences(hits), minilm_of_serving)
    best = max(answer_from_hits(question, hits, vectors=vectors).quotes, key=lambda quote: quote.score)
    assert best.text == "Physicians should wash their hands."


def test_vectors_of_other_sentences_are_refused():
    hits = make_hits("One valve leaks. Two pumps run.")
    with pytest.raises(ValueError, match="3 sentence vectors for 2"):
        answer_from_hits("valve", hits, vectors=SentenceVectors(np.ones(4), np.ones((3, 4))))


def test_nothing_is_quoted_where_nothing_fits():
    answer = answer_from_hits("quantum chromodynamics", make_hits("The cat slept on the mat."))
    assert (answer.text, answer.quotes) == ("", ())
    assert answer_from_hits("anything", []).quotes == ()


def test_a_sentence_is_not_said_twice():
    hits = make_hits(
        "The relief valve leaked steam.",
        "The relief valve  leaked steam.",
        "The relief valve leaked much steam.",
    )
    assert len(answer_from_hits("Did the relief valve leak steam?", hits).quotes) == 1


def test_at_most_as_many_sentences_as_asked_for_in_reading_order():
    hits = make_hits("Valve A opens at dawn. Valve B shuts at noon. Valve C sticks at night. Valve D is new.")
    quotes = answer_from_hits("valve", hits, most_sentences=2).quotes
    assert len(quotes) == 2
    assert quotes[0].start < quotes[1].start


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Valves leaking, the VALVE leaked", ["valv", "leak", "valv", "leak"]),
        ("名古屋城", ["名古", "古屋", "屋城"]),
        ("ｆｕｌｌ　ｗｉｄｔｈ", ["full", "width"]),
        ("naïve café", ["naïv", "café"]),
        ("PostgreSQLの索引", ["postgresql", "の索", "索引"]),
        ("3.14 pg_dump", ["3.14", "pg_dump"]),
    ],
)
def test_terms_match_across_forms(text, terms):
    assert list_terms(text) == terms


def test_japanese_answers_stand_in_what_is_quoted():
    """Real questions, the paragraph that answers each among two others: most answers are in three sentences."""
    folder = DATA / "jsquad"
    if not folder.is_dir():
        pytest.skip("the JSQuAD sample is not there")
    answers = {row["id"]: row["answers"] for row in _read_lines(folder / "answers.jsonl")}
    corpus = {row["id"]: row["text"] for row in _read_lines(folder / "corpus.jsonl")}
    golden = dict(line.split("\t")[:2] for line in (folder / "qrels.tsv").read_text().splitlines())
    others = list(corpus.values())
    asked = [row for row in _read_lines(folder / "queries.jsonl") if row["id"] in answers][:150]
    found = 0
    for number, row in enumerate(asked):
        texts = [others[number * 7 % len(others)], corpus[golden[row["id"]]], others[number * 11 % len(others)]]
        quoted = answer_from_hits(row["text"], make_hits(*texts)).text
        found += any(answer in quoted for answer in answers[row["id"]])
    assert len(asked) == 150
    # As many sentences picked at random hold 0.16 of the answers.
    assert found / len(asked) > 0.75, found / len(asked)


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
