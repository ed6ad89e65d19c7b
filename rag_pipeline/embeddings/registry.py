"""Which models there are and what each one is: registered by name, known by what it computes."""

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
from rag_pipeline.embeddings.keeping import Kept
from rag_pipeline.embeddings.models import (
    EmbeddingModel,
    ModelError,
    ModelRefused,
    ModelSpec,
    ModelUnavailable,
    is_endpoint,
    load_model,
)
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.embeddings.tokens import TokenCounter, load_token_counter

MODEL_LOCK = 7461002
# What is behind an address can change while a process runs; files that are in memory cannot.
RECHECK_SECONDS = 300.0


class UnknownModelError(LookupError):
    """No model of that slug; the message lists those there are."""


class SlugTakenError(Exception):
    """The slug names another model already."""


class DriftError(ModelRefused):
    """A model does not compute any more what it computed when it was registered."""


def _load(spec: ModelSpec) -> EmbeddingModel:
    try:
        return load_model(spec)
    except ModelError:
        raise
    except Exception as error:  # weights cut short, a library at odds with its files: what it raises is anyone's guess
        raise ModelUnavailable(f"model {spec.slug!r} ({spec.source}) cannot be loaded: {error!r}") from error


def _make_counter(source: str) -> TokenCounter:
    return load_token_counter(ModelSpec("tokenizer", source))


def _compute_canaries(spec: ModelSpec, patient: bool) -> Fingerprint:
    model = open_model(spec)
    if not patient and is_endpoint(spec):
        from rag_pipeline.embeddings.openai_compatible import EndpointModel

        assert isinstance(model, EndpointModel)
        model = model.hurried()
    return compute_fingerprint(model, spec)


def recheck_after(spec: ModelSpec) -> float:
    """Seconds for which a check of a model's canaries is good."""
    return RECHECK_SECONDS if is_endpoint(spec) else float("inf")


# The loaded model of a spec; loading costs seconds, so a process keeps the last four.
open_model: Kept[EmbeddingModel] = Kept(_load, 4)
# The token counter of a model source, without loading the model.
open_counter: Kept[TokenCounter] = Kept(_make_counter, 4)
_canaries_now: Kept[Fingerprint] = Kept(_compute_canaries, 8, lambda spec, _patient: recheck_after(spec))


def forget_model(spec: ModelSpec) -> None:
    """Let go of a loaded model: whoever still holds it goes on using it, the next one loads and checks it anew."""
    open_model.forget(spec)
    for patient in (True, False):
        _canaries_now.forget(spec, patient)


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


def open_checked_model(record: ModelRecord, *, patient: bool = True) -> EmbeddingModel:
    """The loaded model, after its canaries were computed again (an endpoint's every `RECHECK_SECONDS`).

    `patient`: a busy endpoint is waited for as long as documents wait, else as long as a query does. Raises
    `DriftError` where the canaries differ, and what loading and embedding raise.
    """
    model = open_model(record.spec)
    if record.canaries is None:
        return model
    verdict = same_space(_canaries_now(record.spec, patient), unpack_fingerprint(record.canaries))
    if not verdict.same:
        forget_model(record.spec)  # so that weights which were restored are seen
        raise DriftError(
            f"Model {record.slug!r} ({record.spec.source}) is not the one that was registered: {verdict.reason}. "
            "Nothing was embedded. Restore its weights, or register the new ones under another slug."
        )
    return model
