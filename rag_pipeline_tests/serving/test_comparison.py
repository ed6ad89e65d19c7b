"""Two generations side by side: from the record, or asked now; as JSON and as a page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.comparison import compare_generations
from rag_pipeline.serving.comparison_page import render_page
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.store import upsert_golden_query
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.tiny_model import WORDS
from rag_pipeline_tests.whole_run import add_generation, bring_up


@pytest.fixture
def pair(database: Database, settings: Settings, other_tiny_model: Path) -> tuple[Generation, Generation]:
    """(what serves, a candidate), and judged queries, one of which is written like a page of its own."""
    put_texts(database, {f"doc{n}": " ".join(WORDS[5 * n : 5 * n + 25]) for n in range(40)})
    served = bring_up(database, settings)
    with database.transaction() as connection:
        for n in range(30):
            text = " ".join(WORDS[5 * n : 5 * n + 4]) + ("<script>alert(1)</script>" if n == 0 else "")
            upsert_golden_query(connection, "default", f"q{n}", text, {f"doc{n}": 1.0})
    return served, add_generation(database, settings, "other", other_tiny_model)


def test_without_a_record_both_are_asked_and_then_it_is_read(
    database: Database, settings: Settings, pair: tuple[Generation, Generation]
) -> None:
    first = compare_generations(database, settings, "other")
    assert (first.candidate.id, first.baseline.id) == (pair[1].id, pair[0].id)
    assert len(first.queries) == 30
    again = compare_generations(database, settings, "other", "tiny")
    assert again.evaluation.id == first.evaluation.id
    assert compare_generations(database, settings, "other", fresh=True).evaluation.id > first.evaluation.id


def test_it_can_be_asked_the_other_way_round_and_by_number(
    database: Database, settings: Settings, pair: tuple[Generation, Generation]
) -> None:
    there = compare_generations(database, settings, "2", "1").evaluation
    back = compare_generations(database, settings, "1", "2").evaluation
    assert (back.generation_id, back.baseline_id) == (1, 2)
    assert back.metrics["queries_worse"] == there.metrics["queries_better"]
    mean = [e.metrics["differences"]["ndcg_at_10"]["mean"] for e in (there, back)]
    assert mean[0] == pytest.approx(-mean[1], abs=0.02)


def test_a_verdict_against_something_else_than_what_serves_opens_no_gate(
    database: Database, settings: Settings, pair: tuple[Generation, Generation], tmp_path: Path
) -> None:
    from rag_pipeline.serving.promotion import GateRefusedError, promote
    from rag_pipeline_tests.tiny_model import save_tiny_model

    third = add_generation(database, settings, "third", save_tiny_model(tmp_path / "third", seed=3))
    found = compare_generations(database, settings, "third", "other")
    assert (found.evaluation.generation_id, found.evaluation.baseline_id) == (third.id, pair[1].id)
    with pytest.raises(GateRefusedError, match="not compared with what serves now"):
        promote(database, third.id, actor="me", reason="test")


@pytest.mark.parametrize(
    ("candidate", "baseline", "message"),
    [
        ("nobody", None, "No generation of model 'nobody'"),
        ("9", None, "Generation 9 cannot be searched"),
        ("tiny", None, "serves and replaced none"),
        ("tiny", "1", "the same generation, 1"),
    ],
)
def test_what_cannot_be_compared_is_named(
    database: Database,
    settings: Settings,
    pair: tuple[Generation, Generation],
    candidate: str,
    baseline: str | None,
    message: str,
) -> None:
    with pytest.raises(LookupError, match=message):
        compare_generations(database, settings, candidate, baseline)


class Reader(HTMLParser):
    """Tags in order, and every address the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href") and value and value[0] != "#"]


def test_the_page_holds_everything_and_loads_nothing(
    database: Database, settings: Settings, pair: tuple[Generation, Generation]
) -> None:
    found = compare_generations(database, settings, "other")
    page = render_page(found)
    reader = Reader()
    reader.feed(page)
    assert reader.loaded == []
    assert "script" not in reader.tags
    assert reader.tags.count("svg") == 4
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert found.evaluation.reason.replace("<", "&lt;") in page
    every = page[page.index("Every query") :]
    assert all(re.search(rf"<td>q{n}</td>", every) for n in range(30))


def test_the_json_has_every_query_and_no_number_that_json_lacks(
    database: Database, settings: Settings, pair: tuple[Generation, Generation]
) -> None:
    evaluate_candidate(database, settings, pair[1])
    text = json.dumps(compare_generations(database, settings, "other").to_json(), default=str, allow_nan=False)
    read = json.loads(text)
    assert (read["candidate"]["model"], read["baseline"]["model"], len(read["queries"])) == ("other", "tiny", 30)
    changes = [row["change"] for row in read["queries"]]
    assert changes == sorted(changes)
