"""The baseline chunker: fixed size with overlap, by a library."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rag_pipeline.chunks.recipe import ChunkerRecipe
from rag_pipeline.chunks.sections import Range

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter

CountTokens = Callable[[Sequence[str]], list[int]]


def split_recursively(
    texts: Sequence[str], recipe: ChunkerRecipe, count_tokens: CountTokens | None = None
) -> list[list[Range]]:
    """Ranges of at most `recipe.size`, neighbours sharing up to `recipe.overlap`, as the library cuts them.

    semantic-text-splitter returns offsets with its chunks; splitters that return strings alone leave them to
    be searched for, which goes wrong where a text repeats itself.
    """
    splitter = _open_splitter(recipe, count_tokens)
    return [[(start, start + len(piece)) for start, piece in splitter.chunk_indices(text)] for text in texts]


def _open_splitter(recipe: ChunkerRecipe, count_tokens: CountTokens | None) -> "TextSplitter":
    from semantic_text_splitter import TextSplitter

    if recipe.unit == "characters":
        return TextSplitter(recipe.size, recipe.overlap)
    from rag_pipeline.chunks.embedded_text import estimate_tokens

    count = count_tokens or estimate_tokens
    return TextSplitter.from_callback(lambda text: count([text])[0], recipe.size, recipe.overlap)
