"""Hits for the tests of answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    text: str
    title: str | None = "Manual"
    uri: str = "manual.md"
    rank: int = 1


def make_hits(*texts: str) -> list[Hit]:
    return [Hit(text, uri=f"manual-{rank}.md", rank=rank) for rank, text in enumerate(texts, start=1)]
