"""On a graph with far too few links, forced on the planner: a table this small would be compared row by row."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.automation.store import explain
from rag_pipeline.database.engine import Database, open_database
from rag_pipeline.embeddings import registry
from rag_pipeline.index.store import Generation, read_generation
from rag_pipeline.serving import recall, search
from rag_pipeline.serving.assets import list_indexes
from rag_pipeline.serving.diagnosis import find_recall
from rag_pipeline.serving.recall_store import RecallMeasurement, compose_whole_table, list_recall, read_latest_recall
from rag_pipeline.serving.recall_watch import fit_ef_search, measure_recall, measure_scopes, watch_recall
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.search_store import compose_nearest, to_parameter
from rag_pipeline.serving.store import forget_old_queries
from rag_pipeline.settings import Settings
from rag_pipeline_tests.conftest import Server, make_settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.tiny_model import make_text
from rag_pipeline_tests.whole_run import add_generation, bring_up

ROWS = 3000


@dataclass(frozen=True)
class Graph:
    settings: Settings
    database: Database
    generation: Generation
    vectors: np.ndarray

    def now(self) -> Generation:
        with self.database.connection() as connection:
            found = read_generation(connection, self.generation.id)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def graph(server: Server, tiny_model: Path) -> Iterator[Graph]:
    url = server.create()
    settings = make_settings(server, url, model=f"model2vec:{tiny_model}", hnsw_m=5, hnsw_ef_construction=10)
    database = open_database(settings)
    chosen = random.Random(5)
    texts = {f"d{n}": make_text(chosen, 40) for n in range(ROWS)}
    metadata = {f"d{n}": {"tenth": n % 10, "hundredth": f"h{n % 100}", "own": n} for n in range(ROWS)}
    put_texts(database, texts, metadata=metadata)
    put_texts(database, {f"s{n}": make_text(chosen, 40) for n in range(12)}, tenant="small")
    put_texts(database, {f"t{n}": make_text(chosen, 40) for n in range(5)}, tenant="smallest")
    generation = bring_up(database, settings)
    with database.connection() as connection:
        connection.execute(f'alter database "{url.database}" set enable_seqscan = off')
    database.close()
    vectors = Searcher(database).embed_queries([make_text(chosen, 12) for _ in range(80)])
    yield Graph(settings, database, generation, vectors)
    database.close()
    server.drop(url)


@pytest.fixture
def target(graph: Graph) -> Settings:
    return graph.settings.model_copy(update={"recall_target": 0.8})


def test_the_search_goes_through_the_graph_and_the_exact_one_never_does(graph: Graph) -> None:
    with graph.database.connection() as connection:
        parameters = {"query": to_parameter(graph.vectors[0], graph.generation)}
        near = explain(connection, compose_nearest(graph.generation, 10), parameters)
        exact = explain(connection, compose_whole_table(graph.generation, 10), parameters)
    assert list_indexes(near) == [graph.generation.index_name]
    assert graph.generation.index_name not in list_indexes(exact)


def test_ef_search_is_raised_until_the_target_holds_and_searches_follow(graph: Graph, target: Settings) -> None:
    choice, tried = fit_ef_search(graph.database, target, graph.generation, graph.vectors)
    assert len(tried) > 1
    assert all(f.low < 0.8 for f in tried[:-1])
    assert choice.figure.low >= 0.8
    assert (choice.ef_search, choice.holds) == (tried[-1].ef_search, True)
    assert graph.now().metrics["ef_search"] == choice.ef_search > 40
    assert graph.now().metrics["recall"]["ladder"]["40"] == pytest.approx(tried[0].recall_at_10, abs=1e-4)
    assert Searcher(graph.database)._open_generation(None).ef_search == choice.ef_search
    again = measure_recall(graph.database, target, graph.now(), graph.vectors)
    assert (again.ef_search, again.recall_at_10) == (choice.ef_search, choice.figure.recall_at_10)


def test_recall_is_that_of_a_comparison_in_memory(graph: Graph) -> None:
    with graph.database.connection() as connection:
        rows = connection.execute(f"select chunk_id, embedding from rag.{graph.generation.table_name}").fetchall()
    ids = np.array([row[0] for row in rows])
    table = np.stack([row[1].to_numpy() for row in rows]).astype(np.float64)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    with graph.database.transaction() as connection:
        connection.execute("select set_config('hnsw.ef_search', '60', true)")
        recalls = []
        for vector in graph.vectors:
            exact = set(ids[np.argsort(-(table @ vector.astype(np.float16).astype(np.float64)))[:10]].tolist())
            statement = compose_nearest(graph.generation, 10)
            near = connection.execute(statement, {"query": to_parameter(vector, graph.generation)}).fetchall()
            recalls.append(len(exact & {row[0] for row in near}) / 10)
    measured = measure_recall(graph.database, graph.settings, graph.generation, graph.vectors, ef_search=60)
    assert measured.recall_at_10 == pytest.approx(float(np.mean(recalls)), abs=0.005)


def test_ef_search_comes_down_again_but_never_under_the_setting(graph: Graph, target: Settings) -> None:
    fit_ef_search(graph.database, target, graph.generation, graph.vectors)
    easy = graph.settings.model_copy(update={"recall_target": 0.5, "ef_search": 50})
    choice, tried = fit_ef_search(graph.database, easy, graph.generation, graph.vectors)
    assert [f.ef_search for f in tried] == [50]
    assert graph.now().metrics["ef_search"] == 50 == choice.ef_search


def test_a_target_no_width_holds_keeps_the_widest_and_says_so(
    graph: Graph, target: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "LADDER", (40, 60))
    hard = graph.settings.model_copy(update={"recall_target": 0.99})
    choice, tried = fit_ef_search(graph.database, hard, graph.generation, graph.vectors)
    assert (choice.ef_search, choice.lost, len(tried)) == (60, True, 2)
    assert "should be built again" in choice.reason
    assert graph.now().metrics["recall"]["lost"] is True


def test_filters_and_small_tenants_are_measured_by_the_path_a_search_takes(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = measure_scopes(graph.database, graph.generation, graph.vectors, 40)
    assert [(f.scope, f.subject, f.ef_search, f.recall_at_10) for f in figures] == [
        ("filtered", "default: tenth=0", 40, 1.0),  # few enough to be compared one by one
        ("filtered", "default: hundredth=h0", 40, 1.0),
        ("tenant", "small", 40, 1.0),
    ]
    monkeypatch.setattr(search, "MOST_EXACT", 100)
    tenth = measure_scopes(graph.database, graph.generation, graph.vectors, 40)[0]
    assert (tenth.subject, tenth.ef_search) == ("default: tenth=0", 400)
    assert 0.3 < tenth.recall_at_10 < 1
    found, exact = [], []
    for vector in graph.vectors:
        asked = {"mode": "vector", "vector": vector, "where": {"tenth": "0"}}
        found.append([h.score for h in Searcher(graph.database).search("x", **asked).hits])  # type: ignore[arg-type]
        with monkeypatch.context() as patched:
            patched.setattr(search, "MOST_EXACT", 10_000)
            exact.append([h.score for h in Searcher(graph.database).search("x", **asked).hits])  # type: ignore[arg-type]
    searched = np.mean([recall.score_recall(f, e) for f, e in zip(found, exact, strict=True)])
    assert tenth.recall_at_10 == pytest.approx(searched)


def test_a_watch_records_what_it_measured_and_tells_the_doctor(graph: Graph, target: Settings) -> None:
    assert read_latest_recall_of(graph) == []
    assert "not measured yet" in find_recall(graph.database, target, graph.generation).detail
    [watched] = watch_recall(graph.database, target)
    assert watched.asked == "sentences of the corpus"
    assert watched.holds
    assert f"ef_search {watched.choice.ef_search}" in watched.describe()  # type: ignore[union-attr]
    rows = read_latest_recall_of(graph)
    assert [row.figure.scope for row in rows] == ["all", "filtered", "filtered", "tenant"]
    assert rows[0].recall_at_10 == pytest.approx(watched.figures[0].recall_at_10, abs=1e-6)
    assert find_recall(graph.database, target, graph.generation).good
    wanted = target.model_copy(update={"recall_target": 1.0})
    bad = find_recall(graph.database, wanted, graph.generation)
    assert (bad.good, "recall@10 is below 1: all" in bad.detail) == (False, True)
    watch_recall(graph.database, target, graph.generation.id)
    with graph.database.connection() as connection:
        assert len(list_recall(connection, graph.generation.id)) == 2 * len(rows)
        assert list_recall(connection, 99) == []
    with pytest.raises(LookupError, match="neither serves nor is ready"):
        watch_recall(graph.database, target, 99)


def read_latest_recall_of(graph: Graph) -> list[RecallMeasurement]:
    with graph.database.connection() as connection:
        return read_latest_recall(connection, graph.generation.id)


def test_logged_queries_are_asked_where_there_are_enough_and_old_ones_are_forgotten(
    graph: Graph, target: Settings
) -> None:
    with graph.database.connection() as connection:
        connection.execute(
            "insert into rag.query_log (asked_at, tenant, query, mode, k, generation_id, chunk_ids, milliseconds)"
            " select now() - make_interval(days => n), 'default', 'red valve ' || n, 'hybrid', 10, 1, '{}', 1"
            " from generate_series(0, 59) n"
        )
    [watched] = watch_recall(graph.database, target)
    assert (watched.asked, watched.figures[0].queries) == ("logged queries", 60)
    with graph.database.connection() as connection:
        assert forget_old_queries(connection, 9.5) == 50
        assert forget_old_queries(connection, 9.5) == 0
    [watched] = watch_recall(graph.database, target)
    assert watched.asked == "sentences of the corpus"


def test_with_few_queries_nothing_is_changed(database: Database, settings: Settings) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    bring_up(database, settings)
    [watched] = watch_recall(database, settings)
    assert watched.choice is not None
    assert (watched.choice.ef_search, watched.figures[0].queries) == (40, 0)
    assert "only 0 queries" in watched.describe()


def test_a_model_that_is_gone_costs_the_other_generations_nothing(
    database: Database, settings: Settings, tmp_path: Path, other_tiny_model: Path
) -> None:
    chosen = random.Random(1)
    put_texts(database, {f"d{n}": make_text(chosen, 80) for n in range(60)})
    serving = bring_up(database, settings)
    moved = shutil.copytree(other_tiny_model, tmp_path / "gone")
    ready = add_generation(database, settings, "gone", moved)
    moved.rename(tmp_path / "elsewhere")
    registry.open_model.cache_clear()  # as in another process
    registry._canaries_now.cache_clear()
    first, second = watch_recall(database, settings)
    assert (first.generation.id, first.holds, first.figures[0].queries > 20) == (serving.id, True, True)
    assert (second.generation.id, second.holds) == (ready.id, False)
    assert "was not measured: gone cannot embed queries" in second.describe()
