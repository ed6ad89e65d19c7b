"""Moving the pointer: one transaction, with the gate's conditions re-read inside it."""

import logging

from rag_pipeline.database.engine import Database
from rag_pipeline.index.applying import RetiredGenerationError, apply_changes
from rag_pipeline.index.store import Generation, read_generation
from rag_pipeline.serving import store
from rag_pipeline.serving.store import Promotable
from rag_pipeline.serving.warming import wait_until_warm

LOG = logging.getLogger(__name__)


class GateRefusedError(Exception):
    """The gate does not let the generation serve; the message says which condition fails and what to do."""


def explain_refusal(generation_id: int, gate: Promotable | None, *, force: bool) -> str | None:
    """Why a generation may not serve, or None if it may. `force` overrides the verdict and nothing else. Pure."""
    if gate is None:
        return f"There is no generation {generation_id}"
    if not gate.state_allows:
        return f"Generation {generation_id} is not ready; build it first: rag model swap"
    if not gate.index_valid:
        return f"Generation {generation_id} has no valid HNSW index; rebuild it: rag doctor --repair"
    if force:
        return None
    if gate.evaluation_id is None:
        return f"Generation {generation_id} was not compared with what serves now; run: rag model swap, or --force"
    if not gate.verdict_allows:
        return f"The verdict on generation {generation_id} is {gate.verdict}: {gate.reason}. --force overrides it"
    return None


def promote(
    database: Database, generation_id: int, *, actor: str, reason: str, force: bool = False, warm_seconds: float = 0
) -> list[str]:
    """Let a generation serve. Raises `GateRefusedError`; a refused promotion changes nothing.

    Serving already is no error. Serving processes get up to `warm_seconds` to get it ready; those that were not in
    time are returned, and go on to serve it all the same: the first searches there are slower. Its queue is applied
    last, so that what serves is up to date.
    """
    with database.connection() as connection:
        serving = store.read_serving(connection)
        gate = store.read_promotable(connection, generation_id)
    serves = serving is not None and serving.generation_id == generation_id
    if not serves and (refusal := explain_refusal(generation_id, gate, force=force)):
        raise GateRefusedError(refusal)  # before anyone is waited for
    cold = _wait_until_warm(database, generation_id, warm_seconds)
    _catch_up(database, generation_id)
    with database.transaction() as connection:
        store.lock_pointer(connection)
        serving = store.read_serving(connection)
        if serving is not None and serving.generation_id == generation_id:
            return cold
        gate = store.read_promotable(connection, generation_id)
        if refusal := explain_refusal(generation_id, gate, force=force):
            raise GateRefusedError(refusal)
        store.move_pointer(
            connection,
            "promote",
            generation_id,
            serving.generation_id if serving else None,
            gate.evaluation_id if gate else None,
            force and not (gate is not None and gate.verdict_allows),
            actor,
            reason,
        )
    return cold


def rollback(database: Database, *, actor: str, reason: str, warm_seconds: float = 0) -> int:
    """Let the previous generation serve again, with all that was written since; returns its number.

    Serving processes keep what soaks ready; those that do not have it get `warm_seconds`, and are then named in the
    log. Raises `GateRefusedError` if there is none, or it was retired meanwhile.
    """
    with database.connection() as connection:
        serving = store.read_serving(connection)
    if serving is None or serving.previous_id is None:
        raise GateRefusedError("There is nothing to roll back to: no generation served before this one")
    previous = serving.previous_id
    _refuse_retired(database, previous)
    _wait_until_warm(database, previous, warm_seconds)
    try:
        _catch_up(database, previous)
    except RetiredGenerationError:
        _refuse_retired(database, previous)
    with database.transaction() as connection:
        store.lock_pointer(connection)
        now = store.read_serving(connection)
        if now is None or now.previous_id != previous:
            raise GateRefusedError("The pointer was moved meanwhile; look at `rag status` and try again")
        if refusal := explain_refusal(previous, store.read_promotable(connection, previous), force=True):
            raise GateRefusedError(f"Cannot roll back: {refusal}")
        store.move_pointer(connection, "rollback", previous, now.generation_id, None, False, actor, reason)
    return previous


def _wait_until_warm(database: Database, generation_id: int, seconds: float) -> list[str]:
    cold = wait_until_warm(database, generation_id, seconds)
    if cold:
        LOG.warning("Generation %d is not ready in %s after %.0f s", generation_id, ", ".join(cold), seconds)
    return cold


def _refuse_retired(database: Database, generation_id: int) -> None:
    with database.connection() as connection:
        generation = read_generation(connection, generation_id)
    if generation is not None and generation.state in ("retired", "failed"):
        raise GateRefusedError(
            f"Cannot roll back: generation {generation_id} ({generation.model}) is {generation.state} and its index "
            f"was dropped. Its vectors are in the ledger: rag model swap {generation.model} builds it again."
        )


def _catch_up(database: Database, generation_id: int) -> None:
    with database.connection() as connection:
        generation: Generation | None = read_generation(connection, generation_id)
    if generation is not None and generation.state in ("ready", "soaking"):
        apply_changes(database, generation)
