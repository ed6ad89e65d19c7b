"""The search API: GET /search, POST /ask, GET /health. JSON as `rag search --json` and `rag ask --json` print it."""

import argparse
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import orjson
import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rag_pipeline.database.engine import Database, open_database
from rag_pipeline.embeddings.registry import find_model
from rag_pipeline.errors import ExpectedError, MisuseError
from rag_pipeline.serving.asking import answer_question
from rag_pipeline.serving.query_writer import QueryWriter
from rag_pipeline.serving.scope import parse_filters, parse_time
from rag_pipeline.serving.search import NothingServesError, Searcher, SearchResult
from rag_pipeline.serving.warming import ServingProcess
from rag_pipeline.settings import Settings, load_settings

MODES = ("hybrid", "vector", "lexical")
MOST_HITS = 1000


class BadRequestError(MisuseError, ValueError):
    """A parameter that cannot be used; the message names it."""


def create_app(settings: Settings, database: Database) -> Starlette:
    """The application over an open database; one searcher, and so one loaded model, for all requests.

    While it runs it keeps generations ready that may serve next, and logs a share of what is asked.
    """
    searcher = Searcher(database, ef_search=settings.ef_search)
    process = ServingProcess(database, searcher)
    log = QueryWriter(database, settings.query_log_share)

    @asynccontextmanager
    async def live(_app: Starlette) -> AsyncIterator[None]:
        process.start()
        log.start()
        yield
        await run_in_threadpool(process.close)
        await run_in_threadpool(log.close)

    def find(wanted: dict[str, Any]) -> SearchResult:
        result = searcher.search(**wanted)
        if wanted["as_of"] is None:  # a replay could not ask for another time
            log.offer(result, tenant=wanted["tenant"], k=wanted["k"], where=wanted["where"])
        return result

    def search(parameters: dict[str, Any]) -> Any:
        return find(read_parameters(parameters))

    def ask(parameters: dict[str, Any]) -> Any:
        wanted = read_parameters({"k": 6, **parameters})
        result = find(wanted)
        return answer_question(settings, find_model(database, result.model), wanted["query"], result)

    async def get_search(request: Request) -> Response:
        given: dict[str, Any] = dict(request.query_params)
        given["where"] = request.query_params.getlist("where")
        return await _respond(search, given)

    async def post_ask(request: Request) -> Response:
        try:
            given = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            return _json({"error": f"the body is not JSON: {error}"}, 400)
        if not isinstance(given, dict):
            return _json({"error": 'the body must be an object such as {"q": "…"}'}, 400)
        return await _respond(ask, given)

    async def get_health(_request: Request) -> Response:
        def health(_parameters: dict[str, Any]) -> Any:
            return searcher.search("health", k=1, mode="lexical")

        response = await _respond(health, {})
        return _json({"serves": response.status_code == 200}, response.status_code)

    return Starlette(
        routes=[
            Route("/search", get_search),
            Route("/ask", post_ask, methods=["POST"]),
            Route("/health", get_health),
        ],
        lifespan=live,
    )


def read_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Search arguments from request parameters. Raises `BadRequestError` naming the bad one."""
    query = given.get("q")
    if not isinstance(query, str) or not query.strip():
        raise BadRequestError("q is missing: the query")
    try:
        k = int(given.get("k", 10))
    except (TypeError, ValueError):
        raise BadRequestError(f"k={given['k']!r} is not a number") from None
    if not 1 <= k <= MOST_HITS:
        raise BadRequestError(f"k={k} is not between 1 and {MOST_HITS}")
    mode = given.get("mode", "hybrid")
    if mode not in MODES:
        raise BadRequestError(f"mode={mode!r} is none of {', '.join(MODES)}")
    where = given.get("where") or []
    where = [where] if isinstance(where, str) else where
    if not isinstance(where, list) or not all(isinstance(item, str) for item in where):
        raise BadRequestError(f"where={where!r} is no key=value and no list of them")
    return {
        "query": query,
        "k": k,
        "mode": mode,
        "tenant": str(given.get("tenant", "default")),
        "where": parse_filters(where),
        "as_of": parse_time(given.get("as_of")),
        "relevant_only": _read_switch(given, "relevant_only"),
    }


def _read_switch(given: dict[str, Any], name: str) -> bool:
    text = str(given.get(name, "false")).lower()
    if text not in ("true", "false"):
        raise BadRequestError(f"{name}={given[name]!r} is neither true nor false")
    return text == "true"


async def _respond(work: Callable[[dict[str, Any]], Any], given: dict[str, Any]) -> Response:
    try:
        return _json(asdict(await run_in_threadpool(work, given)), 200)
    except MisuseError as error:
        return _json({"error": str(error)}, 400)
    except NothingServesError as error:
        return _json({"error": str(error)}, 503)
    except (ExpectedError, psycopg.OperationalError) as error:
        return _json({"error": str(error)}, 502)


def _json(value: Any, status: int) -> Response:
    return Response(orjson.dumps(value, default=str), status, media_type="application/json")


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3001)
    arguments = parser.parse_args()
    # queries are short and come at once: on two cores one thread each embeds them a fifth faster than two that wait
    # for each other. torch reads it when it is loaded
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 4)))
    # a model that is got ready later must not stop the searches that run then: loading torch holds Python's lock
    # for most of a second
    import torch  # noqa: F401

    settings = load_settings()
    uvicorn.run(
        create_app(settings, open_database(settings)), host=arguments.host, port=arguments.port, log_level="warning"
    )


if __name__ == "__main__":
    main()
