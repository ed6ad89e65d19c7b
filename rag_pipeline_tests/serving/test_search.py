"""Search agrees with brute force, respects its scope on every path, and follows the pointer."""

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import EmbeddingModel, ModelError, ModelSpec, load_model
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.analysis import open_analyzer
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation, refresh_generation
from rag_pipeline.index.store import Generation, drop_generation_tables, merge_metrics, read_generation, set_state
from rag_pipeline.serving import retrieval
from rag_pipeline.serving.hits import Mode
from rag_pipeline.serving.promotion import promote
from rag_pipeline.serving.retirement import retire_soaked
from rag_pipeline.serving.search import NothingServesError, Searcher
from rag_pipeline.serving.search_store import compose_nearest, to_parameter
from rag_pipeline.settings import Settings
from rag_pipeline.versions.store import read_clock
from rag_pipeline_tests.conftest import Server, make_settings
from rag_pipeline_tests.content import delete_texts, put_texts
from rag_pipeline_tests.serving.remote_model import serve_model
from rag_pipeline_tests.tiny_model import make_text
from rag_pipeline_tests.whole_run import bring_up

MODES: tuple[Mode, ...] = ("vector", "lexical", "hybrid")
LANGUAGES = ("en", "ja", "ko", "de")
QUERIES = [make_text(random.Random(seed), 6) for seed in range(12)]


def make_corpus() -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    chosen = random.Random(5)
    texts = {f"doc{n}": make_text(chosen, chosen.randint(8, 220)) for n in range(260)}
    metadata = {
        f"doc{n}": {
            "lang": LANGUAGES[n % 4],
            "year": 2020 + n % 5,
            "draft": n % 2 == 0,
            "tags": [f"t{n % 3}", f"u{n % 50}"],
            "rare": f"only{n // 5}",
            "mark": None if n % 7 else "7",
        }
        for n in range(260)
    }
    return texts, metadata


@pytest.fixture(scope="module")
def corpus(server: Server, tiny_model: Path) -> Any:
    """A database with 260 documents of tenant 'default' and the same 260 and one more of tenant 'other'."""
    from rag_pipeline.database.engine import open_database

    url = server.create()
    settings = make_settings(server, url, model=f"model2vec:{tiny_model}", chunk_size=300)
    database = open_database(settings)
    texts, metadata = make_corpus()
    put_texts(database, texts, metadata=metadata)
    put_texts(database, {**texts, "secret": "red valve secret"}, metadata=metadata, tenant="other")
    number = bring_up(database, settings).id
    with database.transaction() as connection:
        merge_metrics(
            connection, number, {"fusion_weight": 0.7, "similarity_floor": None}
        )  # instead of what was learned
        generation = read_generation(connection, number)
    yield database, generation
    database.close()
    server.drop(url)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> EmbeddingModel:
    return load_model(ModelSpec("tiny", f"model2vec:{tiny_model}"))


Rows = list[tuple[int, str, str, dict[str, Any], str]]


def read_chunks(database: Database, tenant: str = "default") -> Rows:
    """(chunk id, what is embedded, uri, metadata, tenant) of everything that is current."""
    with database.connection() as connection:
        rows = connection.execute(
            "select c.id, c.title, c.heading_path, c.text, d.uri, v.metadata, d.tenant from rag.document d"
            " join rag.document_version v on v.id = d.current_version_id"
            " join rag.version_chunk vc on vc.version_id = v.id join rag.chunk c on c.id = vc.chunk_id"
            " where d.tenant = %s",
            (tenant,),
        ).fetchall()
    return [(id_, embedded_text(title, path, text), uri, meta, own) for id_, title, path, text, uri, meta, own in rows]


def rank_by_vector(rows: Rows, model: EmbeddingModel, query: str) -> dict[int, float]:
    vectors = model.embed_documents([row[1] for row in rows]).astype(np.float16).astype(np.float32)
    target = model.embed_queries([query])[0].astype(np.float16).astype(np.float32)
    scores = vectors @ target / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(target))
    return {row[0]: float(score) for row, score in zip(rows, scores, strict=True)}


def rank_by_words(everything: Rows, query: str) -> dict[int, float]:
    """BM25 as the textbook has it, over all chunks there are: k1 1.2, b 0.75, Lucene's idf."""
    analyzer = open_analyzer("english")
    counts = {row[0]: analyzer.count_terms(row[1]) for row in everything}
    average = sum(c.total() for c in counts.values()) / len(counts)
    scores: dict[int, float] = {}
    for term, times in analyzer.count_terms(query).items():
        holding = [id_ for id_, c in counts.items() if term in c]
        idf = math.log(1 + (len(counts) - len(holding) + 0.5) / (len(holding) + 0.5))
        for id_ in holding:
            frequency, length = counts[id_][term], counts[id_].total()
            part = frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / average))
            scores[id_] = scores.get(id_, 0.0) + times * idf * part
    return scores


def best(scores: dict[int, float], count: int) -> list[float]:
    return sorted(scores.values(), reverse=True)[:count]


def keep_best(scores: dict[int, float], count: int) -> set[int]:
    return set(sorted(scores, key=lambda id_: (-scores[id_], id_))[:count])


def normalise(scores: dict[int, float]) -> dict[int, float]:
    low, high = min(scores.values()), max(scores.values())
    return {id_: (score - low) / (high - low) for id_, score in scores.items()}


# brute force -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", QUERIES)
def test_vector_search_finds_what_comparing_with_every_chunk_finds(corpus: Any, model: Any, query: str) -> None:
    database, _ = corpus
    hits = Searcher(database, ef_search=1000).search(query, k=20, mode="vector").hits
    exact = rank_by_vector(read_chunks(database), model, query)
    assert [h.score for h in hits] == pytest.approx(best(exact, 20), abs=2e-3)
    assert all(h.score == pytest.approx(exact[h.chunk_id], abs=2e-3) for h in hits)


@pytest.mark.parametrize("query", [*QUERIES, QUERIES[0] + " " + QUERIES[0], "zzz " + QUERIES[1]])
def test_lexical_search_is_bm25(corpus: Any, query: str) -> None:
    database, _ = corpus
    hits = Searcher(database).search(query, k=20, mode="lexical").hits
    everything = read_chunks(database) + read_chunks(database, "other")
    scores = rank_by_words(everything, query)
    own = {row[0] for row in read_chunks(database)}
    exact = {id_: score for id_, score in scores.items() if id_ in own}
    assert [h.score for h in hits] == pytest.approx(best(exact, 20), rel=1e-6)
    assert all(h.scores["lexical"] == pytest.approx(exact[h.chunk_id], rel=1e-6) for h in hits)


@pytest.mark.parametrize("query", QUERIES)
def test_hybrid_search_is_the_convex_sum_of_both_scores_of_either_legs_hundred(
    corpus: Any, model: Any, query: str
) -> None:
    database, generation = corpus
    hits = Searcher(database, ef_search=1000).search(query, k=10, mode="hybrid").hits
    own = read_chunks(database)
    everywhere = rank_by_words(own + read_chunks(database, "other"), query)
    near = rank_by_vector(own, model, query)
    words = {id_: everywhere[id_] for id_ in near if id_ in everywhere}
    candidates = keep_best(near, 100) | keep_best(words, 100)
    left = normalise({id_: near[id_] for id_ in candidates})
    right = normalise({id_: words[id_] for id_ in candidates if id_ in words})
    weight = generation.metrics["fusion_weight"]
    fused = {id_: weight * left[id_] + (1 - weight) * right.get(id_, 0) for id_ in candidates}
    assert [h.score for h in hits] == pytest.approx(best(fused, 10), abs=0.02)
    for hit in hits:
        assert hit.scores["vector"] == pytest.approx(near[hit.chunk_id], abs=2e-3)
        assert (hit.scores["lexical"] or 0) == pytest.approx(words.get(hit.chunk_id, 0), rel=1e-6)


def test_a_hit_is_where_it_says_it_is(corpus: Any) -> None:
    database, generation = corpus
    for mode in MODES:
        result = Searcher(database).search(QUERIES[0], k=10, mode=mode)
        assert [h.rank for h in result.hits] == list(range(1, 11))
        assert (result.generation, result.model, result.mode) == (generation.id, "tiny", mode)
        for hit in result.hits:
            with database.connection() as connection:
                row = connection.execute(
                    "select substr(v.text, %s, %s), v.ordinal, v.metadata from rag.document d"
                    " join rag.document_version v on v.id = d.current_version_id"
                    " where d.uri = %s and d.tenant = 'default'",
                    (hit.start + 1, hit.end - hit.start, hit.uri),
                ).fetchone()
            assert row == (hit.text, hit.version, hit.metadata)
            assert hit.document_id == hit.uri  # no external id


# scope -----------------------------------------------------------------------------------------------------

FILTERS: dict[str, tuple[dict[str, str], Callable[[dict[str, Any]], bool]]] = {
    "a string": ({"lang": "ja"}, lambda m: m["lang"] == "ja"),
    "a number": ({"year": "2022"}, lambda m: m["year"] == 2022),
    "a boolean": ({"draft": "true"}, lambda m: m["draft"] is True),
    "null": ({"mark": "null"}, lambda m: m["mark"] is None),
    "a string that looks like a number": ({"mark": "7"}, lambda m: m["mark"] == "7"),
    "an element of a list": ({"tags": "t1"}, lambda m: "t1" in m["tags"]),
    "two at once": ({"lang": "ja", "year": "2021"}, lambda m: m["lang"] == "ja" and m["year"] == 2021),
    "five documents": ({"rare": "only3"}, lambda m: m["rare"] == "only3"),
    "one list element in fifty": ({"tags": "u7"}, lambda m: "u7" in m["tags"]),
    "nothing": ({"lang": "xx"}, lambda _m: False),
    "a key nobody has": ({"nope": "1"}, lambda _m: False),
}


@pytest.mark.parametrize("most_exact", [8000, 0], ids=["few", "many"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FILTERS)
def test_a_filtered_search_returns_the_best_of_what_passes_and_all_of_it_if_asked(
    corpus: Any, model: Any, monkeypatch: pytest.MonkeyPatch, name: str, mode: Mode, most_exact: int
) -> None:
    database, _ = corpus
    monkeypatch.setattr(retrieval, "MOST_EXACT", most_exact)
    where, passes = FILTERS[name]
    rows = [row for row in read_chunks(database) if passes(row[3])]
    searcher = Searcher(database, ef_search=200)
    hits = searcher.search(QUERIES[2], k=15, mode=mode, where=where).hits
    assert all(passes(hit.metadata) for hit in hits)
    if mode == "lexical":
        words = rank_by_words(read_chunks(database) + read_chunks(database, "other"), QUERIES[2])
        wanted = {row[0]: words[row[0]] for row in rows if row[0] in words}
        assert [h.score for h in hits] == pytest.approx(best(wanted, 15), rel=1e-6)
    else:
        assert len(hits) == min(15, len(rows))
    if mode == "vector" and rows:
        exact = rank_by_vector(rows, model, QUERIES[2])
        assert [h.score for h in hits] == pytest.approx(best(exact, 15), abs=2e-3)
        assert len(searcher.search(QUERIES[2], k=1000, mode=mode, where=where).hits) == min(1000, len(rows))


@pytest.mark.parametrize("most_exact", [8000, 0], ids=["few", "many"])
@pytest.mark.parametrize("mode", MODES)
def test_tenants_never_see_each_other(
    corpus: Any, monkeypatch: pytest.MonkeyPatch, mode: Mode, most_exact: int
) -> None:
    database, _ = corpus
    monkeypatch.setattr(retrieval, "MOST_EXACT", most_exact)
    searcher = Searcher(database)
    mine = {row[0] for row in read_chunks(database)}
    theirs = {row[0] for row in read_chunks(database, "other")}
    assert not mine & theirs  # even a text both have is two chunks
    for query in (*QUERIES[:4], "red valve secret"):
        assert {h.chunk_id for h in searcher.search(query, k=50, mode=mode).hits} <= mine
        assert {h.chunk_id for h in searcher.search(query, k=50, mode=mode, tenant="other").hits} <= theirs
    found = [h.uri for h in searcher.search("red valve secret", k=5, mode=mode, tenant="other").hits]
    assert found[0] == "secret"
    assert searcher.search("red valve secret", k=5, mode=mode, tenant="nobody").hits == []


def test_a_tenant_that_came_after_the_searcher_looked_is_not_shown_to_the_first(
    database: Database, settings: Settings
) -> None:
    put_texts(database, {f"doc{n}": f"red valve {n}" for n in range(5)})
    generation = bring_up(database, settings)
    searcher = Searcher(database)
    assert len(searcher.search("red valve", k=5).hits) == 5
    put_texts(database, {f"new{n}": f"red valve {n} {n}" for n in range(40)}, tenant="late")
    refresh_generation(database, settings, generation)
    for mode in MODES:
        hits = searcher.search("red valve", k=5, mode=mode).hits
        assert [h.uri.startswith("doc") for h in hits] == [True] * 5


# deltas and time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_deleted_document_is_gone_before_its_delta_is_applied(
    database: Database, settings: Settings, mode: Mode
) -> None:
    put_texts(database, {"a": "red valve", "b": "red pump", "c": "red boiler"})
    bring_up(database, settings)
    searcher = Searcher(database)
    assert len(searcher.search("red valve", k=3, mode=mode).hits) == 3
    delete_texts(database, "a")
    assert {h.uri for h in searcher.search("red valve", k=3, mode=mode).hits} == {"b", "c"}


@pytest.mark.parametrize("mode", MODES)
def test_a_result_is_full_even_if_almost_everything_was_just_deleted(
    database: Database, settings: Settings, mode: Mode
) -> None:
    texts = {f"doc{n}": f"red valve {n // 400} number {n}" for n in range(1800)}
    put_texts(database, {**texts, "keep": "small cat in a tree, red"})
    bring_up(database, settings)
    delete_texts(database, *texts)
    hits = Searcher(database).search("red valve", k=1, mode=mode).hits
    assert [h.uri for h in hits] == ["keep"]


def test_search_as_of_a_time_sees_what_was_true_then(database: Database, settings: Settings) -> None:
    def now() -> datetime:
        with database.connection() as connection:
            return read_clock(connection)

    put_texts(database, {"a": "red valve", "b": "blue pump"})
    generation = bring_up(database, settings)
    before_change = now()
    put_texts(database, {"a": "small cat"})
    refresh_generation(database, settings, generation)
    before_deletion = now()
    delete_texts(database, "a")
    refresh_generation(database, settings, generation)
    searcher = Searcher(database)

    def texts(moment: datetime | None, mode: Mode = "hybrid") -> set[str]:
        return {h.text for h in searcher.search("red valve small cat", k=5, as_of=moment, mode=mode).hits}

    assert texts(before_change) == {"red valve", "blue pump"}
    assert texts(before_deletion) == {"small cat", "blue pump"}
    assert texts(None) == {"blue pump"}
    assert texts(before_change, "vector") == {"red valve", "blue pump"}
    assert texts(before_change, "lexical") == {"red valve"}, "words that nobody serves now are found in their time"
    assert texts(before_deletion, "lexical") == {"small cat"}
    assert texts(datetime.fromisoformat("2001-01-01T00:00:00+00:00")) == set()


# the pointer -----------------------------------------------------------------------------------------------


def test_nothing_serves_is_said_with_what_to_do(database: Database) -> None:
    with pytest.raises(NothingServesError, match="rag ingest PATH"):
        Searcher(database).search("red")


def test_a_cutover_shows_in_the_next_search_and_a_retired_generation_does_not_break_it(
    database: Database, settings: Settings, other_tiny_model: Path
) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    first = bring_up(database, settings)
    searcher = Searcher(database)
    assert searcher.search("red valve").generation == first.id
    second = _build_other(database, settings, other_tiny_model)
    assert searcher.search("red valve").generation == first.id
    assert searcher.search("red valve", generation=second.id).generation == second.id
    promote(database, second.id, actor="test", reason="test", force=True)
    for mode in MODES:
        result = searcher.search("red valve", mode=mode)
        assert (result.generation, result.model) == (second.id, "other")
    assert searcher.search("red valve", generation=first.id).generation == first.id
    with database.transaction() as connection:
        set_state(connection, first.id, "retired")
        drop_generation_tables(connection, first)
    for mode in MODES:
        assert searcher.search("red valve", mode=mode).generation == second.id
        with pytest.raises(LookupError, match="cannot be searched"):
            searcher.search("red valve", mode=mode, generation=first.id)


def test_a_table_dropped_under_a_searcher_that_still_points_there_is_survived(
    database: Database, settings: Settings, other_tiny_model: Path
) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    first = bring_up(database, settings)
    searchers = {mode: Searcher(database) for mode in MODES}
    for mode, searcher in searchers.items():
        assert searcher.search("red valve", mode=mode).generation == first.id
    second = _build_other(database, settings, other_tiny_model)
    promote(database, second.id, actor="test", reason="test", force=True)
    with database.transaction() as connection:
        set_state(connection, first.id, "retired")
        drop_generation_tables(connection, first)
    for mode, searcher in searchers.items():
        assert searcher.search("red valve", mode=mode).generation == second.id


def test_cutovers_in_the_middle_of_searches_mix_nothing_and_fail_none(
    database: Database, settings: Settings, other_tiny_model: Path
) -> None:
    texts = {f"doc{n}": make_text(random.Random(n), 60) for n in range(120)}
    put_texts(database, texts)
    first = bring_up(database, settings)
    second = _build_other(database, settings, other_tiny_model)
    slugs = {first.id: "tiny", second.id: "other"}
    models = {
        "tiny": load_model(ModelSpec("tiny", settings.model)),
        "other": load_model(ModelSpec("other", f"model2vec:{other_tiny_model}")),
    }
    # the cosine of every query with every chunk, by the chunk's own vector in each generation's table
    cosines = {number: _all_cosines(database, number, models[slug]) for number, slug in slugs.items()}
    searcher, stop = Searcher(database, ef_search=400), threading.Event()
    problems: list[str] = []
    seen: dict[int, int] = {first.id: 0, second.id: 0, 0: 0}

    def search(offset: int) -> None:
        position = offset
        while not stop.is_set():
            position += 1
            query, mode = QUERIES[position % len(QUERIES)], MODES[position % 3]
            try:
                result = searcher.search(query, k=10, mode=mode)
            except Exception as error:
                problems.append(repr(error))
                continue
            seen[result.generation] += 1
            if result.model != slugs[result.generation] or {h.generation for h in result.hits} != {result.generation}:
                problems.append(f"{result.generation} says {result.model}, {[h.generation for h in result.hits]}")
            if mode != "lexical" and result.embedded_by != result.model:
                problems.append(f"{result.model} embedded by {result.embedded_by}")
            for hit in result.hits:
                wanted = cosines[result.generation][query][hit.chunk_id]
                if hit.scores["vector"] is not None and abs(hit.scores["vector"] - wanted) > 2e-3:
                    problems.append(f"{mode}: cosine {hit.scores['vector']} of another generation, not {wanted}")

    threads = [threading.Thread(target=search, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for number in (second.id, first.id) * 12:
        promote(database, number, actor="test", reason="test", force=True)
        time.sleep(0.05)
    promote(database, second.id, actor="test", reason="test", force=True)
    retire_soaked(database, 0)
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
    assert problems == []
    assert min(seen[first.id], seen[second.id]) > 20


def _all_cosines(database: Database, number: int, model: EmbeddingModel) -> dict[str, dict[int, float]]:
    with database.connection() as connection:
        rows = connection.execute(f"select chunk_id, embedding from rag.index_{number}").fetchall()
    vectors = np.stack([row[1].to_numpy() for row in rows]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = {}
    for query, vector in zip(QUERIES, model.embed_queries(QUERIES), strict=True):
        scores = vectors @ (vector / np.linalg.norm(vector))
        found[query] = {row[0]: float(score) for row, score in zip(rows, scores, strict=True)}
    return found


def _build_other(database: Database, settings: Settings, model: Path) -> Generation:
    generation = ensure_generation(database, settings, add_model(database, ModelSpec("other", f"model2vec:{model}")))
    fill_generation(database, settings, generation)
    build_generation(database, settings, generation)
    return generation


# a model that cannot be used -------------------------------------------------------------------------------


def test_a_hybrid_search_answers_by_words_and_says_why_while_the_model_is_away(
    database: Database, settings: Settings, tiny_model: Path
) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    with serve_model(tiny_model) as remote:
        bring_up(database, settings, remote.spec)
        searcher = Searcher(database)
        whole = searcher.search("red valve")
        assert (whole.degraded, whole.embedded_by) == (None, "remote")
        remote.broken = True
        result = searcher.search("red valve")
        assert [h.uri for h in result.hits] == ["a"]
        assert result.hits[0].scores["vector"] is None
        assert result.embedded_by is None
        assert "words alone" in (result.degraded or "")
        assert "out of order" in (result.degraded or "")
        assert searcher.search("red valve", mode="lexical").degraded is None
        with pytest.raises(ModelError, match="out of order"):
            searcher.search("red valve", mode="vector")
    # the server is gone altogether, for a process that starts now too
    assert "cannot be reached" in (Searcher(database).search("red valve").degraded or "")


# relevance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_relevant_only_leaves_out_what_is_below_the_floor_of_the_generation(corpus: Any, mode: Mode) -> None:
    database, generation = corpus
    everything = Searcher(database, ef_search=1000).search(QUERIES[3], k=200, mode=mode).hits
    cosines = sorted((h.scores["vector"] for h in everything if h.scores["vector"] is not None), reverse=True)
    floor = cosines[5] if cosines else 0.5
    assert Searcher(database).search(QUERIES[3], mode=mode, relevant_only=True).hits  # none is fitted yet
    with database.transaction() as connection:
        merge_metrics(connection, generation.id, {"similarity_floor": floor})
    try:
        searcher = Searcher(database, ef_search=1000)
        hits = searcher.search(QUERIES[3], k=200, mode=mode, relevant_only=True).hits
        few = searcher.search(QUERIES[3], k=3, mode=mode, relevant_only=True).hits
        assert len(searcher.search(QUERIES[3], k=200, mode=mode).hits) == len(everything)
    finally:
        with database.transaction() as connection:
            merge_metrics(connection, generation.id, {"similarity_floor": None})
    kept = [h.chunk_id for h in everything if (cosine := h.scores["vector"]) is None or cosine >= floor]
    assert [h.chunk_id for h in hits] == kept
    assert [h.rank for h in hits] == list(range(1, len(kept) + 1))
    assert [h.chunk_id for h in few] == kept[:3]
    assert len(kept) == (6 if mode != "lexical" else len(everything))


def test_a_floor_that_is_fitted_while_a_process_runs_counts_some_seconds_later(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    generation = bring_up(database, settings)
    with database.transaction() as connection:
        merge_metrics(connection, generation.id, {"similarity_floor": None})
    searcher = Searcher(database)
    assert len(searcher.search("red valve", relevant_only=True).hits) == 2
    with database.transaction() as connection:
        merge_metrics(connection, generation.id, {"similarity_floor": 0.9})
    monkeypatch.setattr(retrieval, "TENANTS_KNOWN_SECONDS", 0.0)
    searcher.search("red valve")
    assert [h.uri for h in searcher.search("red valve", relevant_only=True).hits] == ["a"]


def test_an_unknown_generation_is_named(corpus: Any) -> None:
    database, _ = corpus
    with pytest.raises(LookupError, match="Generation 77"):
        Searcher(database).search("red", generation=77)


# the plan --------------------------------------------------------------------------------------------------


def test_the_planner_uses_the_hnsw_index_and_the_posting_index(corpus: Any) -> None:
    database, generation = corpus
    vector = to_parameter(np.full(generation.dimension, 0.1, dtype=np.float32), generation)
    with database.connection() as connection:
        near = connection.execute(
            "explain " + compose_nearest(generation, 10).as_string(connection), {"query": vector}
        ).fetchall()
        words = connection.execute(
            "explain select chunk_id, frequency, length from rag.posting_1 where term_id = 5"
        ).fetchall()
    assert any(generation.index_name in line for (line,) in near), near
    assert any("posting_1_term" in line for (line,) in words), words


def test_odd_queries_are_answered(corpus: Any) -> None:
    database, _ = corpus
    searcher = Searcher(database)
    for query in ("", "   ", "?!", "zzzz qqqq", "%s %(x)s ' \" ; --", "猫 고양이 кошка", QUERIES[0] * 50, "a" * 5000):
        for mode in MODES:
            hits = searcher.search(query, k=5, mode=mode).hits
            assert all(math.isfinite(h.score) for h in hits), (query, mode)
