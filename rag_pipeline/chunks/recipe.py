"""What decides how a document becomes chunks, as one value with a fingerprint."""

import hashlib
import json
from dataclasses import asdict, dataclass

# Raise it when the same recipe would cut the same text elsewhere: chunks of two algorithms must not mix.
ALGORITHM_VERSION = 1

SMALLEST_SIZE = 64
SMALLEST_CEILING = 64


@dataclass(frozen=True)
class ChunkerRecipe:
    """How to chunk; JSON-serialisable, compared by value.

    name: "structure" (headings, blocks, content-anchored cuts) or "recursive" (fixed size with overlap, the
    usual baseline). size: target maximum of a chunk's text, in `unit`. overlap: recursive only, in `unit`.
    unit: "characters", or "tokens" (then `size` bounds the embedded text in the model's tokens).
    max_tokens: hard ceiling of the embedded text (title, heading path and text) in the model's tokens, None
    for no ceiling. The default is what all-MiniLM-L6-v2 reads before it truncates.
    Raises ValueError for a recipe that no text could satisfy.
    """

    name: str = "structure"
    # What is embedded anew after an edit grows with the size, retrieval quality hardly does: docs/decisions.md.
    size: int = 500
    overlap: int = 0
    unit: str = "characters"
    max_tokens: int | None = 256

    def __post_init__(self) -> None:
        if self.name not in ("structure", "recursive"):
            raise ValueError(f"chunker {self.name!r} is not known: use 'structure' or 'recursive'")
        if self.unit not in ("characters", "tokens"):
            raise ValueError(f"unit {self.unit!r} is not known: use 'characters' or 'tokens'")
        if self.size < SMALLEST_SIZE:
            raise ValueError(f"a chunk size of {self.size} is below {SMALLEST_SIZE}")
        if self.overlap and self.name != "recursive":
            raise ValueError("overlap belongs to the 'recursive' chunker: 'structure' repeats nothing")
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"an overlap of {self.overlap} does not fit into chunks of {self.size}")
        if self.max_tokens is not None and self.max_tokens < SMALLEST_CEILING:
            raise ValueError(f"a ceiling of {self.max_tokens} tokens is below {SMALLEST_CEILING}")

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256: equal for equal recipes of one algorithm version, across processes and machines."""
        canonical = json.dumps({"algorithm": ALGORITHM_VERSION, **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
