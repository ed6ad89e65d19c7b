"""Measuring goes the whole way, and a verdict is made of it."""

import random
from pathlib import Path

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.registry import find_model
from rag_pipeline.index.building import (
    build_generation,
    cut_for,
    ensure_generation,
    fill_generation,
    refresh_generation,
)
from rag_pipeline.index.store import Generation, list_generations, read_generation
from rag_pipeline.serving import evaluation as evaluation_module
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.hits import Mode
from rag_pipeline.serving.measuring import Measured, measure
from rag_pipeline.serving.promotion import GateRefusedError, promote
from rag_pipeline.serving.questions import JudgedQuery
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.store import latest_evaluation, list_evaluation_queries, upsert_golden_query
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


def test_every_query_is_on_record_with_both_figures(
    database: Database, settings: Settings, candidate: Generation, texts: dict[str, str]
) -> None:
    keep_judged_queries(database, texts)
    evaluation = evaluate_candidate(database, settings, candidate)
    with database.connection() as connection:
        queries = list_evaluation_queries(connection, evaluation.id)
    assert {q.query_id for q in queries} == {f"about {uri}" for uri in texts}
    assert {q.kind for q in queries} == {"golden"}
    for side in ("candidate", "baseline"):
        figures = [getattr(q, side).ndcg_at_10 for q in queries]
        assert abs(sum(figures) / len(figures) - evaluation.metrics[side]["ndcg_at_10"]) < 1e-6
        assert all(len(getattr(q, side).results) <= 10 for q in queries)
    found = {q.query_id: q.candidate.results for q in queries}
    assert sum(found[f"about {uri}"][0] == uri for uri in texts) > len(texts) / 2


def test_a_few_judged_queries_do_not_decide(
    database: Database, settings: Settings, candidate: Generation, texts: dict[str, str]
) -> None:
    keep_judged_queries(database, dict(list(texts.items())[:3]))
    metrics = evaluate_candidate(database, settings, candidate).metrics
    assert metrics["query_kind"] == "known-item"
    assert metrics["notes"] == ["3 judged queries are too few to decide, 10 are needed"]


def test_judged_queries_about_documents_that_are_not_there_do_not_count(
    database: Database, settings: Settings, candidate: Generation, texts: dict[str, str]
) -> None:
    keep_judged_queries(database, {f"gone{number}": text for number, text in enumerate(texts.values())})
    metrics = evaluate_candidate(database, settings, candidate).metrics
    assert metrics["query_kind"] == "known-item"
    assert metrics["notes"] == ["80 judged queries name no document that exists"]


def test_judged_queries_of_a_tenant_are_asked_of_that_tenant(
    database: Database, settings: Settings, candidate: Generation
) -> None:
    with database.transaction() as connection:
        for number in range(12):
            upsert_golden_query(connection, "acme", f"q{number}", "red valve", {"manual": 1.0})
    put_texts(database, {"manual": "A red valve near the green pump."}, tenant="acme")
    for generation in (candidate, *list_serving(database)):
        refresh_generation(database, settings, generation)
    evaluation = evaluate_candidate(database, settings, candidate)
    assert evaluation.metrics["query_kind"] == "golden"
    assert evaluation.metrics["candidate"]["mrr"] == evaluation.metrics["baseline"]["mrr"] == 1.0


def list_serving(database: Database) -> list[Generation]:
    with database.connection() as connection:
        return list_generations(connection, ["serving"])


def test_another_chunker_of_the_same_model_is_compared_on_the_same_sentences(
    database: Database, settings: Settings, serving: Generation
) -> None:
    """Its chunks are others; the sentences and the documents that hold them are the same."""
    finer = settings.model_copy(update={"chunk_size": 300})
    record = find_model(database, settings.model_slug)
    generation = ensure_generation(database, finer, record)
    assert generation.chunker_id != serving.chunker_id
    fill_generation(database, finer, generation)
    build_generation(database, finer, generation)
    evaluation = evaluate_candidate(database, finer, generation)
    assert evaluation.verdict in ("better", "not_worse", "worse"), evaluation.reason
    assert evaluation.metrics["candidate"]["queries"] > 20


def test_logged_searches_are_replayed_to_both_with_their_tenant_and_filters(
    database: Database, settings: Settings, candidate: Generation, texts: dict[str, str]
) -> None:
    asked = [text[:60] for text in list(texts.values())[:8]]
    with database.transaction() as connection:
        for number, query in enumerate([*asked, asked[0]]):
            filters = '{"kind": "none"}' if number == 3 else "{}"
            connection.execute(
                "insert into rag.query_log (tenant, query, mode, k, filters, generation_id, chunk_ids, milliseconds)"
                " values ('default', %s, %s, 10, %s, 1, '{}', 1)",
                (query, "lexical" if number == 7 else "hybrid", filters),
            )
    evaluation = evaluate_candidate(database, settings, candidate)
    shadow = evaluation.metrics["shadow"]
    assert shadow["queries"] == 7  # each once, and none that only words answered
    assert shadow["without_result"] == [1, 1]
    assert 0 < shadow["overlap_at_10"] < 1
    with database.connection() as connection:
        queries = [q for q in list_evaluation_queries(connection, evaluation.id) if q.kind == "shadow"]
    assert {q.query for q in queries} == set(asked[:7])
    assert all(q.candidate.ndcg_at_10 is None for q in queries)


def test_a_floor_of_similarity_is_fitted_to_each_generation(database: Database, candidate: Generation) -> None:
    with database.connection() as connection:
        now = read_generation(connection, list_serving(database)[0].id)
    assert now is not None
    floor = now.metrics["floor"]
    assert now.metrics["similarity_floor"] == floor["similarity"]
    assert 0 < floor["similarity"] < 1
    assert floor["strangers_above"] < 0.2  # topics have words of their own here: most unrelated pairs lie below


def test_a_row_without_direction_breaks_a_candidate(
    database: Database, settings: Settings, candidate: Generation
) -> None:
    with database.connection() as connection:
        connection.execute(
            f"update rag.{candidate.table_name} set embedding = array_fill(0, array[32])::halfvec"
            f" where chunk_id = (select min(chunk_id) from rag.{candidate.table_name})"
        )
    evaluation = evaluate_candidate(database, settings, candidate)
    assert (evaluation.verdict, evaluation.metrics["zero_vectors"]) == ("broken", 1)
    assert "1 rows of its index have no direction" in evaluation.reason
