"""What an answer needs of a search hit."""

from typing import Protocol


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
