"""The SQL of alerts: what someone should look at, and whether it was delivered."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from rag_pipeline.database.files import load_queries

QUERIES = load_queries("alerts")


@dataclass(frozen=True)
class Alert:
    """Something to look at. `kind` is for machines (run_failed, model_drift, …), `subject` is what it is about."""

    id: int
    kind: str
    subject: str
    message: str
    raised_at: datetime


@dataclass(frozen=True)
class RaisedAlert(Alert):
    """An alert with what became of it. `failure`: why the last try to deliver it failed."""

    delivered_at: datetime | None
    failure: str | None


def insert_alert(connection: psycopg.Connection, kind: str, subject: str, message: str) -> int | None:
    """Record an alert in the caller's transaction; None where the same one is on record and younger than a day."""
    QUERIES.lock_alerts(connection)
    number: int | None = QUERIES.insert_alert(connection, kind=kind, subject=subject, message=message)
    return number


def read_time(connection: psycopg.Connection) -> datetime:
    """The database's clock."""
    now: datetime = QUERIES.read_time(connection)
    return now


def take_undelivered(connection: psycopg.Connection, before: datetime) -> Alert | None:
    """An alert still to be delivered and not tried since `before`, held until the transaction ends."""
    row = QUERIES.take_undelivered(connection, before=before)
    return Alert(*row) if row else None


def record_delivery(connection: psycopg.Connection, alert_id: int, failure: str | None) -> None:
    """Note that an alert was delivered, or why it was not."""
    QUERIES.record_delivery(connection, id=alert_id, failure=failure)


def list_undelivered(connection: psycopg.Connection) -> list[RaisedAlert]:
    """Every alert that nobody was told of, oldest first."""
    return [RaisedAlert(*row) for row in QUERIES.list_undelivered(connection)]


def list_alerts(connection: psycopg.Connection, most: int = 20) -> list[RaisedAlert]:
    """The alerts raised last, newest first."""
    return [RaisedAlert(*row) for row in QUERIES.list_alerts(connection, most=most)]
