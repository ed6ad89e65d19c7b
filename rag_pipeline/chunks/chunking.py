"""Documents -> chunks: the entry point. Pure: the same texts, recipe and token counts give the same chunks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rag_pipeline.chunks.embedded_text import (
    content_address,
    embedded_text,
    estimate_tokens,
    is_same_heading,
)
from rag_pipeline.chunks.markdown_blocks import Block, normalise_line_breaks, scan_blocks
from rag_pipeline.chunks.recipe import ChunkerRecipe
from rag_pipeline.chunks.sections import Range, clip_blocks, find_heading_paths, split_sections

__all__ = ["Chunk", "ChunkerRecipe", "CountTokens", "chunk_documents", "content_address", "embedded_text"]

# Batch token counter: texts in, one number per text out, special tokens included if the model adds them.
CountTokens = Callable[[Sequence[str]], list[int]]

# First guess for a size given in tokens; what turns out too long is cut again.
CHARACTERS_PER_TOKEN = 4
# Tokens are not spread evenly over a text: aim below the ceiling, so that one more cut is rarely needed.
CEILING_MARGIN = 0.93
# Below this many tokens of text per chunk further cutting would only multiply headers.
FEWEST_TEXT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """`document_text[start:end] == text`, in characters; token_count is that of the embedded text."""

    start: int
    end: int
    heading_path: tuple[str, ...]
    text: str
    token_count: int


def chunk_documents(
    documents: Sequence[tuple[str, str]], recipe: ChunkerRecipe, count_tokens: CountTokens | None = None
) -> list[list[Chunk]]:
    """The chunks of each (title, text), in the order of the text; none for a text of white space.

    Every character that is not white space is in a chunk, and chunks overlap only where the recipe says so.
    No embedded text exceeds the recipe's ceiling, counted by `count_tokens` (without one: estimated), as long
    as the header leaves FEWEST_TEXT_TOKENS for the text; a heading path that takes over half of the ceiling
    is dropped. Tokens are counted for the whole batch at once: give some hundred documents per call.
    """
    ceiling = recipe.max_tokens
    if recipe.unit == "tokens":
        ceiling = min(recipe.size, ceiling or recipe.size)
    drafts = [_Draft(title, text, recipe.name == "structure") for title, text in documents]
    if recipe.name == "recursive":
        from rag_pipeline.chunks.recursive import split_recursively

        ranges = split_recursively([draft.text for draft in drafts], recipe, count_tokens)
        for draft, found in zip(drafts, ranges, strict=True):
            draft.set_pieces(draft.trim(found))
    else:
        limit = recipe.size * (CHARACTERS_PER_TOKEN if recipe.unit == "tokens" else 1)
        for draft in drafts:
            draft.set_pieces(draft.cut_whole(limit))
    _cut_to_ceiling(drafts, ceiling, count_tokens or estimate_tokens)
    return [draft.pieces for draft in drafts]


@dataclass(slots=True)
class _Draft:
    """A document on its way: its pieces so far, and its structure once it was needed."""

    title: str
    text: str
    structured: bool
    pieces: list[Chunk] = field(default_factory=list)
    scanned: tuple[str, list[Block]] | None = None

    def structure(self) -> tuple[str, list[Block]]:
        if self.scanned is None:
            text = normalise_line_breaks(self.text)
            self.scanned = text, scan_blocks(text)
        return self.scanned

    def cut_whole(self, limit: int) -> list[Range]:
        # Most passages fit: without a trace of a heading their path is empty and nothing need be scanned.
        text = self.text
        if len(text) <= limit and "#" not in text and "\n=" not in text and "\n-" not in text:
            return self.trim([(0, len(text))])
        scanned, blocks = self.structure()
        return self.trim(split_sections(scanned, blocks, limit))

    def cut_again(self, piece: Chunk, limit: int) -> list[Range]:
        scanned, blocks = self.structure()
        return self.trim(split_sections(scanned, clip_blocks(blocks, piece.start, piece.end), limit))

    def trim(self, ranges: Sequence[Range]) -> list[Range]:
        trimmed = (_trim(self.text, start, end) for start, end in ranges)
        return [(start, end) for start, end in trimmed if start < end]

    def set_pieces(self, parts: Sequence[Range | Chunk], bare: frozenset[int] = frozenset()) -> None:
        """Chunks are kept; ranges become chunks without a count (-1), those at `bare` without a path."""
        ranges = [(part.start, part.end) if isinstance(part, Chunk) else part for part in parts]
        paths: Sequence[tuple[str, ...]] = [()] * len(parts)
        if self.structured and self.scanned is not None:
            paths = find_heading_paths(self.scanned[1], ranges)
        self.pieces = [
            part
            if isinstance(part, Chunk)
            else Chunk(*part, () if at in bare else self._without_title(path), self.text[slice(*part)], -1)
            for at, (part, path) in enumerate(zip(parts, paths, strict=True))
        ]

    def _without_title(self, path: tuple[str, ...]) -> tuple[str, ...]:
        return path[1:] if path and is_same_heading(path[0], self.title) else path


def _trim(text: str, start: int, end: int) -> Range:
    """Without white space at the end and blank lines at the start; the first line keeps its indentation."""
    piece = text[start:end]
    kept = piece.rstrip()
    indented = len(kept) - len(kept.lstrip())
    if indented:
        start += kept.rfind("\n", 0, indented) + 1
    return start, start + len(kept) - (kept.rfind("\n", 0, indented) + 1 if indented else 0)


def _count_new(drafts: Sequence[_Draft], count_tokens: CountTokens) -> list[tuple[int, int]]:
    """Counts all pieces without a count in one call; returns where they are: (draft, piece)."""
    new = [
        (at, index)
        for at, draft in enumerate(drafts)
        for index, piece in enumerate(draft.pieces)
        if piece.token_count < 0
    ]
    texts = [
        embedded_text(drafts[at].title, (piece := drafts[at].pieces[index]).heading_path, piece.text)
        for at, index in new
    ]
    for (at, index), tokens in zip(new, count_tokens(texts) if texts else [], strict=True):
        drafts[at].pieces[index] = replace(drafts[at].pieces[index], token_count=tokens)
    return new


def _cut_to_ceiling(drafts: Sequence[_Draft], ceiling: int | None, count_tokens: CountTokens) -> None:
    """Counts every piece, and cuts those over the ceiling until none is left that can be cut."""
    aim = CEILING_MARGIN
    new = _count_new(drafts, count_tokens)
    while ceiling is not None:
        over: dict[int, list[int]] = {}
        for at, index in new:
            if drafts[at].pieces[index].token_count > ceiling:
                over.setdefault(at, []).append(index)
        if not over:
            return
        headers = _count_headers([(drafts[at], index) for at in over for index in over[at]], count_tokens)
        for at, indices in over.items():
            _cut_pieces(drafts[at], {index: next(headers) for index in indices}, ceiling, aim)
        new = _count_new([drafts[at] for at in over], count_tokens)
        drafts = [drafts[at] for at in over]
        aim *= 0.9  # ends the loop: the limit falls until a piece is one character


def _count_headers(pieces: Sequence[tuple[_Draft, int]], count_tokens: CountTokens) -> Iterator[tuple[int, int]]:
    """For each piece the tokens of its header, with its heading path and without."""
    texts = [
        embedded_text(draft.title, path, "")
        for draft, index in pieces
        for path in (draft.pieces[index].heading_path, ())
    ]
    counts = iter(count_tokens(texts))
    return zip(counts, counts, strict=True)


def _cut_pieces(draft: _Draft, headers: dict[int, tuple[int, int]], ceiling: int, aim: float) -> None:
    parts: list[Range | Chunk] = []
    bare: list[int] = []
    for index, piece in enumerate(draft.pieces):
        header, title_only = headers.get(index, (0, 0))
        words = piece.token_count - header
        if index not in headers or len(piece.text) < 2 or words <= FEWEST_TEXT_TOKENS >= ceiling - title_only:
            parts.append(piece)
            continue
        without_path = header > ceiling // 2
        room = max(ceiling - (title_only if without_path else header), FEWEST_TEXT_TOKENS)
        limit = min(len(piece.text) - 1, int(len(piece.text) * aim * room / max(words, 1)))
        found = draft.cut_again(piece, max(1, limit))
        if without_path:
            bare += range(len(parts), len(parts) + len(found))
        parts += found
    draft.set_pieces(parts, frozenset(bare))
