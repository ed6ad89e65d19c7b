"""Alerts: recorded by whoever sees something, delivered by the sensor `alert_delivery` until they are taken."""

from dataclasses import dataclass

from rag_pipeline.automation.channels import open_channel
from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.serving.alert_store import Alert, insert_alert, read_time, record_delivery, take_undelivered
from rag_pipeline.settings import Settings

LONGEST_MESSAGE, LONGEST_FAILURE = 4000, 500
MOST_DELIVERED = 20


@dataclass(frozen=True)
class Delivery:
    """What a round of deliveries led to. `failure`: why it ended early; it goes on at the next round."""

    delivered: int = 0
    failure: str | None = None


def raise_alert(pipeline: Pipeline, kind: str, subject: str, message: str) -> bool:
    """Record something someone should look at; False where the same was raised within a day.

    Nothing is sent here: a channel that is slow or down costs whoever raises the alert nothing.
    """
    with pipeline.database.transaction() as connection:
        return insert_alert(connection, kind, subject, message[:LONGEST_MESSAGE]) is not None


def deliver_alerts(pipeline: Pipeline) -> Delivery:
    """Send what was not delivered yet. A failure is recorded on the alert and ends the round: the channel is
    probably down. The next round begins with the alerts that were never tried, so that one which the channel
    will not take holds up no other.

    At least once: a process killed between sending and recording sends it again.
    """
    with pipeline.database.connection() as connection:
        began = read_time(connection)
    delivered = 0
    while delivered < MOST_DELIVERED:
        with pipeline.database.transaction() as connection:
            alert = take_undelivered(connection, began)
            if alert is None:
                break
            failure = _send(alert, pipeline.settings)
            record_delivery(connection, alert.id, failure)
        if failure is not None:
            return Delivery(delivered, failure)
        delivered += 1
    return Delivery(delivered)


def _send(alert: Alert, settings: Settings) -> str | None:
    """Send one alert; why that failed, without secrets, or None."""
    try:
        open_channel(settings)(alert, settings)
    except Exception as error:  # a function of the user's own may raise anything, and so do sockets
        return _mask(f"{type(error).__name__}: {error}", settings)[:LONGEST_FAILURE]
    return None


def _mask(text: str, settings: Settings) -> str:
    for secret in (settings.alert_webhook_url, settings.alert_email_password):
        if secret is not None and secret.get_secret_value():
            text = text.replace(secret.get_secret_value(), "…")
    return text
