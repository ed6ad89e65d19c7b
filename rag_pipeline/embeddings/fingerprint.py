"""What a model computes, as a value: the vectors of fixed texts. Names and addresses prove nothing."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag_pipeline.embeddings.models import EmbeddingModel, ModelRefused, ModelSpec, PartialEmbeddingError

# Scripts, lengths and kinds of text apart, so that a change in any part of a model shows in one of them.
# The last one is longer than common limits: where a model cuts is part of what it computes.
# Never change these: every stored fingerprint would become incomparable.
CANARIES = (
    "hello",
    "The quick brown fox jumps over the lazy dog.",
    "How do I restore a PostgreSQL backup into a new database without losing roles and grants?",
    "def area(r: float) -> float:\n    return 3.14159 * r ** 2  # m²",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "대한민국의 주권은 국민에게 있고, 모든 권력은 국민으로부터 나온다.",
    "Вода кипит при 100 °C; الماء يغلي عند مئة درجة; पानी सौ डिग्री पर उबलता है।",
    " ".join(
        f"Section {number}: the {word} valve of line {number * 7} was inspected, cleaned and found tight."
        for number, word in enumerate(("inlet", "outlet", "relief", "check", "needle", "gate") * 7, start=1)
    ),
)
QUERY_CANARY = "which valve was leaking?"

# Cosine distance of the worst canary. Measured on all-MiniLM-L6-v2: batch sizes and thread counts 1.2e-7,
# weights rounded to float16 1.0e-6; the largest weight of one tensor with its sign turned at least 6.8e-6,
# in the middle 2.7e-3 (71 tensors).
TOLERANCE = 5e-6
# A server that computes in bfloat16 is noisier than that with itself: its own noise widens the tolerance.
_NOISE_FACTOR = 4.0
_MOST_TOLERANCE = 1e-3
_NOISE_CANARIES = CANARIES[1:4]
_NORM_TOLERANCE = 1e-3
_PROBE_TEXTS = ("probe", CANARIES[2], CANARIES[4], CANARIES[5])


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """`canary_vectors` (9, dimension) float32: the canaries as documents, then one query; NaN rows: refused.

    `noise` is the cosine distance of a canary embedded alone from the same one in a batch. Two equal digests
    are the same space. Two different ones prove nothing, as vectors carry rounding noise: ask `same_space`.
    """

    canary_vectors: np.ndarray
    digest: bytes
    query_prompt: str
    document_prompt: str
    normalise: bool
    max_tokens: int | None
    noise: float = 0.0

    @property
    def dimension(self) -> int:
        return int(self.canary_vectors.shape[1])


@dataclass(frozen=True)
class SpaceVerdict:
    """Whether vectors of both may be compared, and why (not). Usable as a truth value."""

    same: bool
    reason: str

    def __bool__(self) -> bool:
        return self.same


@dataclass(frozen=True)
class Probe:
    """What a handful of texts showed; seconds per text include the round trip of an endpoint."""

    dimension: int
    norm_min: float
    norm_max: float
    seconds_per_text: float
    finite: bool


def compute_fingerprint(model: EmbeddingModel, spec: ModelSpec) -> Fingerprint:
    """Embed the canaries. One that an endpoint refuses as too long is a NaN row and not compared."""
    try:
        documents = model.embed_documents(CANARIES)
    except PartialEmbeddingError as error:
        documents = error.vectors
    vectors = np.vstack([documents, model.embed_queries([QUERY_CANARY])]).astype(np.float32)
    if int(np.isfinite(vectors).all(axis=1).sum()) < len(vectors) - 2:
        raise ModelRefused(f"model {spec.slug!r} cannot embed the canary texts")
    alone = np.vstack([model.embed_documents([text]) for text in _NOISE_CANARIES])
    noise = max(0.0, float(_cosine_distances(alone, vectors[1 : 1 + len(alone)]).max()))
    return make_fingerprint(vectors, spec, model.max_tokens, noise)


def make_fingerprint(vectors: np.ndarray, spec: ModelSpec, max_tokens: int | None, noise: float = 0.0) -> Fingerprint:
    """A fingerprint of canary vectors that are already there."""
    settings = [spec.query_prompt, spec.document_prompt, spec.normalise, max_tokens, vectors.shape[1]]
    digest = hashlib.sha256(json.dumps(settings).encode())
    # Three decimals are coarser than noise except at a rounding edge; adding 0.0 turns -0.0 into 0.0.
    digest.update((np.round(vectors, 3) + np.float32(0)).astype("<f4").tobytes())
    return Fingerprint(
        canary_vectors=vectors,
        digest=digest.digest(),
        query_prompt=spec.query_prompt,
        document_prompt=spec.document_prompt,
        normalise=spec.normalise,
        max_tokens=max_tokens,
        noise=noise,
    )


def same_space(left: Fingerprint, right: Fingerprint, tolerance: float = TOLERANCE) -> SpaceVerdict:
    """Whether vectors stored under one are valid under the other.

    Prompts and normalisation must be equal, every canary that both took must have the same direction within
    `tolerance` (cosine distance; more where a model is noisier than that with itself) and the same length
    within a thousandth. `max_tokens` only counts where both know it: an endpoint does not, and its cut shows
    in the long canary.
    """
    if left.dimension != right.dimension:
        return SpaceVerdict(False, f"dimension {left.dimension} and {right.dimension}")
    for name in ("query_prompt", "document_prompt", "normalise"):
        if getattr(left, name) != getattr(right, name):
            return SpaceVerdict(False, f"{name} {getattr(left, name)!r} and {getattr(right, name)!r}")
    known = left.max_tokens is not None and right.max_tokens is not None
    if known and left.max_tokens != right.max_tokens:
        return SpaceVerdict(False, f"max_tokens {left.max_tokens} and {right.max_tokens}")
    noise = _NOISE_FACTOR * max(left.noise, right.noise)
    widened = max(tolerance, min(noise, _MOST_TOLERANCE))
    return _compare_canaries(left.canary_vectors, right.canary_vectors, widened)


def _compare_canaries(left: np.ndarray, right: np.ndarray, tolerance: float) -> SpaceVerdict:
    if left.shape != right.shape:
        return SpaceVerdict(False, f"{len(left)} and {len(right)} canaries")
    both = np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)
    if both.sum() < len(left) - 2:
        return SpaceVerdict(False, f"only {both.sum()} canaries to compare")
    one, other = left[both].astype(np.float64), right[both].astype(np.float64)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    distance = float(_cosine_distances(one, other).max())
    stretch = float((np.abs(lengths[0] - lengths[1]) / np.maximum(*lengths).clip(min=1e-12)).max())
    if distance > tolerance:
        return SpaceVerdict(False, f"canaries differ by a cosine distance of {distance:.2g}")
    if stretch > _NORM_TOLERANCE:
        return SpaceVerdict(False, f"canary lengths differ by {stretch:.2g}")
    return SpaceVerdict(True, f"canaries agree within a cosine distance of {max(distance, 0):.2g}")


def _cosine_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row, in float64. Two zero vectors agree; a zero vector and another one do not."""
    one, other = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    product = lengths[0] * lengths[1]
    cosine = (one * other).sum(axis=1) / np.where(product > 0, product, 1)
    cosine[(lengths[0] == 0) & (lengths[1] == 0)] = 1.0
    return np.asarray(1 - cosine)


def probe_model(model: EmbeddingModel, texts: Sequence[str] = _PROBE_TEXTS) -> Probe:
    """Embed four short texts once, before a whole corpus is: dimension, lengths, speed, finite numbers.

    Raises what `embed_documents` raises, except for single refused texts, which show as not finite.
    """
    began = time.perf_counter()
    try:
        vectors = model.embed_documents(texts)
    except PartialEmbeddingError as error:
        vectors = error.vectors
    seconds = time.perf_counter() - began
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return Probe(
        dimension=int(vectors.shape[1]),
        norm_min=float(lengths.min()),
        norm_max=float(lengths.max()),
        seconds_per_text=seconds / len(texts),
        finite=bool(np.isfinite(vectors).all()),
    )


def pack_fingerprint(fingerprint: Fingerprint) -> bytes:
    """Bytes for a database column: a JSON line of settings, then the vectors as little-endian float32."""
    settings = {
        "query_prompt": fingerprint.query_prompt,
        "document_prompt": fingerprint.document_prompt,
        "normalise": fingerprint.normalise,
        "max_tokens": fingerprint.max_tokens,
        "noise": fingerprint.noise,
        "digest": fingerprint.digest.hex(),
        "shape": list(fingerprint.canary_vectors.shape),
    }
    return json.dumps(settings).encode() + b"\n" + fingerprint.canary_vectors.astype("<f4").tobytes()


def unpack_fingerprint(packed: bytes) -> Fingerprint:
    """The inverse of `pack_fingerprint`."""
    head, _, body = bytes(packed).partition(b"\n")
    settings = json.loads(head)
    return Fingerprint(
        canary_vectors=np.frombuffer(body, dtype="<f4").reshape(settings["shape"]).astype(np.float32),
        digest=bytes.fromhex(settings["digest"]),
        query_prompt=settings["query_prompt"],
        document_prompt=settings["document_prompt"],
        normalise=settings["normalise"],
        max_tokens=settings["max_tokens"],
        noise=settings["noise"],
    )
