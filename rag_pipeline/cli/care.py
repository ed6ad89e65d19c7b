"""Commands that look after it all: status, doctor, recall, settings, golden, up."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from rag_pipeline.cli.models import MODEL_COLUMNS
from rag_pipeline.cli.shell import (
    connect,
    json_option,
    print_json,
    print_records,
    print_table,
    say,
    show_progress,
    tenant_option,
)

GENERATION_COLUMNS = (
    *("id", "model", "state", "rows", "chunks", "missing"),
    *("index_valid", "index_bytes", "pending_documents"),
)
RECALL_COLUMNS = (
    "measured_at",
    "generation",
    "scope",
    "subject",
    "ef_search",
    "queries",
    "recall@10",
    "95 % bounds",
    "p95",
)
SHOWN = 40


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Every stage at a glance: documents, models, generations, what serves, what failed."""
    from rag_pipeline.serving.status import read_status

    with connect() as (_, database):
        found = read_status(database)
    if as_json:
        print_json(asdict(found))
        return
    live, deleted = found.documents["live"], found.documents["deleted"]
    click.echo(f"{live:,} documents ({deleted:,} deleted), {found.versions:,} versions, {found.chunks:,} chunks")
    tables: list[tuple[str, Sequence[str], list[dict[str, Any]]]] = [
        ("Models", MODEL_COLUMNS, found.models),
        ("Generations", GENERATION_COLUMNS, found.generations),
        ("Not read (tried again when they change)", ("uri", "code", "reason"), found.failures),
        ("Not embedded", ("model", "chunk_id", "reason"), found.embedding_failures),
        ("Alerts", ("raised_at", "kind", "subject", "message", "failure"), found.alerts),
    ]
    for title, columns, records in tables:
        if records:
            print_records(title, columns, records)
    if found.serving is None:
        say("Nothing serves yet. Start with: rag ingest PATH")


@click.command()
@click.option("--repair", "repairing", is_flag=True, help="Mend what is found.")
@json_option
def doctor(repairing: bool, as_json: bool) -> None:
    """Compare documents, ledger and index whole; exit 1 if anything is not true."""
    from rag_pipeline.serving.diagnosis import diagnose, mend

    with connect() as (settings, database):
        findings = diagnose(database, settings)
        if repairing and any(not f.good for f in findings):
            mend(database, settings)
            findings = diagnose(database, settings)
    if as_json:
        print_json([asdict(f) for f in findings])
    else:
        for finding in findings:
            click.secho("ok   " if finding.good else "BAD  ", fg="green" if finding.good else "red", nl=False)
            click.echo(f"{finding.name}: {finding.detail}")
    if any(not f.good for f in findings):
        sys.exit(1)


@click.command()
@click.option("--generation", type=int, help="Only this generation.")
@click.option("--measure", is_flag=True, help="Measure now, and set ef_search to hold the target; exit 1 if it cannot.")
@json_option
def recall(generation: int | None, measure: bool, as_json: bool) -> None:
    """HNSW against exact search over time: recall@10 of all searches, of filtered ones, and of small tenants.

    Measured daily by a schedule, which also sets the ef_search that holds RAG_RECALL_TARGET.
    """
    from rag_pipeline.serving.recall_store import list_recall
    from rag_pipeline.serving.recall_watch import watch_recall

    with connect() as (settings, database):
        with show_progress():
            watched = watch_recall(database, settings, generation) if measure else []
        with database.connection() as connection:
            rows = list_recall(connection, generation, 1000)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        records = [
            asdict(row)
            | {"measured_at": f"{row.measured_at:%Y-%m-%d %H:%M}", "recall@10": f"{row.recall_at_10:.3f}"}
            | {"p95": f"{row.p95_ms:.1f} ms", "95 % bounds": f"{row.low:.3f} to {row.high:.3f}"}
            for row in rows[-SHOWN:]
        ]
        print_records("Recall against exact search", RECALL_COLUMNS, records)
    for one in watched:
        say(one.describe())
    if any(not one.holds for one in watched):
        sys.exit(1)


@click.command()
@json_option
def settings(as_json: bool) -> None:
    """Every setting with its value and where it came from; secrets are masked."""
    from rag_pipeline.settings import describe_settings, load_settings

    rows = describe_settings(load_settings())
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(
        "Settings (RAG_… in the environment, or rag.toml)",
        ["name", "value", "from", "meaning"],
        [[r.name, r.value, r.origin, r.description] for r in rows],
    )


@click.command("add")
@click.option("--queries", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--qrels", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@tenant_option
def golden_add(queries: Path, qrels: Path, tenant: str) -> None:
    """Add queries with judgements; they take the place of known-item queries in evaluations."""
    from rag_pipeline.serving.questions import read_queries
    from rag_pipeline.serving.store import upsert_golden_query

    judged = read_queries(queries, qrels)
    with connect() as (_, database), database.transaction() as connection:
        for query in judged:
            upsert_golden_query(connection, tenant, query.id, query.text, dict(query.relevant))
    say(f"{len(judged)} judged queries")


@click.command()
@click.option("--port", default=3000, show_default=True, help="Of the Dagster UI.")
@click.option("--api-port", default=3001, show_default=True, help="Of the search API.")
def up(port: int, api_port: int) -> None:
    """Start the database, the search API, Dagster's UI and its daemon; Ctrl-C stops all."""
    from rag_pipeline.automation.services import run_services
    from rag_pipeline.settings import load_settings

    sys.exit(run_services(load_settings(), port, api_port))
