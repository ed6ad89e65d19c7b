"""Whether the models in use still are what they were registered as, looked at afresh and as cheaply as it goes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rag_pipeline.embeddings.fingerprint import (
    CANARIES,
    QUERY_CANARY,
    Fingerprint,
    compute_fingerprint,
    make_fingerprint,
    same_space,
    unpack_fingerprint,
)
from rag_pipeline.embeddings.models import (
    ModelRefused,
    ModelSpec,
    ModelUnavailable,
    PartialEmbeddingError,
    load_model,
    parse_source,
)
from rag_pipeline.embeddings.registry import explain_drift
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.embeddings.weights import describe_changed_weights, open_model_directory, stat_model


@dataclass(frozen=True)
class Look:
    """What a look at a model found. `drift`: what is wrong, as a person is told, None: nothing; `away`: why nothing
    could be found out.

    `token` is what its files looked like ('' for an endpoint), `loaded` whether the model had to be loaded.
    """

    drift: str | None = None
    away: str | None = None
    token: str = ""
    loaded: bool = False


def look_at_model(record: ModelRecord, seen: str = "", may_load: bool = True) -> Look | None:
    """Compare a probed model with what it computes now; no cache of the process is asked.

    A model in files that look as they did (`seen`, the token of a look before) is not read again: its verdict is
    the one on record. One that must be loaded where `may_load` is off gives None. An endpoint gets one request.
    """
    spec = record.spec
    try:
        if parse_source(spec.source)[0] == "openai":
            return Look(_compare(record, make_fingerprint(_ask_canaries(spec), spec, None)))
        directory = open_model_directory(replace(spec, weights_sha256=None))
        token = stat_model(directory)
        if token == seen:
            return Look(drift=record.drift, token=token)
        if not may_load:
            return None
        open_model_directory(spec)
        changed = describe_changed_weights(spec, record.probe.get("weights_sha256"))
        if changed:
            return Look(explain_drift(record, changed), token=token)
        return Look(_compare(record, compute_fingerprint(load_model(spec), spec)), token=token, loaded=True)
    except ModelUnavailable as error:
        return Look(away=str(error))
    except ModelRefused as error:
        return Look(explain_drift(record, str(error)))
    except Exception as error:  # what a library raises on files at odds with it, or out of memory, is anyone's guess
        return Look(away=f"model {spec.slug!r} cannot be loaded: {error!r}")


def _ask_canaries(spec: ModelSpec) -> np.ndarray:
    """(9, dimension) float32 from an endpoint in one request, given up as soon as a query is."""
    model = load_model(replace(spec, query_prompt=""))
    texts = [*(spec.document_prompt + text for text in CANARIES), spec.query_prompt + QUERY_CANARY]
    try:
        return model.embed_queries(texts)
    except PartialEmbeddingError as error:
        return error.vectors


def _compare(record: ModelRecord, now: Fingerprint) -> str | None:
    verdict = same_space(now, unpack_fingerprint(record.canaries or b""))
    return None if verdict.same else explain_drift(record, verdict.reason)


def describe_looks(looks: Mapping[str, Look]) -> str:
    """One line for whoever watches the ticks."""
    words = {slug: look.away or look.drift or "unchanged" for slug, look in looks.items()}
    return "; ".join(f"{slug}: {said}" for slug, said in words.items())
