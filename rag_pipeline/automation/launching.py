"""Runs whose process is gone must not look alive: they would hold a place in the queue for ever."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

PROCESS_TAG = "rag/process"


def process_tags(pid: int, host: str) -> dict[str, str]:
    """The tag that says where a run is executed: host, process and when that process began."""
    return {PROCESS_TAG: f"{host}:{pid}:{read_start_time(pid)}"}


def read_start_time(pid: int) -> str:
    """When a process began, in clock ticks since boot; empty where that cannot be known. Source: proc(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def is_process_gone(tags: Mapping[str, str], host: str) -> bool:
    """Whether the process in a run's tags was on this host and is not any more. Unknown means no."""
    found = tags.get(PROCESS_TAG, "").split(":")
    if len(found) != 3 or found[0] != host or not Path("/proc/self/stat").exists():
        return False
    return read_start_time(int(found[1])) != found[2]


def fail_dead_runs(instance: "DagsterInstance") -> list[str]:
    """Mark runs as failed whose process on this machine is gone; returns their ids."""
    from dagster import DagsterRunStatus, RunsFilter

    # one of ours has its process in its tags from the moment it is recorded, before it starts
    unfinished = [
        DagsterRunStatus.NOT_STARTED,
        DagsterRunStatus.STARTING,
        DagsterRunStatus.STARTED,
        DagsterRunStatus.CANCELING,
    ]
    gone = [
        run
        for run in instance.get_runs(filters=RunsFilter(statuses=unfinished))
        if is_process_gone(run.tags, socket.gethostname())
    ]
    for run in gone:
        instance.report_run_failed(run, "The process that executed this run is gone. Run it again: it goes on.")
    return [run.run_id for run in gone]


class WatchingRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, which also sees that a run's process died together with its code server."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> "WatchingRunLauncher":  # noqa: ARG003
        return cls(inst_data=inst_data)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: "DagsterRun") -> CheckRunHealthResult:
        """FAILED once the process in the run's tags is gone; RUNNING where nothing is known."""
        if is_process_gone(run.tags, socket.gethostname()):
            return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)
