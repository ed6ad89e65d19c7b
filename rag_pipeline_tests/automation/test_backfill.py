"""Re-embedding as a Dagster backfill over model x bucket: cancelled half-way, one bucket run alone, and resumed.

The real backfill daemon, a real code server, runs in processes of their own, and an endpoint that counts.
"""

import logging
import random
import threading
import time

import dagster as dg
import numpy as np
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration

from rag_pipeline.automation.partitions import BUCKET_COUNT, EMBEDDING_MODELS, model_bucket_key
from rag_pipeline.automation.runs import run_ingest
from rag_pipeline.database.engine import driver_url
from rag_pipeline.definitions import defs
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.embeddings.store import missing_chunks
from rag_pipeline.index.store import list_generations
from rag_pipeline_tests.embeddings.scripted_endpoint import Answer, serve
from rag_pipeline_tests.tiny_model import make_text

MOST_SECONDS = 180
AT_ONCE = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}


class Backfills:
    """Backfills of `embeddings` as the UI submits them, and the daemon's iterations."""

    def __init__(self, instance, context):
        self.instance, self.context, self.count = instance, context, 0

    def submit(self, keys):
        self.count += 1
        graph = defs.resolve_asset_graph()
        backfill = PartitionBackfill.from_asset_partitions(
            backfill_id=f"backfill{self.count}",
            asset_graph=graph,
            partition_names=keys,
            asset_selection=[dg.AssetKey("embeddings")],
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=self.instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
        self.instance.add_backfill(backfill)
        return backfill.backfill_id

    def iterate(self):
        errors = [e for e in execute_backfill_iteration(self.context, logging.getLogger("backfill")) if e]
        assert not errors, errors

    def run(self, backfill_id):
        """The daemon's rounds until the backfill ended; its status."""
        ended = {
            BulkActionStatus.COMPLETED_SUCCESS,
            BulkActionStatus.COMPLETED_FAILED,
            BulkActionStatus.CANCELED,
            BulkActionStatus.FAILED,
        }
        deadline = time.monotonic() + MOST_SECONDS
        while (status := self.instance.get_backfill(backfill_id).status) not in ended:
            assert time.monotonic() < deadline, status
            self.iterate()
            time.sleep(0.3)
        return status

    def cancel(self, backfill_id):
        backfill = self.instance.get_backfill(backfill_id)
        self.instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELING))
        return self.run(backfill_id)


@pytest.fixture
def backfills(settings, database, monkeypatch):
    """Settings in the environment, where the code server and its runs look for them."""
    for name, value in {
        "RAG_DATABASE_URL": driver_url(database.url),
        "RAG_HOME": str(settings.home),
        "RAG_MODEL": settings.model,
        "RAG_MODEL_SLUG": settings.model_slug,
    }.items():
        monkeypatch.setenv(name, value)
    with (
        dg.instance_for_test(overrides={"run_coordinator": AT_ONCE}) as instance,
        create_test_daemon_workspace_context(
            ModuleTarget("rag_pipeline.definitions", None, None, "rag"), instance
        ) as context,
    ):
        yield Backfills(instance, context)


def test_a_backfill_is_cancelled_run_for_one_bucket_and_resumed_and_embeds_everything_once(
    backfills, settings, database, folder, instance
):
    for number in range(6, 60):
        text = make_text(random.Random(number), 200)
        (folder / f"note-{number}.md").write_text(f"# Note {number}\n\n{text}\n", encoding="utf-8")
    run_ingest(settings, [resolve_location(str(folder), "default")], instance=instance)
    sent, begun, hurry = [], threading.Event(), threading.Event()

    def answer(_number, asked):
        if len(asked["input"]) > 9 and not hurry.is_set():  # a batch of chunks, not the canaries
            if begun.is_set():  # all but the first wait until the run that sent them was cancelled
                hurry.wait(MOST_SECONDS)
                return Answer(status=503)
            begun.set()
        rows = [np.random.default_rng([*text.encode()]).normal(size=8).tolist() for text in asked["input"]]
        sent.extend(asked["input"])
        return Answer({"data": [{"index": i, "embedding": row} for i, row in enumerate(rows)]})

    with serve(answer) as endpoint:
        far = add_model(database, ModelSpec("far", "openai:x", base_url=endpoint.base_url))
        backfills.instance.add_dynamic_partitions(EMBEDDING_MODELS.name, ["far"])
        keys = [str(model_bucket_key("far", bucket)) for bucket in range(BUCKET_COUNT)]
        with database.connection() as connection:
            chunker = list_generations(connection)[0].chunker_id

        def find_missing():
            with database.connection() as connection:
                return missing_chunks(connection, far.space, chunker, only_pending=False)

        chunks = len(find_missing())
        assert chunks > 200

        # cancelled half-way: what has landed stays
        first = backfills.submit(keys)
        backfills.iterate()
        deadline = time.monotonic() + MOST_SECONDS
        while len(find_missing()) == chunks and time.monotonic() < deadline:
            time.sleep(0.05)
        assert backfills.cancel(first) == BulkActionStatus.CANCELED
        (run,) = backfills.instance.get_runs()
        assert run.status == dg.DagsterRunStatus.CANCELED
        missing = find_missing()
        assert 0 < len(missing) < chunks
        hurry.set()

        # one bucket alone, as from the UI
        sent.clear()
        bucket = missing[0].bucket
        assert backfills.run(backfills.submit([keys[bucket]])) == BulkActionStatus.COMPLETED_SUCCESS
        rest = find_missing()
        assert {c.bucket for c in missing} - {c.bucket for c in rest} == {bucket}
        assert len(missing) - len(rest) == sum(c.bucket == bucket for c in missing)

        # resumed: only what is missing is embedded
        assert backfills.run(backfills.submit(keys)) == BulkActionStatus.COMPLETED_SUCCESS
        assert find_missing() == []
        canaries = 12 * 2  # each of the two processes proved the model first
        assert len(sent) == len(missing) + canaries
    with database.connection() as connection:
        rows = connection.execute("select count(*) from rag.embedding where space_id = %s", (far.space,)).fetchone()
    assert rows == (chunks,)
    done = backfills.instance.get_materialized_partitions(dg.AssetKey("embeddings"))
    assert {key for key in done if key.endswith("|far")} == set(keys)
