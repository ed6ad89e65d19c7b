"""What a search returns, and what an answer needs of it."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Mode = Literal["hybrid", "vector", "lexical"]


class Passage(Protocol):
    """One hit as the answering code sees it. Passages are cited by their place in the list given, from 1."""

    @property
    def text(self) -> str: ...

    @property
    def title(self) -> str | None: ...

    @property
    def uri(self) -> str: ...

    @property
    def rank(self) -> int: ...


@dataclass(frozen=True)
class Hit:
    """One result. Offsets are in characters of the version's text; scores are cosine and BM25."""

    rank: int
    score: float
    document_id: str
    uri: str
    title: str
    version: int
    chunk_id: int
    text: str
    start: int
    end: int
    heading_path: list[str]
    metadata: dict[str, Any]
    generation: int
    scores: dict[str, float | None]
