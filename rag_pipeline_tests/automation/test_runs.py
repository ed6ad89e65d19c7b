import os
import shutil

import dagster as dg
import pytest

from rag_pipeline.automation.runs import WRITTEN_BY_US, prepare_home, run_ingest, run_model_swap
from rag_pipeline.documents.locations import LocationError, resolve_location
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import UnknownModelError, add_model
from rag_pipeline.serving.search import Searcher
from rag_pipeline_tests.automation.conftest import obey


def ingest(settings, folder, instance, **more):
    return run_ingest(settings, [resolve_location(str(folder), "default")], instance=instance, **more)


def last(instance, asset):
    return instance.get_latest_materialization_event(dg.AssetKey(asset)).asset_materialization


def test_the_first_ingest_builds_and_serves_the_first_generation(served, database):
    assert served["documents"] == {"added": 6, "changed": 0, "removed": 0, "unchanged": 0, "failed": 0}
    assert served["embeddings"] == {"new": served["chunks"]["new"], "reused": 0}
    assert served["chunks"]["new"] >= 12
    assert served["characters"]["embedded"] > 1000
    assert Searcher(database).search("Note 3", k=1).generation == served["generation"]


def test_ingesting_the_same_again_embeds_nothing(served, settings, folder, instance):
    again = ingest(settings, folder, instance)
    assert again["documents"]["unchanged"] == 6
    assert again["embeddings"] == {"new": 0, "reused": 0}
    assert again["characters"] == {"embedded": 0}
    assert again["generation"] == served["generation"]


@pytest.mark.usefixtures("served")
def test_an_edit_embeds_only_the_changed_chunks_and_is_found_at_once(settings, folder, instance, database):
    file = folder / "note-2.md"
    file.write_text(file.read_text() + "\n## Leak\n\nThe boiler pressure valve has a leak near the third pump.\n")
    result = ingest(settings, folder, instance)
    assert result["documents"]["changed"] == 1
    assert 1 <= result["embeddings"]["new"] <= 2
    assert result["embeddings"]["reused"] >= 1
    assert "leak" in Searcher(database).search("boiler pressure valve leak", k=1).hits[0].text


@pytest.mark.usefixtures("served")
def test_a_delta_shows_in_the_partitions_it_touched(settings, folder, instance):
    (folder / "note-9.md").write_text("# Winter\n\nSnow on the bird and the old stone.\n")
    result = ingest(settings, folder, instance)
    assert result["embeddings"]["new"] == 1
    assert last(instance, "hnsw_index").partition == "tiny"
    assert last(instance, "hnsw_index").metadata["inserted"].value == 1
    assert last(instance, "embeddings").partition.endswith("|tiny")


@pytest.mark.usefixtures("served")
def test_prune_removes_what_is_gone(settings, folder, instance):
    (folder / "note-5.md").unlink()
    assert ingest(settings, folder, instance)["documents"]["removed"] == 0
    assert ingest(settings, folder, instance, prune=True)["documents"]["removed"] == 1


def test_a_file_that_cannot_be_read_costs_nobody_else_and_warns(settings, folder, instance):
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing follows")
    result = ingest(settings, folder, instance)
    assert result["documents"]["added"] == 6
    assert [failure["uri"] for failure in result["failures"]] == ["broken.pdf"]
    key = dg.AssetCheckKey(dg.AssetKey("documents"), "everything_was_read")
    record = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0]
    evaluation = record.event.dagster_event.asset_check_evaluation_data
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN


def test_an_empty_folder_starts_no_generation(settings, tmp_path, instance):
    (tmp_path / "empty").mkdir()
    assert ingest(settings, tmp_path / "empty", instance)["generation"] is None


@pytest.mark.usefixtures("served")
def test_errors_come_out_in_the_pipelines_own_terms(settings, folder, instance):
    location = resolve_location(str(folder), "default")
    shutil.rmtree(folder)
    with pytest.raises(LocationError, match="does not exist"):
        run_ingest(settings, [location], instance=instance)
    assert instance.get_runs(limit=1)[0].status == dg.DagsterRunStatus.FAILURE
    with pytest.raises(UnknownModelError, match="nobody"):
        run_model_swap(settings, "nobody", instance=instance)


@pytest.mark.usefixtures("served")
def test_a_registered_source_that_is_gone_stops_no_other(settings, folder, tmp_path, instance, pipeline):
    other = tmp_path / "other"
    other.mkdir()
    (other / "fish.md").write_text("# Fish\n\nA blue fish in the river.\n")
    ingest(settings, other, instance)
    shutil.rmtree(folder)
    (other / "bird.md").write_text("# Bird\n\nA red bird on the tree.\n")
    done = obey(dg.RunRequest("x"), "ingest", instance, pipeline)
    assert last(instance, "documents").metadata["added"].value == 1
    checks = {e.check_name: e.passed for e in done.get_asset_check_evaluations()}
    assert checks["sources_were_found"] is False


def test_a_swap_embeds_once_and_stands_ready_until_it_is_promoted(
    served, settings, instance, database, other_tiny_model
):
    add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    outcome = run_model_swap(settings, "other", instance=instance)
    assert outcome["embeddings"] == {"new": served["embeddings"]["new"], "reused": 0}
    assert not outcome["promoted"]
    again = run_model_swap(settings, "other", instance=instance)
    assert again["embeddings"] == {"new": 0, "reused": served["embeddings"]["new"]}
    assert again["generation"] == outcome["generation"]
    assert Searcher(database).search("note", k=1).generation == served["generation"]
    keys = instance.get_materialized_partitions(dg.AssetKey("embeddings"))
    assert {key for key in keys if key.endswith("|other")} == {f"{bucket:02d}|other" for bucket in range(16)}


def test_a_refused_promotion_is_a_failed_run_and_a_result(served, settings, instance, database, tmp_path, tiny_model):
    add_model(database, ModelSpec("noise", f"model2vec:{make_noise(tmp_path / 'noise', tiny_model)}"))
    lexical_only = settings.model_copy(update={"fusion_weight": 1.0})
    outcome = run_model_swap(lexical_only, "noise", promote=True, instance=instance)
    assert outcome["verdict"] in ("worse", "cannot_tell"), outcome
    assert not outcome["promoted"]
    assert outcome["verdict"] in outcome["reason"]
    assert instance.get_runs(limit=1)[0].status == dg.DagsterRunStatus.FAILURE
    assert Searcher(database).search("note", k=1).generation == served["generation"]


def make_noise(directory, tiny_model):
    """A model that knows no word but the canaries': every text is nearly the same to it."""
    import numpy as np
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(tiny_model)
    vectors = np.tile(np.ones(model.dim, dtype=np.float32), (len(model.embedding), 1))
    vectors += np.random.default_rng(3).normal(scale=1e-4, size=vectors.shape).astype(np.float32)
    StaticModel(vectors=vectors, tokenizer=model.tokenizer).save_pretrained(directory)
    return directory


@pytest.mark.usefixtures("served")
def test_questions_are_answered_with_their_provenance(instance, pipeline):
    config = {"ops": {"answer": {"config": {"queries": ["Note 1", "Note 4"], "k": 2, "ask": True}}}}
    done = obey(dg.RunRequest("q", run_config=config), "answer_queries", instance, pipeline)
    results = done.output_for_node("answer")
    assert [result["query"] for result in results] == ["Note 1", "Note 4"]
    hit = results[0]["hits"][0]
    assert {"document_id", "version", "chunk_id", "start", "end", "generation", "scores"} <= hit.keys()
    assert results[0]["answer"]["kind"] == "extractive"


def test_the_reconciliation_is_green_and_turns_red_when_a_row_is_lost(served, instance, pipeline, database):
    def run():
        done = obey(dg.RunRequest("r"), "reconcile", instance, pipeline)
        return {e.check_name: e.passed for e in done.get_asset_check_evaluations()}

    assert run() == {"index_is_used": True, "index_matches_documents": True}
    with database.connection() as connection:
        table = f"rag.index_{served['generation']}"
        connection.execute(f"delete from {table} where chunk_id = (select min(chunk_id) from {table})")
    assert run()["index_matches_documents"] is False
    with database.connection() as connection:
        connection.execute(f"drop index {table}_hnsw")
    assert run()["index_is_used"] is False


@pytest.fixture
def kept_environment(monkeypatch):
    """`prepare_home` writes to the environment; this puts it back."""
    for name in ("DAGSTER_HOME", "RAG_HOME", "RAG_DATABASE_URL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("kept_environment")
def test_the_home_is_written_and_changes_of_the_users_own_are_kept(settings, tmp_path):
    settings = settings.model_copy(update={"home": tmp_path / "home"})
    file = prepare_home(settings) / "dagster.yaml"
    assert os.environ["DAGSTER_HOME"] == str(file.parent)
    assert file.read_text().startswith(WRITTEN_BY_US)
    file.write_text(WRITTEN_BY_US + "stale: true\n")
    prepare_home(settings)
    assert "stale" not in file.read_text()
    file.write_text("# mine\n")
    prepare_home(settings)
    assert file.read_text() == "# mine\n"
