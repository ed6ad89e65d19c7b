"""Settings: environment before file before default, checked, and explained."""

import os
from pathlib import Path

import pytest

from rag_pipeline.settings import Settings, SettingsError, describe_settings, export_settings, load_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("RAG_"):
            monkeypatch.delenv(name)


def test_the_environment_comes_before_the_file_and_the_file_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rag.toml").write_text('chunk_size = 900\npool_size = 7\nmodel_slug = "mine"\n')
    monkeypatch.setenv("RAG_POOL_SIZE", "9")
    settings = load_settings()
    assert (settings.pool_size, settings.chunk_size, settings.model_slug, settings.hnsw_m) == (9, 900, "mine", 16)
    origins = {row.name: row.origin for row in describe_settings(settings)}
    assert origins["pool_size"] == "environment RAG_POOL_SIZE"
    assert origins["chunk_size"] == "rag.toml"
    assert origins["hnsw_m"] == "default"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RAG_POOL_SIZE", "0", "RAG_POOL_SIZE (rag.toml: pool_size): Input should be greater than or equal to 1"),
        ("RAG_CHUNKER", "magic", "RAG_CHUNKER (rag.toml: chunker): Input should be 'structure' or 'recursive'"),
        ("RAG_MODEL_SLUG", "a,b", "RAG_MODEL_SLUG (rag.toml: model_slug): String should match pattern"),
        ("RAG_PARSER_TIMEOUT_SECONDS", "-1", "RAG_PARSER_TIMEOUT_SECONDS"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert message in str(caught.value)


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_POOL_SIZE", "0")
    monkeypatch.setenv("RAG_BUCKETS", "1000")
    with pytest.raises(SettingsError, match=r"RAG_POOL_SIZE.*RAG_BUCKETS"):
        load_settings()


def test_a_name_that_is_no_setting_is_refused_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "rag.toml").write_text("chunksize = 900\n")
    with pytest.raises(SettingsError, match="chunksize"):
        load_settings()


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rag.toml").write_text("chunk_size 900\n")
    with pytest.raises(SettingsError, match=r"rag\.toml cannot be read"):
        load_settings()


def test_secrets_are_masked_wherever_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_DATABASE_URL", "postgresql://u:hidden@h/d")
    (tmp_path / "rag.toml").write_text('llm_api_key = "hidden"\n')
    settings = load_settings()
    assert "hidden" not in repr(settings)
    assert "hidden" not in repr(describe_settings(settings))
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:hidden@h/d"


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert [row.name for row in describe_settings(load_settings())] == list(Settings.model_fields)


def test_the_home_is_absolute_whatever_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_HOME", "here")
    assert load_settings().home == tmp_path / "here"


def test_child_processes_get_the_same_place_and_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_HOME", "set so that it is restored")
    monkeypatch.setenv("RAG_DATABASE_URL", "postgresql://restored@h/d")
    settings = load_settings(home=tmp_path / "x", database_url="postgresql://u:p@h/d")
    export_settings(settings)
    assert os.environ["RAG_HOME"] == str(tmp_path / "x")
    assert os.environ["RAG_DATABASE_URL"] == "postgresql://u:p@h/d"


def test_models_are_configured_in_the_file_by_slug(tmp_path: Path) -> None:
    (tmp_path / "rag.toml").write_text(
        '[models.big]\nsource = "openai:big"\nbase_url = "http://h/v1"\nquery_prompt = "q: "\n'
        '[models.small]\nsource = "./s"\n'
    )
    settings = load_settings()
    assert settings.models["big"].query_prompt == "q: "
    assert settings.models["small"].normalise is True
    assert {row.name: row.value for row in describe_settings(settings)}["models"] == "big, small"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models.big]\n", "models.big.source): Field required"),
        ('[models.big]\nsource = "x"\nsorce = "y"\n', "models.big.sorce): Extra inputs"),
        ('[models.big]\nsource = "x"\nweights_sha256 = "abc"\n', "models.big.weights_sha256): String should match"),
        ('[models."a|b"]\nsource = "x"\n', "RAG_MODELS"),
    ],
)
def test_a_bad_model_of_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rag.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CHANNEL": "webhook"}, "RAG_ALERT_CHANNEL=webhook needs RAG_ALERT_WEBHOOK_URL"),
        (
            {"CHANNEL": "email", "EMAIL_FROM": "a@b", "SMTP_HOST": "h"},
            "RAG_ALERT_CHANNEL=email needs RAG_ALERT_EMAIL_TO, RAG_ALERT_EMAIL_PASSWORD",
        ),
        ({"CHANNEL": "carrier pigeon"}, "RAG_ALERT_CHANNEL (rag.toml: alert_channel): String should match"),
    ],
)
def test_half_an_alert_channel_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"RAG_ALERT_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert message in str(caught.value)


def test_a_webhook_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_ALERT_CHANNEL", "webhook")
    monkeypatch.setenv("RAG_ALERT_WEBHOOK_URL", "https://hooks.example.org/hidden")
    assert "hidden" not in repr(describe_settings(load_settings()))
