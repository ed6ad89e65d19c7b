"""Which models there are and what each one is: registered by name, known by what it computes."""

from functools import lru_cache

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings import store
from rag_pipeline.embeddings.fingerprint import (
    Fingerprint,
    Probe,
    compute_fingerprint,
    pack_fingerprint,
    probe_model,
    same_space,
    unpack_fingerprint,
)
from rag_pipeline.embeddings.models import EmbeddingModel, ModelRefused, ModelSpec, load_model
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.embeddings.tokens import TokenCounter, load_token_counter
from rag_pipeline.errors import MisuseError

MODEL_LOCK = 7461002


class UnknownModelError(MisuseError, LookupError):
    """No model of that slug; the message lists those there are."""


class SlugTakenError(MisuseError):
    """The slug names another model already."""


class DriftError(ModelRefused):
    """A model does not compute any more what it computed when it was registered."""


@lru_cache(maxsize=4)
def open_model(spec: ModelSpec) -> EmbeddingModel:
    """The loaded model of a spec; loading costs seconds, so a process keeps the last four."""
    return load_model(spec)


@lru_cache(maxsize=4)
def open_counter(source: str) -> TokenCounter:
    """The token counter of a model source, without loading the model."""
    return load_token_counter(ModelSpec("tokenizer", source))


def find_model(database: Database, slug: str) -> ModelRecord:
    """The model of that slug. Raises `UnknownModelError`."""
    with database.connection() as connection:
        record = store.read_model(connection, slug)
        if record is None:
            known = ", ".join(m.slug for m in store.list_models(connection)) or "none"
            raise UnknownModelError(f"No model is called {slug!r}. Registered: {known}. Add it: rag model add")
    return record


def add_model(database: Database, spec: ModelSpec) -> ModelRecord:
    """Register and probe a model; the same spec twice is one model.

    Raises `SlugTakenError` if the slug names something else, `ModelRefused` (recorded) if it must not be used.
    """
    with database.transaction() as connection:
        new = store.register_model(connection, spec)
    record = find_model(database, spec.slug)
    if not new and record.spec != spec:
        raise SlugTakenError(
            f"{spec.slug!r} is {record.spec.source} already, and what a slug means never changes. Choose another slug."
        )
    return record if record.state == "probed" else probe_registered_model(database, record)


def probe_registered_model(database: Database, record: ModelRecord) -> ModelRecord:
    """Load a registered model once, find out what it is, and give it its ledger: its own, or the one of the
    same space under another name."""
    try:
        model = open_model(record.spec)
        probe = probe_model(model)
        refuse_unusable(record.slug, probe)
        fingerprint = compute_fingerprint(model, record.spec)
    except ModelRefused as error:
        with database.transaction() as connection:
            store.refuse_model(connection, record.id, str(error))
        raise
    with database.transaction() as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", (MODEL_LOCK,))
        space_id = find_space(fingerprint, store.list_models(connection)) or record.id
        store.record_probe(
            connection,
            record.id,
            max_tokens=model.max_tokens,
            dimension=probe.dimension,
            fingerprint=fingerprint.digest,
            canaries=pack_fingerprint(fingerprint),
            space_id=space_id,
            probe={
                "seconds_per_text": probe.seconds_per_text,
                "norm_min": probe.norm_min,
                "norm_max": probe.norm_max,
            },
        )
        return store.read_model_by_id(connection, record.id)


def refuse_unusable(slug: str, probe: Probe) -> None:
    """Raise `ModelRefused` for a model whose probe vectors could not be stored."""
    if not probe.finite:
        raise ModelRefused(f"model {slug!r} gave NaN or infinity for a plain sentence; it cannot be used")
    if probe.norm_min <= 0:
        raise ModelRefused(f"model {slug!r} gave a zero vector for a plain sentence; it cannot be used")


def find_space(fingerprint: Fingerprint, models: list[ModelRecord]) -> int | None:
    """The space among the probed models that has these canary vectors, or None."""
    for model in models:
        if (
            model.space_id is not None
            and model.canaries
            and same_space(fingerprint, unpack_fingerprint(model.canaries))
        ):
            return model.space_id
    return None


def open_checked_model(record: ModelRecord) -> EmbeddingModel:
    """The loaded model, after its canaries were computed again. Raises `DriftError` if they differ."""
    _check_drift(record)
    return open_model(record.spec)


@lru_cache(maxsize=8)
def _canaries_now(spec: ModelSpec) -> Fingerprint:
    return compute_fingerprint(open_model(spec), spec)


def _check_drift(record: ModelRecord) -> None:
    if record.canaries is None:
        return
    verdict = same_space(_canaries_now(record.spec), unpack_fingerprint(record.canaries))
    if not verdict.same:
        raise DriftError(
            f"Model {record.slug!r} ({record.spec.source}) is not the one that was registered: {verdict.reason}. "
            "Nothing was embedded. Restore its weights, or register the new ones under another slug."
        )
