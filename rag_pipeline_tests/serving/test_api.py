"""The search API over the wire: a real server on a free port, asked with a real client."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from rag_pipeline.database.engine import Database
from rag_pipeline.serving.api import create_app
from rag_pipeline.serving.query_model import RETRY_SECONDS
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.serving.api_process import run_api, wait_until
from rag_pipeline_tests.serving.remote_model import serve_model
from rag_pipeline_tests.whole_run import bring_up


@pytest.fixture
def client(database: Database, settings: Settings) -> Iterator[httpx2.Client]:
    server = uvicorn.Server(uvicorn.Config(create_app(settings, database), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    server.should_exit = True
    thread.join()


@pytest.fixture
def filled(database: Database, settings: Settings) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    bring_up(database, settings)


@pytest.mark.usefixtures("filled")
def test_a_search_answers_with_hits_and_their_provenance(client: httpx2.Client) -> None:
    found = client.get("/search", params={"q": "red valve", "k": 1}).json()
    assert [hit["uri"] for hit in found["hits"]] == ["a"]
    assert {"document_id", "version", "start", "end", "generation", "scores"} <= found["hits"][0].keys()
    assert client.get("/health").json() == {"serves": True}


@pytest.mark.usefixtures("filled")
def test_a_question_is_answered_by_quoting_where_no_model_is_configured(client: httpx2.Client) -> None:
    answer = client.post("/ask", json={"q": "red valve"}).json()
    assert answer["kind"] == "extractive"
    assert "red valve" in answer["text"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "q is missing"),
    ({"q": "x", "k": "many"}, "not a number"),
    ({"q": "x", "k": 0}, "not between"),
    ({"q": "x", "mode": "magic"}, "none of"),
    ({"q": "x", "as_of": "yesterday"}, "not a time"),
    ({"q": "x", "where": "region"}, "not a filter"),
    ({"q": "x", "where": 3}, "no key=value"),
    ({"q": "x", "relevant_only": "maybe"}, "neither true nor false"),
]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(("body", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_request_is_told_what_is_wrong_with_it(client: httpx2.Client, body: dict[str, Any], said: str) -> None:
    response = client.post("/ask", json=body)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_nothing_serving_is_unavailable_and_says_what_to_do(client: httpx2.Client) -> None:
    response = client.get("/search", params={"q": "x"})
    assert response.status_code == 503
    assert "rag ingest" in response.json()["error"]
    assert client.get("/health").status_code == 503


def test_a_model_that_is_away_degrades_a_hybrid_search_and_fails_a_vector_search(
    database: Database, settings: Settings, tiny_model: Path
) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    with serve_model(tiny_model) as remote:
        bring_up(database, settings, remote.spec)
        with run_api(settings, RAG_QUERY_LOG_SHARE="1") as api:
            whole = api.search("red valve")
            assert (whole["degraded"], whole["embedded_by"]) == (None, "remote")
            remote.broken = True
            wait_until(lambda: api.search("red valve")["degraded"] is not None)
            answer = api.search("red valve")
            assert ([h["uri"] for h in answer["hits"]], answer["embedded_by"]) == (["a"], None)
            assert "out of order" in answer["degraded"]
            refused = api.client.get("/search", params={"q": "red valve", "mode": "vector"})
            assert (refused.status_code, "out of order" in refused.json()["error"]) == (502, True)
            quoted = api.client.post("/ask", json={"q": "red valve"})
            assert quoted.status_code == 200
            assert "red valve" in quoted.json()["text"]
            remote.broken = False
            wait_until(lambda: api.search("red valve")["degraded"] is None, 2 * RETRY_SECONDS)
    with database.connection() as connection:
        rows = connection.execute(
            "select count(*) filter (where model_id is null), count(*) filter (where model_id is not null),"
            " count(*) filter (where degraded like '%out of order%') from rag.query_log"
        ).fetchone()
    assert rows is not None
    assert rows[0] == rows[2] > 0
    assert rows[1] >= 2


@pytest.mark.usefixtures("filled")
def test_only_relevant_hits_are_returned_where_that_is_asked_for(client: httpx2.Client, database: Database) -> None:
    with database.connection() as connection:
        connection.execute("""update rag.generation set metrics = metrics || '{"similarity_floor": 0.9}'""")

    def find(**more: str) -> list[str]:
        return [hit["uri"] for hit in client.get("/search", params={"q": "red valve", **more}).json()["hits"]]

    wait_until(lambda: find(relevant_only="true") == ["a"])  # what is fitted is read every few seconds
    assert find(relevant_only="false") == find() == ["a", "b"]
