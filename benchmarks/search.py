"""Search latency against the bare two-line pgvector query, and filtered search against exact results.

The query's embedding is apart: every query comes with its vector. Ours is `Searcher.search`, hits with their
text and offsets included; the baseline is `set hnsw.ef_search` once and, per query, `select chunk_id ... order
by embedding <=> %s limit 10` on the same table over a plain connection: ids and nothing else. The two take turns
query by query, so both see the same machine. Recall counts a hit as right when it scores no less than the exact
tenth: copies of a passage are as good as each other.

    python -m benchmarks.search --short
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psycopg
from psycopg import sql

from benchmarks import corpora, scratch
from benchmarks.measuring import percentile, spread, spread_ratios
from benchmarks.reporting import Curve, Figure, Goal, Report, run_benchmark
from rag_pipeline.database.engine import Database, driver_url
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.hits import Mode
from rag_pipeline.serving.scope import Scope
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.search_store import list_scope_chunks

K = 10
EF_SEARCH = 40
ROUNDS = 5
CLIENTS = (1, 8)
# what one query is asked with: its text and its vector (dimension,) float32
Query = tuple[str, np.ndarray]
Ask = Callable[[Query], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passages", type=int, help="rows of the corpus (100,000; short: 20,000)")
    parser.add_argument("--queries", type=int, help="different queries (300; short: 100)")
    parser.add_argument("--model", help="a model source; default: a distilled static model of 384 dimensions")
    parser.add_argument("--home", type=Path, help="keep the filled database there and reuse it")


@contextmanager
def open_bare_search(database: Database, generation: Generation) -> Iterator[Ask]:
    """The two lines everybody writes, on a connection of their own."""
    from pgvector import HalfVector
    from pgvector.psycopg import register_vector

    statement = sql.SQL("select chunk_id from rag.{} order by embedding <=> %s limit {}").format(
        sql.Identifier(generation.table_name), sql.Literal(K)
    )
    with psycopg.connect(driver_url(database.url), autocommit=True) as connection:
        register_vector(connection)
        connection.execute("set jit = off")
        connection.execute(sql.SQL("set hnsw.ef_search = {}").format(sql.Literal(EF_SEARCH)))
        yield lambda query: connection.execute(statement, (HalfVector(query[1]),)).fetchall()


def time_queries(
    searches: Sequence[Callable[[], AbstractContextManager[Ask]]],
    queries: Sequence[Query],
    clients: int,
    rounds: int,
) -> list[list[list[float]]]:
    """Milliseconds by search, round and query. `searches` are opened once per client.

    A lone client takes the searches in turn at every query, so that both see the same machine; many clients
    take them in turn round by round, so that none of them queues behind another search.
    """
    times: list[list[list[float]]] = [[[] for _ in range(rounds)] for _ in searches]
    barrier = threading.Barrier(clients)

    def time_one(which: int, number: int, ask: Ask, query: Query) -> None:
        began = time.perf_counter()
        ask(query)
        times[which][number].append((time.perf_counter() - began) * 1000)

    def work(client: int) -> None:
        shift = client * len(queries) // clients
        # together the clients ask about as many queries as one alone, in overlapping parts
        mine = [*queries[shift:], *queries[:shift]][: max(20, len(queries) // clients)]
        with ExitStack() as stack:
            asks = [stack.enter_context(search()) for search in searches]
            for query in mine[:20]:
                for ask in asks:
                    ask(query)
            for number in range(rounds):
                order = list(enumerate(asks))[:: 1 if number % 2 == 0 else -1]
                if clients == 1:
                    for position in range(len(mine)):
                        for which, ask in order:
                            # never the same query twice in a row: the second would find its pages in the caches
                            query = mine[(position + which * len(mine) // len(asks)) % len(mine)]
                            time_one(which, number, ask, query)
                    continue
                for which, ask in order:
                    barrier.wait(timeout=300)
                    for query in mine:
                        time_one(which, number, ask, query)

    def abort_with(client: int) -> None:
        try:
            work(client)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(clients) as pool:
        errors = [future.exception() for future in [pool.submit(abort_with, client) for client in range(clients)]]
    if any(errors):
        raise next(e for e in sorted(filter(None, errors), key=lambda e: isinstance(e, threading.BrokenBarrierError)))
    return times


@contextmanager
def share(ask: Ask) -> Iterator[Ask]:
    """A search that all clients share, as a process that serves shares its Searcher."""
    yield ask


def measure_vector(
    database: Database, generation: Generation, searcher: Searcher, queries: Sequence[Query]
) -> list[Figure]:
    def ours(query: Query) -> object:
        return searcher.search(query[0], k=K, mode="vector", vector=query[1])

    figures = []
    for clients in CLIENTS:
        searches = [lambda: share(ours), lambda: open_bare_search(database, generation)]
        mine, bare = time_queries(searches, queries, clients, ROUNDS)
        for rank in (50, 95):
            left = [percentile(one, rank) for one in mine]
            right = [percentile(one, rank) for one in bare]
            figures.append(
                Figure(
                    f"vector p{rank}, {clients} client{'s' if clients > 1 else ''}",
                    spread(left),
                    "ms",
                    spread(right),
                    spread_ratios(left, right),
                    Goal(1.5),
                )
            )
    return figures


def measure_modes(searcher: Searcher, queries: Sequence[Query]) -> list[Figure]:
    figures = []
    for mode, goal in (("lexical", None), ("hybrid", Goal(60, of="ours"))):

        def ask(query: Query, mode: Mode = mode) -> object:  # type: ignore[assignment]
            return searcher.search(query[0], k=K, mode=mode, vector=query[1])

        for clients in CLIENTS:
            [times] = time_queries([lambda ask=ask: share(ask)], queries, clients, ROUNDS)  # type: ignore[misc]
            for rank in (50, 95):
                judged = goal if rank == 95 and clients == 1 else None
                label = f"{mode} p{rank}, {clients} client{'s' if clients > 1 else ''}"
                figures.append(Figure(label, spread([percentile(one, rank) for one in times]), "ms", goal=judged))
    return figures


class ExactSearch:
    """The generation's vectors in memory, compared one by one: what recall is measured against."""

    def __init__(self, database: Database, generation: Generation) -> None:
        self.database, self.generation = database, generation
        with database.connection() as connection:
            rows = connection.execute(
                sql.SQL("select chunk_id, embedding from rag.{} order by chunk_id").format(
                    sql.Identifier(generation.table_name)
                )
            ).fetchall()
        self.ids = np.asarray([row[0] for row in rows])
        vectors = np.stack([row[1].to_numpy() for row in rows]).astype(np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def mark_scope(self, where: dict[str, str]) -> np.ndarray:
        """Which rows a filter lets pass, as (rows,) of bool."""
        with self.database.connection() as connection:
            chunks = list_scope_chunks(connection, self.generation, Scope(where=where), None)
        return np.isin(self.ids, chunks)

    def score_of_last(self, query: np.ndarray, passing: np.ndarray) -> float:
        """The cosine of the exact K-th among the rows that pass, or of the last where there are fewer."""
        half = query.astype(np.float16).astype(np.float32)
        scores = self.vectors[passing] @ (half / np.linalg.norm(half))
        return float(np.sort(scores)[-min(K, len(scores))])


def measure_filtered(
    database: Database, generation: Generation, searcher: Searcher, queries: Sequence[Query], seed: int
) -> tuple[list[Figure], Curve]:
    exact = ExactSearch(database, generation)
    source = np.random.default_rng(seed)
    figures: list[Figure] = []
    points: list[tuple[float, float]] = []
    for key, share_of_rows in {"": 1.0, **corpora.SELECTIVITIES}.items():
        values = source.permutation(round(1 / share_of_rows))[:10].tolist()
        scopes = [(where, exact.mark_scope(where)) for where in ({key: str(v)} if key else {} for v in values)]
        scopes = [(where, passing) for where, passing in scopes if passing.any()]
        rounds: list[list[float]] = []
        full: list[bool] = []
        recalls: list[float] = []
        for number in range(ROUNDS):
            times = []
            for position, query in enumerate(queries):
                where, passing = scopes[position % len(scopes)]
                began = time.perf_counter()
                hits = searcher.search(query[0], k=K, mode="vector", vector=query[1], where=where).hits
                times.append((time.perf_counter() - began) * 1000)
                if number == 0:
                    floor = exact.score_of_last(query[1], passing) - 1e-4
                    wanted = min(K, int(passing.sum()))
                    full.append(len(hits) >= wanted)
                    recalls.append(sum(hit.score >= floor for hit in hits[:wanted]) / wanted)
            rounds.append(times)
        p95 = [percentile(times, 95) for times in rounds]
        label = f"filter {share_of_rows * 100:g} %" if key else "no filter"
        points.append((share_of_rows * 100, float(np.median(p95))))
        if key:
            figures.append(Figure(f"{label}: full LIMIT", spread(100 * float(np.mean(full))), "% of queries",
                                  goal=Goal(100, "at least", "ours")))  # fmt: skip
        figures.append(
            Figure(
                f"{label}: recall@{K}",
                spread(float(np.mean(recalls))),
                goal=Goal(0.97, "at least", "ours") if key else None,
            )
        )
        figures.append(Figure(f"{label}: p50", spread([percentile(times, 50) for times in rounds]), "ms"))
        figures.append(Figure(f"{label}: p95", spread(p95), "ms", goal=Goal(50, of="ours") if key else None))
    curve = Curve("Filtered vector search", "rows that pass, %", "p95, ms", {"ours": sorted(points)}, logarithmic=True)
    return figures, curve


def measure(options: argparse.Namespace) -> Report:
    passages = options.passages or (20_000 if options.short else 100_000)
    report = Report("search")
    rows, texts, origin = corpora.read_passages(passages, options.seed)
    texts = texts[: options.queries or (100 if options.short else 300)]
    model = options.model or corpora.find_static_model()
    with scratch.open_scratch(options.home, model=model, model_slug="bench") as (settings, database):
        path = corpora.write_rows(settings.home / "corpus.jsonl", corpora.add_shards(rows, options.seed))
        scratch.ingest_file(database, settings, path)
        generation = scratch.serve_everything(database, settings)
        with database.connection() as connection:
            chunks = connection.execute(
                sql.SQL("select count(*) from rag.{}").format(sql.Identifier(generation.table_name))
            ).fetchone()
        searcher = Searcher(database, ef_search=EF_SEARCH)
        queries = list(zip(texts, searcher.embed_queries(texts), strict=True))
        report.figures += measure_vector(database, generation, searcher, queries)
        report.figures += measure_modes(searcher, queries)
        filtered, curve = measure_filtered(database, generation, searcher, queries[:100], options.seed)
        report.figures += filtered
        report.curves.append(curve)
        report.facts = {
            **scratch.read_server_version(database),
            "corpus": origin,
            "passages": len(rows),
            "chunks": chunks[0] if chunks else 0,
            "dimension": generation.dimension,
            "queries": f"{len(queries)} x {ROUNDS} rounds",
        }
    report.notes = [
        "clients are threads of one process with one connection each, for both sides",
        f"k = {K}, ef_search = {EF_SEARCH}; filters are metadata equalities, ten values per key",
    ]
    return report


if __name__ == "__main__":
    sys.exit(run_benchmark("search", __doc__, add_arguments, measure))
