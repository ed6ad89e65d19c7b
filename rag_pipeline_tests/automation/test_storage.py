import os

import dagster as dg
import pytest
from dagster_postgres import PostgresEventLogStorage

from rag_pipeline.automation.runs import prepare_home, run_ingest
from rag_pipeline.automation.storage import OutputFromSettings, capture_output
from rag_pipeline.documents.locations import resolve_location


@pytest.fixture
def home(settings, tmp_path, monkeypatch):
    """Dagster's home beside this test's files, with its tables on the session's server."""
    for name in ("DAGSTER_HOME", "RAG_HOME", "RAG_DATABASE_URL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("RAG_DAGSTER_DATABASE_URL", settings.database_url.get_secret_value())
    return settings.model_copy(update={"home": tmp_path / "home"})


def test_a_run_of_ours_is_recorded_on_our_server_and_its_files_lie_under_our_home(home, folder, tmp_path, capfd):
    result = run_ingest(home, [resolve_location(str(folder), "default")])
    assert result["documents"]["added"] == 6
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        assert isinstance(instance.compute_log_manager, OutputFromSettings)
        assert instance.root_directory.startswith(str(tmp_path))
        runs = instance.get_runs()
        assert [run.job_name for run in reversed(runs)] == ["ingest", "embed_model", "build_index", "promote"]
        assert all(run.status == dg.DagsterRunStatus.SUCCESS for run in runs)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_the_instance_has_a_queue_that_keeps_two_of_a_kind_apart(home):
    prepare_home(home)
    with dg.DagsterInstance.get() as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue.max_concurrent_runs == 3
        assert [limit["key"] for limit in queue.tag_concurrency_limits] == ["rag/work"]
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled


def test_output_is_captured_for_a_worker_and_left_alone_for_a_caller(tmp_path, capfd):
    manager = OutputFromSettings(str(tmp_path))
    token = capture_output.set(False)
    with manager.capture_logs(["run", "compute_logs", "a"]):
        os.write(1, b"to the caller\n")
    capture_output.reset(token)
    assert capfd.readouterr().out == "to the caller\n"
    assert not manager.is_capture_complete(["run", "compute_logs", "a"])
    with manager.capture_logs(["run", "compute_logs", "b"]):
        pass
    assert manager.is_capture_complete(["run", "compute_logs", "b"])
