"""A document as a tree of sections: which spans become chunks, and under which headings each one stands."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from rag_pipeline.chunks.anchors import GLUED, Atom, cut_at_anchors, split_into_atoms
from rag_pipeline.chunks.markdown_blocks import Block, BlockKind

# A section shorter than this share of the limit is joined to the section after it: a heading with one line
# under it says too little to be found, and too many of them would make the mean chunk small.
JOINED_BELOW = 0.25


Range = tuple[int, int]


def split_sections(text: str, blocks: Sequence[Block], limit: int) -> list[Range]:
    """Ranges of at most `limit` characters that cover every block, in order and disjoint.

    A section that fits stays whole with its subsections; one that doesn't is cut at its subsections, and
    where it has none at anchors in its content. So a change inside one section leaves the others' ranges
    alone, short sections joined to their neighbour excepted. A heading goes with what follows it.
    Blank lines between a heading and its text may take a range over the limit, never its words.
    """
    if not blocks:
        return []
    starts = _Splitter(text, blocks, limit).split(0, len(blocks))
    return list(pairwise([*starts, blocks[-1].end]))


def clip_blocks(blocks: Sequence[Block], start: int, end: int) -> list[Block]:
    """The blocks of `text[start:end]`; those that reach over its edges are cut there."""
    first = bisect_right(blocks, start, key=lambda block: block.end)
    last = bisect_left(blocks, end, key=lambda block: block.start)
    return [block._replace(start=max(block.start, start), end=min(block.end, end)) for block in blocks[first:last]]


class _Splitter:
    def __init__(self, text: str, blocks: Sequence[Block], limit: int) -> None:
        self.text, self.blocks, self.limit = text, blocks, limit

    def size(self, low: int, high: int) -> int:
        return self.blocks[high - 1].end - self.blocks[low].start

    def split(self, low: int, high: int) -> list[int]:
        """Starts of the chunks of blocks[low:high]; every call in it is about a deeper heading level."""
        if self.size(low, high) <= self.limit:
            return [self.blocks[low].start]
        body = self._after_headings(low, high)
        headings = [index for index in range(max(body, low + 1), high) if self.blocks[index].level]
        if not headings:
            return self._split_body(low, body, high)
        top = min(self.blocks[index].level for index in headings)
        bounds = [low, *(index for index in headings if self.blocks[index].level == top), high]
        return self._split_pieces(list(pairwise(bounds)))

    def _after_headings(self, low: int, high: int) -> int:
        """The index after the headings that open this range and must not be parted from what follows."""
        index = low
        while index < high - 1 and self.blocks[index].level and self.size(low, index + 1) <= self.limit // 2:
            index += 1
        return index

    def _split_pieces(self, pieces: list[Range]) -> list[int]:
        """Starts in neighbouring sections: short ones are joined to the one that follows."""
        starts: list[int] = []
        run: list[Range] = []
        for piece in pieces:
            run.append(piece)
            if self.size(*piece) < self.limit * JOINED_BELOW and piece is not pieces[-1]:
                continue
            if len(run) > 1 and self.size(*piece) > self.limit:
                glued = self._glue_headings(run) if len(run) < len(pieces) else run.pop()
                starts += self._join_short(run) + self.split(*glued)
            else:
                starts += self._join_short(run) if len(run) > 1 else self.split(*piece)
            run = []
        return starts

    def _glue_headings(self, run: list[Range]) -> Range:
        """Takes the last section off the run, with the headings without text that stand directly before it."""
        low, high = run.pop()
        while run and self._is_headings_only(*run[-1]) and self.size(run[-1][0], low) <= self.limit // 4:
            low = run.pop()[0]
        return low, high

    def _join_short(self, run: list[Range]) -> list[int]:
        """Starts for sections that each fit: one if they fit together, else at anchors between them."""
        if not run:
            return []
        atoms = [
            Atom(self.blocks[low].start, GLUED if index and self._is_headings_only(*run[index - 1]) else 0)
            for index, (low, _) in enumerate(run)
        ]
        return cut_at_anchors(self.text, atoms, self.blocks[run[-1][1] - 1].end, self.limit)

    def _is_headings_only(self, low: int, high: int) -> bool:
        return all(self.blocks[index].level for index in range(low, high))

    def _split_body(self, low: int, body: int, high: int) -> list[int]:
        """Cuts in a range without further headings: its headings and its first content stay together."""
        atoms: list[Atom] = []
        lead = self.blocks[body].start - self.blocks[low].start
        for index in range(body, high):
            block = self.blocks[index]
            room = max(self.limit // 2, self.limit - lead, 1) if index == body else self.limit
            rank = self._rank(index) if index > body else 0
            atoms += split_into_atoms(self.text, block.start, block.end, block.kind, room, rank)
        atoms[0] = Atom(self.blocks[low].start, 0)
        return cut_at_anchors(self.text, atoms, self.blocks[high - 1].end, self.limit)

    def _rank(self, index: int) -> int:
        """Strength of the boundary before a block: weak after `:`, none after an opener or before a closer."""
        before = self.blocks[index - 1]
        if before.kind is BlockKind.OPENER or self.blocks[index].kind is BlockKind.CLOSER:
            return GLUED
        return 1 if self.text[before.end - 1] in ":：" else 0


def find_heading_paths(blocks: Sequence[Block], ranges: Sequence[Range]) -> list[tuple[str, ...]]:
    """For each range the headings, outermost first, of the deepest section that contains all of it."""
    paths: list[tuple[str, ...]] = []
    standing: list[Block] = []
    index = 0
    for _, end in ranges:
        common: list[Block] | None = None
        leading = True
        while index < len(blocks) and blocks[index].start < end:
            block = blocks[index]
            index += 1
            if not block.level:
                common = standing if common is None else common
                leading = False
                continue
            above = [heading for heading in standing if heading.level < block.level]
            nested = len(above) == len(standing)
            standing = [*above, block]
            if common is None or (leading and nested):
                common = standing
            else:
                leading = False
                common = [heading for heading in common if heading.level < block.level]
        path = standing if common is None else common
        paths.append(tuple(heading.heading for heading in path if heading.heading))
    return paths
