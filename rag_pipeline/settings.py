"""Every setting of the product: its name, default, environment variable and check. Once.

Order of precedence: environment (`RAG_*`), then `rag.toml` in the working directory, then the default.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from rag_pipeline.errors import ExpectedError

TOML_FILE = "rag.toml"
# Also a partition key: Dagster joins a key's dimensions with '|' and the keys of a list with ','.
SLUG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class SettingsError(ExpectedError):
    """A setting has a value that cannot be used; the message names it, its origin and what is allowed."""


class ConfiguredModel(BaseModel):
    """A model of the settings file, `[models.SLUG]`: what `rag model add` takes, by the same names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1)
    base_url: str | None = None
    query_prompt: str = ""
    document_prompt: str = ""
    normalise: bool = True
    weights_sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")


class Settings(BaseSettings):
    """All settings, checked. Build it with `load_settings()` so that errors are readable."""

    model_config = SettingsConfigDict(env_prefix="RAG_", toml_file=TOML_FILE, extra="forbid", frozen=True)

    home: Path = Field(Path(".rag"), description="Folder of the embedded database, Dagster's files and caches")
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 16+ with pgvector 0.8+; unset: an embedded server under RAG_HOME"
    )
    dagster_database_url: SecretStr | None = Field(
        None, description="Dagster's storage; unset: database 'dagster' on the same server"
    )
    pool_size: int = Field(5, ge=1, le=100, description="Database connections kept open per process")

    model: str = Field(
        "packaged:all-MiniLM-L6-v2",
        description="Embedding model of the first generation (see `rag model add`)",
    )
    model_slug: str = Field("minilm", pattern=SLUG, description="Its short name")
    models: dict[Annotated[str, Field(pattern=SLUG)], ConfiguredModel] = Field(
        {}, description="More models, registered by themselves: [models.SLUG] source = …"
    )
    embedding_base_url: str | None = Field(None, description="OpenAI-compatible endpoint of RAG_MODEL=openai:…")
    embedding_api_key: SecretStr | None = Field(None, description="Key of that endpoint")
    buckets: int = Field(16, ge=1, le=256, description="Hash buckets of the embedding work; fixed at first run")

    chunker: Literal["structure", "recursive"] = Field("structure", description="How documents are split")
    chunk_size: int = Field(500, ge=100, le=20_000, description="Largest chunk, in RAG_CHUNK_UNIT")
    chunk_overlap: int = Field(0, ge=0, description="Overlap; 'recursive' only")
    chunk_unit: Literal["characters", "tokens"] = Field("characters", description="Unit of the two above")
    chunk_max_tokens: int = Field(
        256, ge=64, description="Ceiling of an embedded text in the model's tokens; a model that reads less lowers it"
    )
    stemmer: str = Field("english", description="Snowball stemmer of words in BM25; 'none' for no stemming")

    hnsw_m: int = Field(16, ge=2, le=100, description="HNSW links per node")
    hnsw_ef_construction: int = Field(64, ge=4, le=1000, description="HNSW candidate list while building")
    vector_type: Literal["halfvec", "vector"] = Field("halfvec", description="Column type of the index table")
    build_memory_mb: int | None = Field(
        None, ge=16, description="Ceiling of maintenance_work_mem for an index build; unset: a third of RAM"
    )

    fusion_weight: float = Field(0.6, ge=0, le=1, description="Share of the vector leg in hybrid search")
    ef_search: int = Field(40, ge=10, le=1000, description="Least HNSW candidate list of a search")
    recall_target: float = Field(0.95, ge=0.5, le=1, description="recall@10 against exact search that ef_search holds")
    rebuild_churn: float = Field(
        0.5,
        ge=0,
        description="Rows changed since an index was built, as a share of it, that ask for a fresh one; 0: never",
    )
    warm_seconds: float = Field(30, ge=0, description="Longest a promotion waits for serving processes to get ready")
    query_log_share: float = Field(0.1, ge=0, le=1, description="Share of searches kept for replay; 0: none")
    query_log_days: float = Field(30, ge=0, description="How long they are kept")

    parser_workers: int = Field(2, ge=1, le=64, description="Parser processes")
    parser_timeout_seconds: float = Field(60, gt=0, description="Longest parse of one file")
    parser_memory_mb: int = Field(2048, ge=128, description="Address space of one parser process")

    llm_base_url: str | None = Field(None, description="OpenAI-compatible chat endpoint; unset: extractive answers")
    llm_model: str | None = Field(None, description="Model name at that endpoint")
    llm_api_key: SecretStr | None = Field(None, description="Key of that endpoint")

    promotion_policy: Literal["manual", "auto"] = Field(
        "manual", description="'auto': a candidate whose verdict allows it serves without a person"
    )
    not_worse_margin: float = Field(0.01, ge=0, le=1, description="nDCG@10 a candidate may lose and still pass")
    soak_hours: float = Field(24, ge=0, description="How long a replaced generation is kept to roll back to")
    price_per_million: float | None = Field(None, ge=0, description="Price of a million embedded tokens, for plans")

    alert_channel: str = Field(
        "log",
        pattern=r"^(log|webhook|email|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="Where alerts go: log, webhook, email, or your own function as module:function",
    )
    alert_webhook_url: SecretStr | None = Field(None, description="Where 'webhook' posts (Slack, Mattermost, Teams …)")
    alert_email_from: str | None = Field(None, description="Sender of 'email'")
    alert_email_to: str | None = Field(None, description="Its recipients, separated by commas")
    alert_email_password: SecretStr | None = Field(None, description="Password at the mail server")
    alert_smtp_host: str | None = Field(None, description="Mail server of 'email'")
    alert_smtp_port: int | None = Field(None, ge=1, le=65535, description="Its port; unset: 465 (SSL), 587 (STARTTLS)")
    alert_smtp_type: Literal["SSL", "STARTTLS"] = Field("SSL", description="How the mail server is spoken to")
    alert_smtp_user: str | None = Field(None, description="User at the mail server; unset: the sender")

    @model_validator(mode="after")
    def _whole_channel(self) -> Self:
        needed = {
            "webhook": ("alert_webhook_url",),
            "email": ("alert_email_from", "alert_email_to", "alert_email_password", "alert_smtp_host"),
        }.get(self.alert_channel, ())
        if missing := [f"RAG_{name.upper()}" for name in needed if not getattr(self, name)]:
            raise ValueError(f"RAG_ALERT_CHANNEL={self.alert_channel} needs {', '.join(missing)}")
        return self

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**overrides: object) -> Settings:
    """Read, check and return the settings. Raises `SettingsError` naming every bad value."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = []
        for item in error.errors():
            if not item["loc"]:  # about several settings, which the message names
                lines.append(item["msg"].removeprefix("Value error, "))
                continue
            path = ".".join(str(part) for part in item["loc"])
            lines.append(f"RAG_{str(item['loc'][0]).upper()} ({TOML_FILE}: {path}): {item['msg']}")
        raise SettingsError("Bad settings: " + "; ".join(lines)) from error
    except ValueError as error:  # a rag.toml that is not TOML
        raise SettingsError(f"{TOML_FILE} cannot be read: {error}") from error


@dataclass(frozen=True)
class SettingRow:
    """One line of `rag settings`."""

    name: str
    value: str
    origin: str
    description: str


def describe_settings(settings: Settings) -> list[SettingRow]:
    """Every setting with its value (secrets masked) and where the value came from."""
    from_env = EnvSettingsSource(Settings)()
    from_toml = TomlConfigSettingsSource(Settings)() if Path(TOML_FILE).is_file() else {}
    rows = []
    for name, field in Settings.model_fields.items():
        if name in from_env:
            origin = f"environment RAG_{name.upper()}"
        elif name in from_toml:
            origin = TOML_FILE
        else:
            origin = "default"
        value = getattr(settings, name)
        shown = ", ".join(value) if isinstance(value, dict) else "" if value is None else str(value)
        rows.append(SettingRow(name, shown, origin, field.description or ""))
    return rows


def export_settings(settings: Settings) -> None:
    """Put the location-dependent settings into the environment, so that child processes agree with us."""
    os.environ["RAG_HOME"] = str(settings.home)
    if settings.database_url is not None:
        os.environ["RAG_DATABASE_URL"] = settings.database_url.get_secret_value()
