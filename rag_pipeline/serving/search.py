"""Searching what serves: one generation from beginning to end, whatever happens to the pointer meanwhile."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import psycopg

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelError
from rag_pipeline.embeddings.registry import forget_model
from rag_pipeline.embeddings.store import read_model_by_id
from rag_pipeline.errors import ExpectedError, MissingError
from rag_pipeline.index.store import ACTIVE_STATES, list_generations, read_generation
from rag_pipeline.serving import search_store
from rag_pipeline.serving.hits import Hit, Mode
from rag_pipeline.serving.query_model import QueryModel
from rag_pipeline.serving.retrieval import OpenGeneration, Retrieval
from rag_pipeline.serving.scope import Scope

MOST_ATTEMPTS = 20


class NothingServesError(ExpectedError):
    """No generation serves yet; the message says what to do."""


class _MovedError(Exception):
    """The generation that served when a search began does so no more."""


@dataclass(frozen=True)
class SearchResult:
    """Hits with where they came from; `milliseconds` has embed, and retrieve for the rest.

    `model` is the generation's; `embedded_by` the one that embedded this query, None where words alone answered or
    the caller brought the vector. `degraded` says why words alone answered what asked for vectors too.
    """

    query: str
    mode: Mode
    generation: int
    model: str
    hits: list[Hit]
    milliseconds: dict[str, float] = field(default_factory=dict)
    embedded_by: str | None = None
    degraded: str | None = None


@dataclass(frozen=True)
class _Embedded:
    """A query's vector (dimension,), or None and perhaps why; `by` names the model that made it."""

    vector: np.ndarray | None = None
    by: str | None = None
    failure: str | None = None


class Searcher:
    """Answers searches from the generation that serves, or from a given one. Safe to share between threads.

    What belongs to a generation (its model, its statistics) is kept and dropped with it; every search checks
    the pointer, so that a cutover shows in the very next one.
    """

    def __init__(self, database: Database, *, ef_search: int = 40) -> None:
        self.database, self.ef_search = database, ef_search
        self._opened: dict[int, OpenGeneration] = {}
        self._pointer: int | None = None

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        tenant: str = "default",
        where: Mapping[str, str] | None = None,
        as_of: datetime | None = None,
        generation: int | None = None,
        vector: np.ndarray | None = None,
        relevant_only: bool = False,
    ) -> SearchResult:
        """The best k hits. `vector` (dimension,) saves embedding the query where the caller has it.

        `relevant_only` leaves out hits whose cosine is below the generation's similarity floor, where one was fitted;
        hits by words without a cosine stay. Index, hits and model are always those of `generation` in the result,
        which served when the search ended. Where its model cannot be used now, a hybrid search answers by words alone
        and says so in `degraded`; a vector search raises `ModelError`.
        Raises `NothingServesError` before the first generation serves, `MissingError` for an unknown one.
        """
        scope = Scope(tenant, dict(where or {}), as_of)
        for _attempt in range(MOST_ATTEMPTS):
            try:
                opened = self._open_generation(generation)
                began = time.perf_counter()
                embedded = _embed(opened.model, mode, query, vector)
                embed_ms = (time.perf_counter() - began) * 1000
                began = time.perf_counter()
                hits = self._search(opened, scope, k, mode, query, embedded.vector, relevant_only, generation)
            except _MovedError:
                self._pointer = None
                continue
            return SearchResult(
                query,
                mode,
                opened.generation.id,
                opened.generation.model,
                hits,
                {"embed": embed_ms, "retrieve": (time.perf_counter() - began) * 1000},
                embedded.by,
                embedded.failure,
            )
        raise NothingServesError(f"The serving pointer moved {MOST_ATTEMPTS} times during one search; try again")

    def _search(
        self,
        opened: OpenGeneration,
        scope: Scope,
        k: int,
        mode: Mode,
        query: str,
        vector: np.ndarray | None,
        relevant_only: bool,
        wanted: int | None,
    ) -> list[Hit]:
        """Hits of one generation. Raises `_MovedError` where it is not (or no more) the one to search.

        A generation that serves is never retired, and one that was retired never serves again: if it serves at the
        end, everything in between was whole. Where the caller wants a certain one, its state says so.
        """
        number = opened.generation.id
        try:
            with self.database.connection() as connection:
                search = Retrieval(connection, opened, scope, k, opened.similarity_floor if relevant_only else None)
                pointer, hits = search.run(mode, query, vector)
                whole = pointer == number if wanted is None else search_store.can_be_searched(connection, number)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InternalError_):
            if self._is_active(number):
                raise
            whole = False  # retired and dropped between two statements, or while one was planned
        if not whole:
            raise _MovedError
        return hits

    def _is_active(self, number: int) -> bool:
        with self.database.connection() as connection:
            return search_store.can_be_searched(connection, number)

    def embed_queries(self, queries: Sequence[str], generation: int | None = None) -> np.ndarray:
        """(n, dimension) float32 by the model of the generation that serves, or of the given one."""
        return self._open_generation(generation).model.embed(list(queries))

    def make_ready(self, generation: int) -> None:
        """Open a generation, and load and check its model, before a search needs it.

        Called again, it checks what is due and tries again what failed. Raises `ModelError`, `MissingError`.
        """
        self._open_generation(generation).model.check()

    def keep_only(self, generations: Collection[int]) -> None:
        """Let go of all other generations, and of the models that only they use."""
        for number in list(self._opened):
            if number in generations or (dropped := self._opened.pop(number, None)) is None:
                continue
            spec = dropped.model.record.spec
            if all(opened.model.record.spec != spec for opened in list(self._opened.values())):
                forget_model(spec)

    def _open_generation(self, generation: int | None) -> OpenGeneration:
        if generation is None and (opened := self._opened.get(self._pointer or 0)) is not None:
            return opened
        with self.database.connection() as connection:
            if generation is not None:
                return self._open(connection, generation)
            number = search_store.read_pointer(connection)
            if number is None:
                raise NothingServesError(
                    "Nothing serves yet: no generation was promoted. Run `rag ingest PATH` first, or see `rag status`."
                )
            self.keep_only({g.id for g in list_generations(connection, ACTIVE_STATES)})
            try:
                opened = self._open(connection, number)
            except MissingError:  # replaced and retired since the line before
                raise _MovedError from None
        self._pointer = number
        return opened

    def _open(self, connection: psycopg.Connection, number: int) -> OpenGeneration:
        generation = read_generation(connection, number)
        if generation is None or generation.state in ("retired", "failed"):
            self.keep_only({kept for kept in list(self._opened) if kept != number})
            raise MissingError(f"Generation {number} cannot be searched: see `rag status` for those that can")
        if (opened := self._opened.get(number)) is None:
            record = read_model_by_id(connection, generation.model_id)
            opened = self._opened.setdefault(number, OpenGeneration(generation, record, self.ef_search))
        return opened


def _embed(model: QueryModel, mode: Mode, query: str, vector: np.ndarray | None) -> _Embedded:
    if mode == "lexical":
        return _Embedded()
    by = None
    if vector is None:
        try:
            vector = model.embed([query])[0]
        except ModelError as error:
            if mode == "vector":
                raise
            return _Embedded(failure=f"words alone answered: {error}")
        by = model.record.slug
    # no word the model knows: it has no direction, and nothing is near it
    return _Embedded(vector, by) if np.any(vector) else _Embedded()
