"""The search API over the wire: a real server on a free port, asked with a real client."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import uvicorn

from rag_pipeline.database.engine import Database
from rag_pipeline.serving.api import create_app
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
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
