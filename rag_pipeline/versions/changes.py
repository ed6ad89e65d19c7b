"""What a document's content means for its history. Pure."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["added", "changed", "unchanged", "failed_before"]


@dataclass(frozen=True)
class Change:
    """What to do with content that was read, and why."""

    kind: Kind
    reason: str


def decide_change(content: bytes, current: bytes | None, failed: bytes | None) -> Change:
    """Compare a content hash with the current version's and with the last failure's (None: there is none)."""
    if current == content:
        return Change("unchanged", "same content hash as the current version")
    if failed == content:
        return Change("failed_before", "the same content could not be read before")
    if current is None:
        return Change("added", "no current version")
    return Change("changed", "another content hash than the current version")
