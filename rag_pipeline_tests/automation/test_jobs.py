"""The jobs a person starts from Dagster's launchpad: a model registered, and the way back."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rag_pipeline.automation.resources import Pipeline
from rag_pipeline.automation.runs import QUIET, IngestRunResult, run_model_swap
from rag_pipeline.definitions import defs
from rag_pipeline.embeddings.registry import find_model
from rag_pipeline.serving.promotion import GateRefusedError
from rag_pipeline.serving.store import list_promotions, read_serving


def launch(pipeline: Pipeline, instance: dg.DagsterInstance, job: str, op: str, config: dict[str, Any]) -> None:
    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        run_config={"ops": {op: {"config": config}}, "loggers": QUIET},
        resources={"pipeline": pipeline},
    )
    assert result.success


@pytest.mark.usefixtures("served")
def test_a_model_is_registered_and_rolled_back_from_the_launchpad(
    pipeline: Pipeline, instance: dg.DagsterInstance, served: IngestRunResult, other_tiny_model: Path
) -> None:
    source = f"model2vec:{other_tiny_model}"
    launch(pipeline, instance, "register_model", "register", {"slug": "other", "source": source})
    assert find_model(pipeline.database, "other").state == "probed"
    auto = pipeline.settings.model_copy(update={"not_worse_margin": 1.0})
    outcome = run_model_swap(auto, "other", promote=True, instance=instance)
    assert outcome["promoted"], outcome["reason"]
    launch(pipeline, instance, "roll_back", "rollback", {"actor": "Ada", "reason": "complaints"})
    with pipeline.database.connection() as connection:
        serving, last = read_serving(connection), list_promotions(connection)[-1]
    assert serving is not None
    assert (serving.generation_id, last.action, last.actor, last.reason) == (
        served["generation"],
        "rollback",
        "Ada",
        "complaints",
    )


@pytest.mark.usefixtures("served")
def test_a_rollback_to_nothing_fails_with_the_gate_s_reason(pipeline: Pipeline, instance: dg.DagsterInstance) -> None:
    with pytest.raises(GateRefusedError, match="nothing to roll back to"):
        launch(pipeline, instance, "roll_back", "rollback", {})
