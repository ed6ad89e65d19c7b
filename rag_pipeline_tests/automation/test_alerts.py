"""Alerts reach someone: once, later if the channel was down, and without a secret in what is recorded."""

import email
import email.policy
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dagster as dg
import pytest
from pydantic import SecretStr

from rag_pipeline.automation import channels
from rag_pipeline.automation.alerts import deliver_alerts, raise_alert
from rag_pipeline.automation.sensors import alert_delivery, run_failure_alert
from rag_pipeline.definitions import defs
from rag_pipeline.embeddings.backpressure import RetryPolicy
from rag_pipeline.embeddings.models import ModelRefused, ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.serving.alert_store import list_alerts, list_undelivered
from rag_pipeline.serving.diagnosis import diagnose
from rag_pipeline_tests.automation.conftest import obey, tick
from rag_pipeline_tests.automation.mail_server import serve_mail
from rag_pipeline_tests.embeddings.scripted_endpoint import Answer, serve


@pytest.fixture
def with_channel(pipeline):
    """The same pipeline with another channel."""

    def make(channel, **settings):
        return replace(pipeline, settings=pipeline.settings.model_copy(update={"alert_channel": channel, **settings}))

    return make


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr(channels, "WEBHOOK_RETRY", RetryPolicy(total=0.2, first=0.05, longest=0.1))


def read_alerts(pipeline):
    with pipeline.database.connection() as connection:
        return list_alerts(connection)


def count_untold(pipeline):
    with pipeline.database.connection() as connection:
        return len(list_undelivered(connection))


def test_the_same_alert_is_raised_once_a_day(pipeline):
    assert raise_alert(pipeline, "run_failed", "ingest", "disk full")
    assert not raise_alert(pipeline, "run_failed", "ingest", "disk full")
    assert raise_alert(pipeline, "run_failed", "ingest", "no network")
    with pipeline.database.connection() as connection:
        connection.execute("update rag.alert set raised_at = raised_at - interval '25 hours'")
    assert raise_alert(pipeline, "run_failed", "ingest", "disk full")
    assert len(read_alerts(pipeline)) == 3


def test_many_that_raise_the_same_at_once_raise_it_once(pipeline):
    with ThreadPoolExecutor(4) as threads:
        raised = list(threads.map(lambda _: raise_alert(pipeline, "a", "b", "c"), range(8)))
    assert raised.count(True) == 1
    assert len(read_alerts(pipeline)) == 1


def test_the_log_is_the_default_channel_and_an_alert_is_delivered_once(pipeline, caplog):
    raise_alert(pipeline, "model_drift", "big", "it changed")
    with caplog.at_level(logging.ERROR, "rag_pipeline.alerts"):
        assert deliver_alerts(pipeline).delivered == 1
        assert deliver_alerts(pipeline).delivered == 0
    assert [record.getMessage() for record in caplog.records] == ["[model_drift] big: it changed"]
    assert read_alerts(pipeline)[0].delivered_at is not None


def test_a_webhook_gets_json_with_the_text_that_chats_show(with_channel, instance):
    with serve(lambda _number, _asked: Answer({"ok": True})) as endpoint:
        pipeline = with_channel("webhook", alert_webhook_url=SecretStr(endpoint.base_url + "/hook?token=s3"))
        raise_alert(pipeline, "model_drift", "big", "weights changed: 重み")
        assert "1 alerts delivered" in tick(alert_delivery, instance, pipeline).skip_reason.skip_message
        assert tick(alert_delivery, instance, pipeline).skip_reason.skip_message == "0 alerts delivered"
    (request,) = endpoint.requests
    assert request.pop("raised_at").startswith("20")
    assert request == {
        "path": "/v1/hook?token=s3",
        "text": "[model_drift] big: weights changed: 重み",
        "kind": "model_drift",
        "subject": "big",
        "message": "weights changed: 重み",
    }


def test_a_busy_webhook_is_asked_again_at_once(with_channel):
    with serve(lambda number, _: Answer(status=503 if number == 0 else 200)) as endpoint:
        pipeline = with_channel("webhook", alert_webhook_url=SecretStr(endpoint.base_url))
        raise_alert(pipeline, "a", "b", "c")
        assert deliver_alerts(pipeline).delivered == 1
    assert len(endpoint.requests) == 2


@pytest.mark.usefixtures("_impatient")
def test_a_webhook_that_is_down_is_recorded_without_its_secret_and_tried_again(with_channel, settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    pipeline = with_channel("webhook", alert_webhook_url=SecretStr(f"http://127.0.0.1:{port}/hook/s3cret"))
    raise_alert(pipeline, "run_failed", "ingest", "disk full")
    done = deliver_alerts(pipeline)
    assert done.delivered == 0
    assert "gave no answer" in done.failure
    alert = read_alerts(pipeline)[0]
    assert alert.delivered_at is None
    assert alert.failure == done.failure
    assert "s3cret" not in alert.failure
    (finding,) = [f for f in diagnose(pipeline.database, pipeline.settings) if f.name == "alerts"]
    assert not finding.good
    assert "1 not delivered by webhook" in finding.detail
    assert "run_failed ingest: disk full" in finding.detail
    with serve(lambda _number, _asked: Answer()) as endpoint:
        assert deliver_alerts(with_channel("webhook", alert_webhook_url=SecretStr(endpoint.base_url))).delivered == 1
    assert read_alerts(pipeline)[0].failure is None
    assert not [f for f in diagnose(pipeline.database, settings) if f.name == "alerts"]


def test_an_alert_that_is_not_taken_holds_up_no_other(with_channel):
    def answer(_number, asked):
        return Answer({"error": "too long"}, status=400) if asked["subject"] == "poison" else Answer()

    with serve(answer) as endpoint:
        pipeline = with_channel("webhook", alert_webhook_url=SecretStr(endpoint.base_url))
        for subject in ("poison", "good", "better"):
            raise_alert(pipeline, "a", subject, "c")
        assert "HTTP 400" in deliver_alerts(pipeline).failure
        assert deliver_alerts(pipeline).delivered == 2
    assert count_untold(pipeline) == 1


def remember(alert, settings):
    """A channel of the user's own."""
    if alert.subject == "broken":
        raise RuntimeError("pager is off")
    REMEMBERED.append((alert.kind, alert.message, settings.alert_channel))


REMEMBERED: list[tuple[str, str, str]] = []


def test_a_function_of_the_users_own_is_a_channel(with_channel):
    REMEMBERED.clear()
    pipeline = with_channel(f"{__name__}:remember")
    raise_alert(pipeline, "a", "b", "c")
    assert deliver_alerts(pipeline).delivered == 1
    assert [("a", "c", f"{__name__}:remember")] == REMEMBERED
    raise_alert(pipeline, "a", "broken", "c")
    assert deliver_alerts(pipeline).failure == "RuntimeError: pager is off"


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("no.such.module:send", "No module named 'no'"),
        ("json:nothing", "no attribute"),
        ("json:__doc__", "no function"),
    ],
)
def test_a_function_that_is_not_there_is_named_and_nothing_is_lost(with_channel, channel, message):
    pipeline = with_channel(channel)
    raise_alert(pipeline, "a", "b", "c")
    failure = deliver_alerts(pipeline).failure
    assert channel in failure
    assert message in failure
    assert count_untold(pipeline) == 1


def test_an_email_goes_through_dagsters_own_function_to_every_recipient(with_channel, tmp_path, monkeypatch):
    with serve_mail(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        pipeline = with_channel(
            "email",
            alert_email_from="rag@example.org",
            alert_email_to="ops@example.org, ana@example.org",
            alert_email_password=SecretStr("s3cret"),
            alert_smtp_host="localhost",
            alert_smtp_port=server.port,
        )
        raise_alert(pipeline, "model_drift", "größe\nBcc: evil@example.org", "重み changed\n.\nsecond line")
        assert deliver_alerts(pipeline).failure is None
    assert server.logins == ["\0rag@example.org\0s3cret"]
    mail = email.message_from_string(server.mails[0], policy=email.policy.default)
    assert mail["Subject"] == "model_drift: größe Bcc: evil@example.org"
    assert mail["To"] == "ops@example.org, ana@example.org"
    assert mail["Bcc"] is None
    assert "重み changed" in mail.get_content()
    assert "second line" in mail.get_content()


def test_a_mail_server_that_is_not_trusted_is_a_recorded_failure(with_channel, tmp_path):
    with serve_mail(tmp_path) as server:
        pipeline = with_channel(
            "email",
            alert_email_from="rag@example.org",
            alert_email_to="ops@example.org",
            alert_email_password=SecretStr("s3cret"),
            alert_smtp_host="localhost",
            alert_smtp_port=server.port,
        )
        raise_alert(pipeline, "a", "b", "c")
        assert "SSLCertVerificationError" in deliver_alerts(pipeline).failure
    assert server.mails == []


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("tags", "alerts"), [({}, 1), ({"dagster/will_retry": "true"}, 0)])
def test_a_failed_run_is_an_alert_with_what_was_raised_unless_it_is_run_again(
    instance, pipeline, tmp_path, tags, alerts
):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelRefused):
        add_model(pipeline.database, ModelSpec("bad", f"model2vec:{tmp_path}"))
    instance.add_dynamic_partitions("embedding_model", ["bad"])
    request = dg.RunRequest("x", partition_key="bad", tags=tags)
    with pytest.raises(ModelRefused, match="rag model add bad"):
        obey(request, "build_index", instance, pipeline)
    run = instance.get_runs(limit=1)[0]
    failure = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)[-1].dagster_event
    context = dg.build_run_status_sensor_context(
        run_failure_alert.name,
        failure,
        instance,
        run,
        resources={"pipeline": pipeline},
        repository_def=defs.get_repository_def(),
    )
    run_failure_alert(context.for_run_failure())
    found = read_alerts(pipeline)
    assert len(found) == alerts
    for alert in found:
        assert (alert.kind, alert.subject) == ("run_failed", "build_index bad")
        assert "pickle" in alert.message
        assert "Traceback" not in alert.message
