"""What every asset, op and sensor works with: the settings and the open database."""

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from rag_pipeline.automation.launching import process_tags
from rag_pipeline.database.engine import Database, open_database
from rag_pipeline.progress import LogReporter, report_to
from rag_pipeline.settings import Settings, load_settings


@dataclass(frozen=True)
class Pipeline:
    """The settings, the migrated database, and who watches: Dagster's event log, or whoever called us."""

    settings: Settings
    database: Database
    watched_by: Literal["log", "caller"] = "log"

    def show_progress(self, log: dg.DagsterLogManager) -> AbstractContextManager[None]:
        """Progress of what runs inside goes to the event log, unless a caller shows it already."""
        from contextlib import nullcontext

        return nullcontext() if self.watched_by == "caller" else report_to(LogReporter(log.info))


@dg.resource(description="Settings and the open database; starts the embedded server if there is one to start")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[Pipeline]:
    """Opened for each run and each tick: a code server outlives database restarts, a pool does not."""
    if context.run is not None and context.instance is not None:
        context.instance.add_run_tags(context.run.run_id, process_tags(os.getpid(), socket.gethostname()))
    settings = load_settings()
    database = open_database(settings)
    try:
        yield Pipeline(settings, database)
    finally:
        database.close()
