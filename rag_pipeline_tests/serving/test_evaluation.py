"""Measuring goes the whole way, and a verdict is made of it."""

import random
from pathlib import Path

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.index.building import cut_for
from rag_pipeline.index.store import Generation, read_generation
from rag_pipeline.serving import evaluation as evaluation_module
from rag_pipeline.serving.evaluation import (
    Measured,
    Scored,
    compare,
    evaluate_candidate,
    format_run,
    measure,
)
from rag_pipeline.serving.promotion import GateRefusedError, promote
from rag_pipeline.serving.questions import JudgedQuery
from rag_pipeline.serving.search import Mode, Searcher
from rag_pipeline.serving.store import latest_evaluation, upsert_golden_query
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.tiny_model import WORDS
from rag_pipeline_tests.whole_run import add_generation, bring_up


@pytest.fixture
def texts() -> dict[str, str]:
    """Documents with a topic each: ten words of their own, in ever other order."""
    chosen = random.Random(4)
    topics = [chosen.sample(WORDS, 10) for _ in range(80)]
    return {
        f"doc{n}": " ".join(" ".join(chosen.choices(topic, k=8)).capitalize() + "." for _ in range(8))
        for n, topic in enumerate(topics)
    }


@pytest.fixture
def serving(database: Database, settings: Settings, texts: dict[str, str]) -> Generation:
    put_texts(database, texts)
    return bring_up(database, settings)


@pytest.fixture
def candidate(database: Database, settings: Settings, serving: Generation, other_tiny_model: Path) -> Generation:
    return add_generation(database, settings, "other", other_tiny_model)


def ask(database: Database, queries: list[JudgedQuery], mode: Mode) -> Measured:
    searcher = Searcher(database)
    return measure(searcher, queries, searcher.embed_queries([q.text for q in queries]), mode=mode)


def test_a_document_is_ranked_at_its_best_chunk_and_scored(
    database: Database, serving: Generation, texts: dict[str, str]
) -> None:
    queries = [JudgedQuery(uri, text[:120], {uri: 1.0}) for uri, text in list(texts.items())[:10]]
    measured = ask(database, queries, "hybrid")
    assert measured.generation == serving.id
    for scored in measured.scored:
        assert len(scored.ranking) == len(set(scored.ranking))
        assert scored.ranking[0] == scored.query.id
    summary = measured.summary()
    assert (summary["ndcg_at_10"], summary["mrr"], summary["recall_at_100"]) == (1.0, 1.0, 1.0)
    assert (summary["queries"], summary["mode"]) == (10, "hybrid")
    assert 0 < summary["p50_ms"] <= summary["p95_ms"]


@pytest.mark.usefixtures("serving")
def test_measuring_ranks_as_a_search_does(database: Database, texts: dict[str, str]) -> None:
    queries = [JudgedQuery(uri, text[:80], {uri: 1.0}) for uri, text in list(texts.items())[:5]]
    for mode in ("vector", "lexical", "hybrid"):
        for scored in ask(database, queries, mode).scored:
            hits = Searcher(database).search(scored.query.text, k=300, mode=mode).hits
            assert scored.ranking == list(dict.fromkeys(hit.document_id for hit in hits))


def test_a_run_file_is_what_trec_eval_reads() -> None:
    query = JudgedQuery("q1", "red", {"a": 1.0})
    text = format_run(Measured(1, "hybrid", [Scored(query, ["a", "b"], 1, 1, 1, 2.0)]))
    assert text == "q1 Q0 a 1 1.000000 rag-hybrid\nq1 Q0 b 2 0.500000 rag-hybrid\n"


def test_the_first_generation_is_called_first(database: Database, serving: Generation) -> None:
    with database.connection() as connection:
        evaluation = latest_evaluation(connection, serving.id)
    assert evaluation is not None
    assert (evaluation.verdict, evaluation.allows, evaluation.baseline_id) == ("first", True, None)
    assert evaluation.metrics["fusion"]["items"] > 20
    with database.connection() as connection:
        fitted = read_generation(connection, serving.id)
    assert fitted is not None
    assert fitted.metrics["fusion_weight"] == evaluation.metrics["fusion_weight"]


def keep_judged_queries(database: Database, texts: dict[str, str]) -> None:
    with database.transaction() as connection:
        for uri, text in texts.items():
            upsert_golden_query(connection, "default", f"about {uri}", text[:100], {uri: 1.0})


def test_judged_queries_decide_and_an_equal_candidate_may_serve(
    database: Database, settings: Settings, candidate: Generation, texts: dict[str, str]
) -> None:
    keep_judged_queries(database, texts)
    evaluation = evaluate_candidate(database, settings, candidate)
    metrics = evaluation.metrics
    assert evaluation.verdict in ("better", "not_worse"), evaluation.reason
    assert metrics["query_kind"] == "golden"
    assert metrics["candidate"]["queries"] == metrics["baseline"]["queries"] == len(texts)
    assert 0 < metrics["overlap_at_10"] <= 1
    promote(database, candidate.id, actor="me", reason="test")


def test_without_judged_queries_sentences_of_the_corpus_decide(
    database: Database, settings: Settings, serving: Generation, candidate: Generation
) -> None:
    evaluation = evaluate_candidate(database, settings, candidate)
    assert evaluation.baseline_id == serving.id
    assert evaluation.metrics["query_kind"] == "known-item"
    assert evaluation.metrics["candidate"]["queries"] == evaluation.metrics["baseline"]["queries"] > 20


def test_a_worse_candidate_is_found_out_and_refused(
    database: Database, settings: Settings, candidate: Generation, texts: dict[str, str]
) -> None:
    keep_judged_queries(database, texts)
    searcher = Searcher(database)
    queries = [JudgedQuery(uri, text[:100], {uri: 1.0}) for uri, text in texts.items()]
    served = measure(searcher, queries, searcher.embed_queries([q.text for q in queries]), mode="hybrid")
    assert served.summary()["mrr"] > 0.9
    with database.connection() as connection:  # every vector under another chunk, in ledger and table; no words
        for table, column in (("embedding_2", "vector"), (candidate.table_name, "embedding")):
            connection.execute(
                f"update rag.{table} i set {column} = o.{column} from (select {column}, row_number() over"
                f" (order by chunk_id) as n from rag.{table}) o, (select chunk_id, row_number() over"
                f" (order by chunk_id desc) as n from rag.{table}) t where t.n = o.n and t.chunk_id = i.chunk_id"
            )
        connection.execute('update rag.generation set recipe = recipe || \'{"stemmer": "none"}\' where id = 2')
        connection.execute("update rag.lexical_term set term = 'x' || term")
    evaluation = evaluate_candidate(database, settings, candidate)
    assert (evaluation.verdict, evaluation.allows) == ("worse", False)
    assert evaluation.metrics["queries_worse"] > 30
    assert len(evaluation.metrics["worst"]) == 10
    with pytest.raises(GateRefusedError, match=r"is worse: nDCG@10 -0\."):
        promote(database, candidate.id, actor="me", reason="test")


@pytest.mark.usefixtures("serving")
def test_a_candidate_with_gaps_is_broken_whatever_its_figures(
    database: Database, settings: Settings, candidate: Generation
) -> None:
    put_texts(database, {f"late{n}": f"red valve {'again ' * n}" for n in range(5)})
    cut_for(database, settings, candidate.chunker_id, only_pending=True)
    evaluation = evaluate_candidate(database, settings, candidate)
    assert (evaluation.verdict, evaluation.allows) == ("broken", False)
    assert "5 of" in evaluation.reason
    assert "have no vector" in evaluation.reason


def test_an_edit_on_its_way_is_no_gap_and_a_lost_vector_is(
    database: Database, settings: Settings, candidate: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_module, "MOST_ON_ITS_WAY", 0.05)  # of eighty chunks
    put_texts(database, {"late": "red valve"})
    cut_for(database, settings, candidate.chunker_id, only_pending=True)
    assert evaluate_candidate(database, settings, candidate).verdict != "broken"
    with database.connection() as connection:
        connection.execute(
            "delete from rag.embedding where space_id = %s and chunk_id ="
            " (select min(chunk_id) from rag.embedding where space_id = %s)",
            (candidate.space_id, candidate.space_id),
        )
    evaluation = evaluate_candidate(database, settings, candidate)
    assert (evaluation.verdict, evaluation.allows) == ("broken", False)


def test_a_candidate_without_its_index_is_broken(database: Database, settings: Settings, candidate: Generation) -> None:
    with database.connection() as connection:
        connection.execute(f"drop index rag.{candidate.index_name}")
    evaluation = evaluate_candidate(database, settings, candidate)
    assert (evaluation.verdict, evaluation.allows) == ("broken", False)
    assert "HNSW index is missing" in evaluation.reason


def test_a_comparison_lists_the_queries_that_got_worse_worst_first() -> None:
    def scored(name: str, ranking: list[str], value: float) -> Scored:
        return Scored(JudgedQuery(name, name, {"a": 1.0}), ranking, value, value, value, 1.0)

    baseline = Measured(1, "hybrid", [scored("q1", ["a"], 1.0), scored("q2", ["a"], 1.0), scored("q3", ["b"], 0.0)])
    candidate = Measured(2, "hybrid", [scored("q1", ["x"], 0.5), scored("q2", ["x"], 0.1), scored("q3", ["a"], 1.0)])
    found = compare(candidate, baseline)
    assert (found["queries_worse"], found["queries_better"], found["overlap_at_10"]) == (2, 1, 0.0)
    assert [row["query"] for row in found["worst"]] == ["q2", "q1"]
    assert found["worst"][0]["ndcg_at_10"] == [0.1, 1.0]
