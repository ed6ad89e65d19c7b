import os
import socket
import subprocess
import sys

import dagster as dg
import pytest

from rag_pipeline.automation.launching import (
    PROCESS_TAG,
    WatchingRunLauncher,
    fail_dead_runs,
    is_process_gone,
    process_tags,
    read_start_time,
)

HOST = socket.gethostname()
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")


@pytest.fixture
def killed_tags() -> dict[str, str]:
    """The tags of a process that was killed."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    tags = process_tags(child.pid, HOST)
    child.kill()
    child.wait()
    return tags


@dg.job
def nothing() -> None:
    pass


def start_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = instance.create_run_for_job(nothing, tags=tags)
    instance.handle_new_event(
        dg.EventLogEntry(
            error_info=None,
            level=10,
            user_message="",
            run_id=run.run_id,
            timestamp=1.0,
            job_name=run.job_name,
            dagster_event=dg.DagsterEvent("PIPELINE_START", run.job_name),
        )
    )
    return run.run_id


def test_a_run_of_a_killed_process_is_failed_and_one_of_a_living_process_is_left_alone(instance, killed_tags):
    dead = start_run(instance, killed_tags)
    alive = start_run(instance, process_tags(os.getpid(), HOST))
    assert fail_dead_runs(instance) == [dead]
    assert instance.get_run_by_id(dead).status == dg.DagsterRunStatus.FAILURE
    assert instance.get_run_by_id(alive).status == dg.DagsterRunStatus.STARTED


def test_a_run_whose_process_was_killed_before_it_began_is_failed_too(instance, killed_tags):
    dead = instance.create_run_for_job(nothing, tags=killed_tags).run_id
    instance.create_run_for_job(nothing, tags=process_tags(os.getpid(), HOST))
    instance.create_run_for_job(nothing)  # nobody knows where: the daemon's
    assert fail_dead_runs(instance) == [dead]


def test_the_launcher_sees_a_dead_process(instance, killed_tags):
    launcher = WatchingRunLauncher()
    dead = instance.get_run_by_id(start_run(instance, killed_tags))
    alive = instance.get_run_by_id(start_run(instance, process_tags(os.getpid(), HOST)))
    assert launcher.check_run_worker_health(dead).status.value == "FAILED"
    assert launcher.check_run_worker_health(alive).status.value == "RUNNING"


@pytest.mark.parametrize(
    ("tag", "gone"),
    [
        (None, False),  # a run of somebody else: unknown
        ("", False),
        (f"elsewhere:{os.getpid()}:1", False),  # another machine's process cannot be seen from here
        (f"{HOST}:{os.getpid()}:{read_start_time(os.getpid())}", False),
        (f"{HOST}:{os.getpid()}:1", True),  # the number was given to a younger process
    ],
)
def test_a_process_is_gone_only_if_that_can_be_known(tag, gone):
    assert is_process_gone({PROCESS_TAG: tag} if tag is not None else {}, HOST) is gone
