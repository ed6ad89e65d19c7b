import json
import random
from dataclasses import replace

import pytest

from rag_pipeline.automation.runs import run_ingest
from rag_pipeline.automation.sensors import (
    document_source_sensor,
    embedding_model_sensor,
    index_rebuild_sensor,
    promotion_sensor,
)
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.reconciliation import find_discrepancies
from rag_pipeline.index.store import list_generations, read_generation
from rag_pipeline.serving.promotion import rollback
from rag_pipeline.serving.retirement import retire_soaked
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.store import read_serving
from rag_pipeline_tests.automation.conftest import obey, tick
from rag_pipeline_tests.tiny_model import make_text


@pytest.fixture
def other_model(database, other_tiny_model):
    return add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))


@pytest.fixture
def make_automatic():
    """The same pipeline with the automatic policy, and a margin no difference between tiny models exceeds."""

    def make(pipeline):
        settings = pipeline.settings.model_copy(update={"promotion_policy": "auto", "not_worse_margin": 1.0})
        return replace(pipeline, settings=settings)

    return make


def test_without_a_source_the_source_sensor_says_what_to_do(instance, pipeline):
    assert "rag ingest" in tick(document_source_sensor, instance, pipeline).skip_reason.skip_message


def test_an_unchanged_source_starts_nothing(served, instance, pipeline):
    assert served["documents"]["added"] == 6
    assert tick(document_source_sensor, instance, pipeline).run_requests == []


@pytest.mark.usefixtures("served")
def test_a_changed_source_is_read_once_and_its_run_makes_the_sensor_quiet(folder, instance, pipeline):
    (folder / "note-7.md").write_text("# New\n\nThe red boiler has a leak.\n")
    first = tick(document_source_sensor, instance, pipeline)
    assert len(first.run_requests) == 1
    again = tick(document_source_sensor, instance, pipeline, first.cursor)
    assert again.run_requests == []
    done = obey(first.run_requests[0], "ingest", instance, pipeline)
    added = {e.asset_key.to_user_string(): e.materialization for e in done.get_asset_materialization_events()}
    assert added["documents"].metadata["added"].value == 1
    after = tick(document_source_sensor, instance, pipeline, again.cursor)
    assert after.run_requests == []
    assert list(json.loads(after.cursor).values()) == [["", 1]]


@pytest.mark.usefixtures("served")
def test_a_folder_that_is_gone_starts_nothing(folder, instance, pipeline):
    folder.rename(folder.with_name("elsewhere"))
    assert tick(document_source_sensor, instance, pipeline).run_requests == []


@pytest.mark.usefixtures("served")
def test_a_registered_model_gets_its_partition_and_one_run_for_all_buckets(other_model, instance, pipeline):
    result = tick(embedding_model_sensor, instance, pipeline)
    assert instance.has_dynamic_partition("embedding_model", "other")
    assert len(result.run_requests) == 1
    request = result.run_requests[0]
    assert request.tags["dagster/asset_partition_range_start"] == "00|other"
    assert request.tags["dagster/asset_partition_range_end"] == "15|other"
    assert other_model.fingerprint.hex()[:12] in request.run_key
    # asked for again under the same key until a run of it is there: Dagster starts a key once
    again = tick(embedding_model_sensor, instance, pipeline, result.cursor)
    assert [r.run_key for r in again.run_requests] == [request.run_key]
    obey(request, "embed_model", instance, pipeline)
    assert tick(embedding_model_sensor, instance, pipeline, again.cursor).run_requests == []


@pytest.mark.usefixtures("other_model")
def test_from_registration_to_a_ready_index_by_sensors_alone(served, instance, pipeline, database):
    assert tick(index_rebuild_sensor, instance, pipeline).run_requests == []
    embed = tick(embedding_model_sensor, instance, pipeline).run_requests[0]
    assert tick(index_rebuild_sensor, instance, pipeline).run_requests == []  # no vector yet
    obey(embed, "embed_model", instance, pipeline)
    build = tick(index_rebuild_sensor, instance, pipeline).run_requests
    assert [request.partition_key for request in build] == ["other"]
    obey(build[0], "build_index", instance, pipeline)
    assert tick(index_rebuild_sensor, instance, pipeline).run_requests == []
    # the policy is manual: it stands ready beside what serves
    assert tick(promotion_sensor, instance, pipeline).run_requests == []
    with database.connection() as connection:
        assert read_serving(connection).generation_id == served["generation"]


@pytest.mark.usefixtures("other_model")
def test_with_the_automatic_policy_an_allowed_candidate_is_promoted_once(
    served, instance, pipeline, database, make_automatic
):
    automatic = make_automatic(pipeline)
    obey(tick(embedding_model_sensor, instance, automatic).run_requests[0], "embed_model", instance, automatic)
    obey(tick(index_rebuild_sensor, instance, automatic).run_requests[0], "build_index", instance, automatic)
    requests = tick(promotion_sensor, instance, automatic).run_requests
    assert [request.partition_key for request in requests] == ["other"]
    obey(requests[0], "promote", instance, automatic)
    with database.connection() as connection:
        assert read_serving(connection).previous_id == served["generation"]
    assert tick(promotion_sensor, instance, automatic).run_requests == []


@pytest.mark.usefixtures("other_model")
def test_a_generation_that_was_rolled_back_is_not_promoted_again(served, instance, pipeline, database, make_automatic):
    automatic = make_automatic(pipeline)
    obey(tick(embedding_model_sensor, instance, automatic).run_requests[0], "embed_model", instance, automatic)
    obey(tick(index_rebuild_sensor, instance, automatic).run_requests[0], "build_index", instance, automatic)
    obey(tick(promotion_sensor, instance, automatic).run_requests[0], "promote", instance, automatic)
    assert rollback(database, actor="test", reason="worse in practice") == served["generation"]
    assert tick(promotion_sensor, instance, automatic).run_requests == []


def test_an_index_that_drifted_is_built_anew_beside_the_old_one_compared_and_promoted(
    served, folder, instance, pipeline, database, make_automatic
):
    automatic = make_automatic(pipeline)
    chosen = random.Random(3)
    documents = folder.parent / "more"
    documents.mkdir()
    for number in range(1200):
        (documents / f"d{number}.md").write_text(f"# Note {number}\n\n{make_text(chosen, 60)}\n", encoding="utf-8")
    assert tick(index_rebuild_sensor, instance, automatic).run_requests == []
    run_ingest(pipeline.settings, [resolve_location(str(documents), "default")], instance=instance)
    for number in range(600):
        (documents / f"d{number}.md").unlink()
    run_ingest(pipeline.settings, [resolve_location(str(documents), "default")], prune=True, instance=instance)
    old = read(database, served["generation"])
    assert old.metrics["inserted"] >= 1200
    assert old.metrics["deleted"] >= 600

    off = replace(automatic, settings=automatic.settings.model_copy(update={"rebuild_churn": 0}))
    assert tick(index_rebuild_sensor, instance, off).run_requests == []
    [request] = tick(index_rebuild_sensor, instance, automatic).run_requests
    assert "rows came or went" in request.tags["rag/why"]
    assert request.partition_key == "tiny"
    vectors = count_vectors(database)
    done = obey(request, "build_index", instance, automatic)
    metadata = {
        e.asset_key.to_user_string(): e.materialization.metadata for e in done.get_asset_materialization_events()
    }
    fresh = read(database, metadata["hnsw_index"]["generation"].value)
    assert (fresh.id, fresh.model_id, fresh.chunker_id, fresh.state) == (
        old.id + 1,
        old.model_id,
        old.chunker_id,
        "ready",
    )
    assert read(database, old.id).state == "serving"
    assert metadata["hnsw_index"]["embedded"].value == 0
    assert count_vectors(database) == vectors
    assert (fresh.metrics["inserted"], fresh.metrics["deleted"]) == (0, 0)
    assert (
        fresh.metrics["rows_at_build"]
        == old.metrics["rows_at_build"] + old.metrics["inserted"] - old.metrics["deleted"]
    )
    assert metadata["retrieval_evaluation"]["verdict"].value == "not_worse"
    assert metadata["retrieval_evaluation"]["baseline"].value == old.id

    assert tick(index_rebuild_sensor, instance, automatic).run_requests == []  # it stands beside the old one
    again = obey(request, "build_index", instance, automatic)  # retried by hand
    assert last_generation(again) == fresh.id

    [promotion] = tick(promotion_sensor, instance, automatic).run_requests
    obey(promotion, "promote", instance, automatic)
    assert Searcher(database).search("Note 900", k=1).generation == fresh.id
    assert find_discrepancies(database, fresh).clean
    assert tick(index_rebuild_sensor, instance, automatic).run_requests == []
    assert [r.generation for r in retire_soaked(database, 0)] == [old.id]
    assert tick(index_rebuild_sensor, instance, automatic).run_requests == []
    with database.connection() as connection:
        assert [g.state for g in list_generations(connection)] == ["retired", "serving"]


def read(database, number):
    with database.connection() as connection:
        return read_generation(connection, number)


def last_generation(done) -> int:
    events = [e for e in done.get_asset_materialization_events() if e.asset_key.to_user_string() == "hnsw_index"]
    return events[-1].materialization.metadata["generation"].value


def count_vectors(database) -> int:
    with database.connection() as connection:
        return connection.execute("select count(*) from rag.embedding").fetchone()[0]
