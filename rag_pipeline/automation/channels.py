"""How an alert leaves: by log, webhook, e-mail, or a function of the user's own. Each raises where it cannot."""

import importlib
import logging
from collections.abc import Callable
from email.message import EmailMessage

from rag_pipeline.embeddings.backpressure import EndpointBusy, RetryPolicy, make_client, send_patiently
from rag_pipeline.errors import ExpectedError
from rag_pipeline.serving.alert_store import Alert
from rag_pipeline.settings import Settings, SettingsError

Channel = Callable[[Alert, Settings], object]

# A tick of a sensor has a minute for everything: what fails now is tried again at the next one.
WEBHOOK_RETRY = RetryPolicy(total=10.0, first=0.5, longest=4.0)
WEBHOOK_TIMEOUT = 10.0
LONGEST_SUBJECT = 120


class DeliveryError(ExpectedError):
    """An alert was not taken; the message says by whom and why, and holds no secret."""


def open_channel(settings: Settings) -> Channel:
    """The channel of the settings. Raises `SettingsError` for a function that is not there."""
    built_in: dict[str, Channel] = {"log": send_to_log, "webhook": send_by_webhook, "email": send_by_email}
    name = settings.alert_channel
    return built_in[name] if name in built_in else _find_function(name)


def _find_function(name: str) -> Channel:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"RAG_ALERT_CHANNEL={name} is neither log, webhook, email nor a function: {error}"
        ) from error
    if not callable(found):
        raise SettingsError(f"RAG_ALERT_CHANNEL={name} is no function but {type(found).__name__}")
    channel: Channel = found
    return channel


def describe_alert(alert: Alert) -> str:
    """One line."""
    return f"[{alert.kind}] {alert.subject}: {alert.message}"


def send_to_log(alert: Alert, _settings: Settings) -> None:
    """An error in the log of the process that delivers: the code server's, under `rag up`."""
    logging.getLogger("rag_pipeline.alerts").error(describe_alert(alert))


def send_by_webhook(alert: Alert, settings: Settings) -> None:
    """POST JSON; `text` is what Slack, Mattermost and Teams show. Raises `DeliveryError`."""
    if settings.alert_webhook_url is None:
        raise SettingsError("RAG_ALERT_CHANNEL=webhook needs RAG_ALERT_WEBHOOK_URL")
    address = settings.alert_webhook_url.get_secret_value()
    body = {
        "text": describe_alert(alert),
        "kind": alert.kind,
        "subject": alert.subject,
        "message": alert.message,
        "raised_at": alert.raised_at.isoformat(),
    }
    with make_client(address, None, read_timeout=WEBHOOK_TIMEOUT) as client:
        try:
            response = send_patiently(client, client.build_request("POST", address, json=body), WEBHOOK_RETRY)
        except EndpointBusy as error:
            raise DeliveryError(str(error).replace(address, "the webhook")) from error
    if not response.is_success:
        raise DeliveryError(f"the webhook answered HTTP {response.status_code}: {response.text[:200]}")


def send_by_email(alert: Alert, settings: Settings) -> None:
    """One mail to all recipients, sent by Dagster's own functions. Raises what smtplib and ssl raise."""
    from dagster._utils.alert import send_email_via_ssl, send_email_via_starttls

    sender, password, host = settings.alert_email_from, settings.alert_email_password, settings.alert_smtp_host
    if not sender or password is None or not host or not settings.alert_email_to:
        raise SettingsError(
            "RAG_ALERT_CHANNEL=email needs RAG_ALERT_EMAIL_FROM, RAG_ALERT_EMAIL_TO, RAG_ALERT_EMAIL_PASSWORD and "
            "RAG_ALERT_SMTP_HOST"
        )
    recipients = [address.strip() for address in settings.alert_email_to.split(",") if address.strip()]
    implicit = settings.alert_smtp_type == "SSL"
    send = send_email_via_ssl if implicit else send_email_via_starttls
    send(
        email_from=sender,
        email_password=password.get_secret_value(),
        email_to=recipients,
        message=write_mail(alert, sender, recipients),
        smtp_host=host,
        smtp_port=settings.alert_smtp_port or (465 if implicit else 587),
        smtp_user=settings.alert_smtp_user or sender,
    )


def write_mail(alert: Alert, sender: str, recipients: list[str]) -> str:
    """The mail as plain ASCII text, whatever is in the alert: Dagster's own template takes no other letters."""
    mail = EmailMessage()
    title = " ".join(f"{alert.kind}: {alert.subject}".split())
    mail["Subject"] = title if len(title) <= LONGEST_SUBJECT else title[: LONGEST_SUBJECT - 1] + "…"
    mail["From"], mail["To"] = sender, ", ".join(recipients)
    mail.set_content(f"{alert.message}\n\n{alert.subject}, {alert.raised_at:%Y-%m-%d %H:%M:%S %Z}\n")
    return mail.as_string()
