"""`rag doctor`: is everything that is served true?"""

from collections.abc import Sequence
from dataclasses import dataclass

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.store import list_models
from rag_pipeline.index import store
from rag_pipeline.index.building import build_generation, refresh_generation
from rag_pipeline.index.reconciliation import find_discrepancies, repair
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.alert_store import RaisedAlert, list_undelivered
from rag_pipeline.serving.recall import judge_recall
from rag_pipeline.serving.recall_store import read_latest_recall
from rag_pipeline.serving.recall_watch import WATCHED
from rag_pipeline.serving.store import read_serving
from rag_pipeline.settings import Settings

CARED_FOR = ("ready", "serving", "soaking")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    good: bool
    detail: str


def diagnose(database: Database, settings: Settings) -> list[Finding]:
    """Look at the server, the pointer, and every generation that may serve."""
    findings = []
    with database.connection() as connection:
        version = connection.info.server_version
        row = connection.execute("select extversion from pg_extension where extname = 'vector'").fetchone()
        where = "embedded" if settings.database_url is None else "RAG_DATABASE_URL"
        findings.append(
            Finding("server", row is not None, f"PostgreSQL {version // 10_000}, pgvector {row and row[0]} ({where})")
        )
        serving = read_serving(connection)
        generations = store.list_generations(connection, CARED_FOR)
        pending = store.count_pending(connection)
        drifted = [model for model in list_models(connection) if model.drift]
        untold = list_undelivered(connection)
    findings += [Finding(f"model {m.slug}", False, str(m.drift)) for m in drifted]
    findings += [describe_untold(untold, settings.alert_channel)] if untold else []
    detail = f"generation {serving.generation_id}" if serving else "nothing serves yet: rag ingest PATH"
    findings.append(Finding("serving", serving is not None, detail))
    for generation in generations:
        name = f"generation {generation.id} ({generation.model}, {generation.state})"
        found = find_discrepancies(database, generation)
        findings.append(Finding(name, found.clean, found.describe()))
        if generation.state in WATCHED:
            findings.append(find_recall(database, settings, generation))
        queue = pending.get(generation.id)
        if queue is not None:
            detail = f"{queue.documents} documents wait since {queue.oldest:%Y-%m-%d %H:%M:%S}"
            findings.append(Finding(f"{name} queue", False, detail))
    return findings


def describe_untold(alerts: Sequence[RaisedAlert], channel: str) -> Finding:
    """Alerts that were not delivered: how many, the last one, and why."""
    last = alerts[-1]
    why = next((f": {a.failure}" for a in reversed(alerts) if a.failure), "; `rag up` delivers them")
    detail = f"{len(alerts)} not delivered by {channel}{why}. The last: {last.kind} {last.subject}: {last.message}"
    return Finding("alerts", False, detail)


def find_recall(database: Database, settings: Settings, generation: Generation) -> Finding:
    """The last measurement of the recall watch; bad where it is below the target by more than noise."""
    name = f"generation {generation.id} ({generation.model}, {generation.state}) recall"
    with database.connection() as connection:
        latest = read_latest_recall(connection, generation.id)
    if not latest:
        return Finding(name, True, "not measured yet: rag recall --measure, or the daily job watch_recall")
    state = judge_recall([m.figure for m in latest], settings.recall_target)
    return Finding(name, state.holds, f"{state.reason} (measured {latest[0].measured_at:%Y-%m-%d %H:%M})")


def mend(database: Database, settings: Settings) -> None:
    """Repair every generation that may serve: rows, words, queue and index."""
    with database.connection() as connection:
        generations = store.list_generations(connection, CARED_FOR)
    for generation in generations:
        repair(database, generation)
        refresh_generation(database, settings, generation)
        build_generation(database, settings, generation)
