"""Retirement: a generation that serves no more gives back its disk. Each step resumes; the ledger is kept."""

import time
from dataclasses import dataclass

import psycopg

from rag_pipeline.database.engine import Database
from rag_pipeline.errors import MissingError
from rag_pipeline.index import lexical_store
from rag_pipeline.index import store as index
from rag_pipeline.index.store import Generation
from rag_pipeline.serving import store
from rag_pipeline.serving.promotion import GateRefusedError

# Dropping a partition locks its parent, which every search reads: give way soon and try again.
LOCK_MILLISECONDS = 500
LONGEST_SECONDS = 120.0


@dataclass(frozen=True)
class Retired:
    """A generation that was dropped. `words`: chunks whose words no other generation needed."""

    generation: int
    model: str
    was: str
    words: int


def retire_generation(database: Database, number: int, *, only_soaking: bool = False) -> Retired | None:
    """Drop a generation's tables and keep its ledger; the row stays as history, with state 'retired'.

    None where there is nothing left to do, or where `only_soaking` holds and it soaks no more (rolled back to
    meanwhile). Raises `GateRefusedError` for the one that serves, `MissingError` for an unknown one.
    """
    with database.transaction() as connection:
        store.lock_pointer(connection)  # no promotion and no rollback to it meanwhile
        generation = index.read_generation(connection, number)
        if generation is None:
            raise MissingError(f"There is no generation {number}; see `rag status`")
        was = index.lock_generation(connection, number)
        if was == "serving":
            raise GateRefusedError(f"Generation {number} ({generation.model}) serves; promote another one first")
        if was == "retired" and number not in index.list_undropped(connection):
            return None
        if only_soaking and was not in ("soaking", "retired"):
            return None
        index.set_state(connection, number, "retired")
        index.forget_served(connection, number)
    with database.transaction() as connection:
        words = lexical_store.forget_orphaned_words(connection, generation.chunker_id)
    _drop_tables(database, generation)
    return Retired(number, generation.model, was, words)


def _drop_tables(database: Database, generation: Generation) -> None:
    give_up = time.monotonic() + LONGEST_SECONDS
    while True:
        try:
            with database.transaction() as connection:
                index.limit_lock_wait(connection, LOCK_MILLISECONDS)
                index.drop_generation_tables(connection, generation)
            return
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > give_up:
                raise GateRefusedError(
                    f"Generation {generation.id} is retired, but its tables are in use (an index build?) and were not "
                    f"dropped; try again: rag model retire --generation {generation.id}"
                ) from None
            time.sleep(1.0)


def retire_soaked(database: Database, soak_hours: float) -> list[Retired]:
    """Retire what was replaced at least `soak_hours` ago, and finish retirements that were cut short."""
    with database.connection() as connection:
        numbers = sorted({*index.list_soaked(connection, soak_hours), *index.list_undropped(connection)})
    found = [retire_generation(database, number, only_soaking=True) for number in numbers]
    return [retired for retired in found if retired is not None]


def retire_model(database: Database, slug: str) -> list[Retired]:
    """Retire every generation of a model but the one that serves. Raises `GateRefusedError` if that is all."""
    with database.connection() as connection:
        own = [g for g in index.list_generations(connection, (*index.ACTIVE_STATES, "failed")) if g.model == slug]
        undropped = set(index.list_undropped(connection))
        own += [g for g in index.list_generations(connection, ["retired"]) if g.model == slug and g.id in undropped]
    if own and all(g.state == "serving" for g in own):
        raise GateRefusedError(f"The only generation of {slug} serves; promote another one first")
    found = [retire_generation(database, g.id) for g in own if g.state != "serving"]
    return [retired for retired in found if retired is not None]
