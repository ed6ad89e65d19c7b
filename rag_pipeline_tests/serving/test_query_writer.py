"""The query log is written beside the searches, in batches, and costs them nothing."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.serving import query_writer
from rag_pipeline.serving.query_writer import QueryWriter, log_search
from rag_pipeline.serving.search import Searcher, SearchResult
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.test_cli import Rag
from rag_pipeline_tests.whole_run import bring_up

ASKED: dict[str, Any] = {"tenant": "default", "k": 2, "where": {"lang": "en"}}


@pytest.fixture
def result(database: Database, settings: Settings) -> SearchResult:
    put_texts(database, {"a": "red valve", "b": "blue pump"}, metadata={"a": {"lang": "en"}, "b": {"lang": "en"}})
    bring_up(database, settings)
    return Searcher(database).search("red valve", k=2, where={"lang": "en"})


def count_logged(database: Database) -> int:
    with database.connection() as connection:
        row = connection.execute("select count(*) from rag.query_log").fetchone()
    assert row is not None
    return int(row[0])


def test_a_search_is_logged_with_all_that_a_replay_needs(database: Database, result: SearchResult) -> None:
    log_search(database, 1.0, result, **ASKED)
    with database.connection() as connection:
        row = connection.execute(
            "select l.tenant, l.query, l.mode, l.k, l.filters, l.generation_id, m.slug, l.chunk_ids, l.similarity,"
            " l.milliseconds > 0, l.degraded from rag.query_log l join rag.embedding_model m on m.id = l.model_id"
        ).fetchone()
    assert row is not None
    assert row[:7] == ("default", "red valve", "hybrid", 2, {"lang": "en"}, result.generation, "tiny")
    assert row[7] == [hit.chunk_id for hit in result.hits]
    assert row[8] == pytest.approx(1.0, abs=0.01)
    assert row[9:] == (True, None)


def test_a_batch_is_written_behind_the_searches_and_what_waits_is_written_at_the_end(
    database: Database, result: SearchResult
) -> None:
    writer = QueryWriter(database, 1.0)
    writer.start()
    began = time.perf_counter()
    for _ in range(450):
        writer.offer(result, **ASKED)
    assert time.perf_counter() - began < 0.25, "a search waits for nothing"
    writer.close()
    assert (writer.written, writer.dropped, count_logged(database)) == (450, 0, 450)


def test_at_share_nought_nothing_starts_and_nothing_is_kept(database: Database, result: SearchResult) -> None:
    before = threading.active_count()
    writer = QueryWriter(database, 0.0)
    writer.start()
    writer.offer(result, **ASKED)
    assert threading.active_count() == before
    writer.close()
    log_search(database, 0.0, result, **ASKED)
    assert count_logged(database) == 0


def test_about_the_share_is_kept(database: Database, result: SearchResult) -> None:
    writer = QueryWriter(database, 0.2)
    writer.start()
    for _ in range(900):
        writer.offer(result, **ASKED)
    writer.close()
    assert 100 < writer.written < 270  # 180, and seven standard deviations


def test_what_does_not_fit_is_dropped_counted_and_told(
    database: Database, result: SearchResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(query_writer, "MOST_WAITING", 10)
    writer = QueryWriter(database, 1.0)
    for _ in range(25):
        writer.offer(result, **ASKED)
    writer.start()
    while writer.written < 10:
        time.sleep(0.02)
    writer.close()
    assert (writer.written, writer.dropped, count_logged(database)) == (10, 15, 10)
    assert "15 searches were not logged" in caplog.text


def test_a_log_that_cannot_be_written_fails_no_search(
    database: Database, result: SearchResult, caplog: pytest.LogCaptureFixture
) -> None:
    with database.connection() as connection:
        connection.execute("alter table rag.query_log rename to query_log_away")
    log_search(database, 1.0, result, **ASKED)
    writer = QueryWriter(database, 1.0)
    writer.start()
    writer.offer(result, **ASKED)
    writer.close()
    assert (writer.written, writer.dropped) == (0, 1)
    assert caplog.text.count("cannot be written") == 2


@pytest.mark.usefixtures("result")
def test_the_command_line_logs_searches_and_no_evaluations(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    assert settings.database_url is not None
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    clean |= {"RAG_DATABASE_URL": settings.database_url.get_secret_value(), "RAG_HOME": str(settings.home)}
    rag = Rag(tmp_path, {**clean, "RAG_QUERY_LOG_SHARE": "1", "PYTHONPATH": str(Path(__file__).parents[2])})
    found = rag.json("search", "red valve", "-k", "1", "--relevant-only")
    assert (found["embedded_by"], found["degraded"]) == ("tiny", None)
    assert count_logged(database) == 1
    rag.run("search", "red valve", "--generation", str(found["generation"]))
    rag.run("search", "red valve", "--as-of", "2030-01-01")
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": "1", "text": "red valve"}))
    (tmp_path / "qrels.tsv").write_text("1\ta\t1")
    rag.run("eval", "--queries", "q.jsonl", "--qrels", "qrels.tsv")
    rag.run("search", "red valve", RAG_QUERY_LOG_SHARE="0")
    assert count_logged(database) == 1
    rag.run("ask", "red valve?", "--no-stream")
    assert count_logged(database) == 2
