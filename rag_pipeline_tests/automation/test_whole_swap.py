"""From a registration to serving by the sensors alone, and on from wherever the chain was broken."""

import random
import shutil
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from rag_pipeline.automation import decisions
from rag_pipeline.automation.partitions import EMBEDDING_MODELS
from rag_pipeline.automation.runs import run_ingest
from rag_pipeline.automation.sensors import embedding_model_sensor
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.embeddings.models import ModelRefused, ModelSpec
from rag_pipeline.embeddings.registry import add_model, find_model
from rag_pipeline.embeddings.store import count_embeddings, read_coverage
from rag_pipeline.index.building import ensure_generation
from rag_pipeline.index.store import list_generations
from rag_pipeline.serving.alert_store import list_alerts
from rag_pipeline.serving.store import read_serving
from rag_pipeline.settings import ConfiguredModel
from rag_pipeline_tests.automation.conftest import Daemon
from rag_pipeline_tests.tiny_model import make_text, save_tiny_model


def make_automatic(daemon):
    """The same with the automatic policy, and a margin no difference between tiny models exceeds."""
    return with_settings(daemon, promotion_policy="auto", not_worse_margin=1.0)


def with_settings(daemon, **changed):
    settings = daemon.pipeline.settings.model_copy(update=changed)
    return Daemon(daemon.instance, replace(daemon.pipeline, settings=settings))


def read_states(database):
    with database.connection() as connection:
        return [(g.model, g.state) for g in list_generations(connection)]


def read_alerts(database):
    with database.connection() as connection:
        return {(alert.kind, alert.subject): alert.message for alert in list_alerts(connection)}


def add_other(database, directory, slug="other"):
    return add_model(database, ModelSpec(slug, f"model2vec:{directory}"))


@pytest.mark.usefixtures("served")
def test_with_the_automatic_policy_a_registered_model_comes_to_serve_by_itself(database, daemon, other_tiny_model):
    automatic = make_automatic(daemon)
    assert automatic.run_until_quiet() == []
    add_other(database, other_tiny_model)
    started = automatic.run_until_quiet()
    assert [key.split("-")[0] for key in started] == ["embed", "build", "promote"]
    assert automatic.errors == []
    assert read_states(database) == [("tiny", "soaking"), ("other", "serving")]
    assert automatic.run_until_quiet() == []


@pytest.mark.usefixtures("served")
def test_with_the_manual_policy_it_stops_before_the_promotion(database, daemon, other_tiny_model):
    add_other(database, other_tiny_model)
    assert [key.split("-")[0] for key in daemon.run_until_quiet()] == ["embed", "build"]
    assert read_states(database) == [("tiny", "serving"), ("other", "ready")]


@pytest.mark.usefixtures("served")
def test_of_two_models_registered_at_once_the_second_follows_by_itself(database, daemon, other_tiny_model, tmp_path):
    third = save_tiny_model(tmp_path / "third", seed=3)
    automatic = make_automatic(daemon)
    add_other(database, other_tiny_model)
    add_other(database, third, "third")
    started = automatic.run_until_quiet()
    assert [key.split("-")[0] for key in started].count("build") == 2
    assert automatic.errors == []
    assert sorted(read_states(database)) == [("other", "soaking"), ("third", "serving"), ("tiny", "soaking")]


@pytest.mark.usefixtures("served")
def test_two_that_were_compared_with_what_is_replaced_are_compared_again(database, daemon, other_tiny_model, tmp_path):
    """Both stand ready against the same baseline; the second one's verdict is void once the first serves."""
    third = save_tiny_model(tmp_path / "third", seed=3)
    add_other(database, other_tiny_model)
    add_other(database, third, "third")
    daemon.run_until_quiet()
    assert sorted(read_states(database)) == [("other", "ready"), ("third", "ready"), ("tiny", "serving")]
    automatic = with_settings(daemon, promotion_policy="auto")
    with database.connection() as connection:  # both were found good enough
        connection.execute("update rag.evaluation set allows = true, verdict = 'better'")
    automatic.started = list(daemon.started)
    first = automatic.run_round()
    assert [key.split("-")[0] for key in first] == ["promote"]
    assert [key.split("-")[0] for key in automatic.run_round()] == ["compare"]


def test_a_model_inserted_by_sql_is_probed_embedded_built_and_served(served, database, daemon, other_tiny_model):
    with database.connection() as connection:
        connection.execute(
            "insert into rag.embedding_model (slug, source) values ('plain', %s)", (f"model2vec:{other_tiny_model}",)
        )
    automatic = make_automatic(daemon)
    automatic.run_until_quiet()
    assert automatic.errors == []
    assert find_model(database, "plain").state == "probed"
    assert read_states(database) == [("tiny", "soaking"), ("plain", "serving")]
    with database.connection() as connection:
        space = find_model(database, "plain").space
        assert count_embeddings(connection)[space] == served["chunks"]["new"]


@pytest.mark.usefixtures("served")
def test_a_bad_source_inserted_by_sql_is_refused_with_the_reason_and_costs_nothing_else(
    database, daemon, instance, tmp_path
):
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with database.connection() as connection:
        connection.execute(
            "insert into rag.embedding_model (slug, source) values ('bad', %s), ('a|b', 'x')",
            (f"model2vec:{tmp_path}",),
        )
        before = count_embeddings(connection)
    daemon.run_until_quiet()
    assert [type(error) for error in daemon.errors] == [ModelRefused]
    assert find_model(database, "bad").state == "refused"
    assert "pickle" in find_model(database, "bad").reason
    assert "pickle" in read_alerts(database)["model_refused", "bad"]
    assert "partition key" in read_alerts(database)["model_refused", "a|b"]
    assert not instance.has_dynamic_partition(EMBEDDING_MODELS.name, "bad")
    assert read_states(database) == [("tiny", "serving")]
    with database.connection() as connection:
        assert count_embeddings(connection) == before
    assert daemon.run_until_quiet() == []


@pytest.mark.usefixtures("served")
def test_a_refused_model_that_was_mended_and_added_again_is_embedded(database, daemon, tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "pytorch_model.bin").write_bytes(b"a pickle")
    with database.connection() as connection:
        connection.execute(
            "insert into rag.embedding_model (slug, source) values ('late', %s)", (f"model2vec:{directory}",)
        )
    daemon.run_until_quiet()
    assert find_model(database, "late").state == "refused"
    shutil.rmtree(directory)
    add_other(database, save_tiny_model(directory, seed=5), "late")
    assert [key.split("-")[0] for key in daemon.run_until_quiet()] == ["embed", "build"]
    assert read_states(database) == [("tiny", "serving"), ("late", "ready")]


@pytest.mark.usefixtures("served")
def test_a_partition_deleted_by_hand_comes_back_and_nothing_is_embedded_twice(
    database, daemon, instance, other_tiny_model
):
    add_other(database, other_tiny_model)
    daemon.run_until_quiet()
    with database.connection() as connection:
        before = count_embeddings(connection)
    instance.delete_dynamic_partition(EMBEDDING_MODELS.name, "other")
    assert [key.rsplit("-", 1)[1] for key in daemon.run_until_quiet()] == ["2"]
    assert instance.has_dynamic_partition(EMBEDDING_MODELS.name, "other")
    with database.connection() as connection:
        assert count_embeddings(connection) == before
    assert read_states(database) == [("tiny", "serving"), ("other", "ready")]


@pytest.mark.usefixtures("served")
def test_an_embedding_run_that_failed_is_asked_for_again_after_a_while(database, daemon, tmp_path, monkeypatch):
    directory = save_tiny_model(tmp_path / "model", seed=4)
    with database.connection() as connection:
        connection.execute(
            "insert into rag.embedding_model (slug, source) values ('away', %s)", (f"model2vec:{directory}",)
        )
    hidden = directory.rename(tmp_path / "hidden")
    (directory).mkdir()
    (directory / "model.safetensors").write_bytes(b"cut short")
    assert [key.split("-")[0] for key in daemon.run_until_quiet()] == ["embed"]
    assert len(daemon.errors) == 1
    shutil.rmtree(directory)
    hidden.rename(directory)
    assert daemon.run_until_quiet() == []  # not at once
    monkeypatch.setattr(decisions, "FIRST_RETRY", timedelta(0))
    started = daemon.run_until_quiet()
    assert started[0].endswith("-again-1")
    assert read_states(database) == [("tiny", "serving"), ("away", "ready")]


@pytest.mark.usefixtures("served")
def test_a_generation_whose_build_was_broken_off_is_ended_and_holds_up_nobody(
    database, daemon, other_tiny_model, tmp_path, settings
):
    other = add_other(database, other_tiny_model)
    daemon.run_round(embedding_model_sensor)
    ensure_generation(database, settings, other)  # what a build that was killed at its beginning leaves
    assert read_states(database) == [("tiny", "serving"), ("other", "building")]
    add_other(database, save_tiny_model(tmp_path / "third", seed=3), "third")
    daemon.run_until_quiet()
    assert daemon.errors == []
    assert read_states(database) == [("tiny", "serving"), ("other", "ready"), ("third", "ready")]


def test_a_model_of_the_settings_file_is_registered_by_the_sensor_and_a_changed_one_is_refused(
    served, database, daemon, other_tiny_model, tiny_model
):
    source = f"model2vec:{other_tiny_model}"
    configured = with_settings(daemon, models={"big": ConfiguredModel(source=source)})
    assert [key.split("-")[0] for key in configured.run_until_quiet()] == ["embed", "build"]
    assert read_states(database) == [("tiny", "serving"), ("big", "ready")]
    changed = with_settings(daemon, models={"big": ConfiguredModel(source=f"model2vec:{tiny_model}")})
    changed.started = configured.started
    assert changed.run_until_quiet() == []
    assert find_model(database, "big").spec.source == source
    message = read_alerts(database)["model_definition", "big"]
    assert "[models.big] in rag.toml" in message
    assert str(tiny_model) in message
    with database.connection() as connection:
        assert read_serving(connection).generation_id == served["generation"]


def test_the_same_model_under_a_second_name_costs_no_vector_and_no_token_through_a_whole_swap(
    served, database, daemon, instance, tiny_model, tmp_path
):
    copied = shutil.copytree(tiny_model, tmp_path / "copy")
    twin = add_other(database, copied, "twin")
    with database.connection() as connection:
        before = count_embeddings(connection)
    automatic = make_automatic(daemon)
    automatic.run_until_quiet()
    assert automatic.errors == []
    assert read_states(database) == [("tiny", "soaking"), ("twin", "serving")]
    with database.connection() as connection:
        assert count_embeddings(connection) == before == {twin.space: served["chunks"]["new"]}
    materialized = instance.get_latest_materialization_event(dg.AssetKey("embeddings")).asset_materialization
    assert materialized.metadata["embedded_by_this_run"].value == 0
    assert materialized.metadata["tokens_of_this_run"].value == 0
    built = instance.get_latest_materialization_event(dg.AssetKey("hnsw_index")).asset_materialization
    assert built.metadata["embedded"].value == 0


def test_documents_that_change_all_the_time_do_not_hold_up_the_build(
    settings, folder, database, daemon, other_tiny_model, instance
):
    """A few chunks came in after the embedding run: the build embeds them, no night has to pass."""
    for number in range(6, 30):
        text = make_text(random.Random(number), 200)
        (folder / f"note-{number}.md").write_text(f"# Note {number}\n\n{text}\n", encoding="utf-8")
    run_ingest(settings, [resolve_location(str(folder), "default")], instance=instance)
    other = add_other(database, other_tiny_model)
    daemon.run_round(embedding_model_sensor)
    (folder / "note-0.md").write_text("# Note 0\n\nA red leak.\n")
    run_ingest(settings, [resolve_location(str(folder), "default")], instance=instance)
    with database.connection() as connection:
        chunker = list_generations(connection)[0].chunker_id
        assert read_coverage(connection, other.space, chunker).missing > 0
    assert [key.split("-")[0] for key in daemon.run_until_quiet()] == ["build"]
    assert read_states(database) == [("tiny", "serving"), ("other", "ready")]
    with database.connection() as connection:
        assert read_coverage(connection, other.space, chunker).missing == 0
