"""Where to cut when no heading says so: boundaries chosen by content, not by counting from the start.

Content-defined chunking (Muthitacharoen et al., LBFS, 2001; the best boundary within a window follows
Bjørner et al., "Content-dependent chunking for differential compression", 2010), over sentences and blocks
instead of bytes. Counting makes every chunk after an edit a new one; a boundary that is chosen because of the
words that follow it is chosen again after the edit, so the chunks behind it stay what they were.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

from rag_pipeline.chunks.markdown_blocks import BlockKind

# A cut is looked for between this share of the limit and the limit: the window must be wide enough that two
# windows which start at different places usually see the same best boundary.
EARLIEST_CUT = 0.6
SMALLEST_TAIL = 0.25
# How much of what follows a boundary is hashed: enough to tell boundaries apart, little enough that an edit
# further on leaves the choice alone.
ANCHOR_CHARACTERS = 48
# From this rank on a boundary separates what belongs together (an opener from its content).
GLUED = 20

_SENTENCE = re.compile(
    r"(?<=[.!?…])[\"'”’)\]*_]{0,3}\s+"
    r"|[。！？｡](?![。！？｡])[」』）】〉》”’\"]{0,3}\s*"
)
_LINE = re.compile(r"\n")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_CLAUSE = re.compile(r"[,;:，、；：․·](?=\D)\s*")
_WORD = re.compile(r"\s+")
_TOP_ITEM = re.compile(r"\n(?=(?:[-*+]|[0-9]{1,9}[.)])[ \t])")
_ITEM = re.compile(r"\n(?=[ \t]*(?:[-*+]|[0-9]{1,9}[.)])[ \t])")
_PROSE = (_SENTENCE, _LINE, _CLAUSE, _WORD)
_BOUNDARIES: dict[BlockKind, tuple[re.Pattern[str], ...]] = {
    BlockKind.CODE: (_BLANK_LINE, _LINE, _WORD),
    BlockKind.TABLE: (_LINE, _WORD),
    BlockKind.LIST: (_TOP_ITEM, _ITEM, _BLANK_LINE, *_PROSE),
}


class Atom(NamedTuple):
    """What is not cut: it starts at `start`; a low rank marks a strong boundary before it."""

    start: int
    rank: int


def split_into_atoms(text: str, start: int, end: int, kind: BlockKind, limit: int, rank: int) -> list[Atom]:
    """Atoms of `text[start:end]`, none longer than `limit`; one atom if the whole fits.

    Taken apart level by level (items, sentences, lines, clauses, words, then graphemes), and only where the
    level above left a piece too long: every level reads the text once, so the time is linear.
    """
    atoms = [Atom(start, rank)]
    if end - start <= limit:
        return atoms
    for depth, boundary in enumerate(_BOUNDARIES.get(kind, _PROSE)):
        finer = rank + 2 + depth
        pieces = _with_ends(atoms, end)
        if all(stop - atom.start <= limit for atom, stop in pieces):
            return atoms
        atoms = []
        for atom, stop in pieces:
            atoms.append(atom)
            if stop - atom.start > limit:
                atoms += [
                    Atom(found.end(), finer)
                    for found in boundary.finditer(text, atom.start, stop)
                    if atom.start < found.end() < stop
                ]
    return [
        piece
        for atom, stop in _with_ends(atoms, end)
        for piece in (_split_run(text, atom, stop, limit) if stop - atom.start > limit else (atom,))
    ]


def _with_ends(atoms: Sequence[Atom], end: int) -> list[tuple[Atom, int]]:
    return [(atom, after.start) for atom, after in pairwise([*atoms, Atom(end, 0)])]


def _split_run(text: str, atom: Atom, end: int, limit: int) -> list[Atom]:
    """A run without any boundary (base64, CJK without punctuation), cut where eight characters hash lowest."""
    atoms = [atom]
    start = atom.start
    while end - start > limit:
        earliest = start + max(1, int(limit * EARLIEST_CUT))
        latest = max(earliest, min(start + limit, end - int(limit * SMALLEST_TAIL)))
        window = text[earliest - 4 : latest + 5] if earliest >= 4 else ""
        hashes = [
            crc32(window[offset : offset + 8].encode("utf-8", "surrogatepass"))
            for offset in range(latest - earliest + 1)
        ]
        cut = earliest + hashes.index(min(hashes))
        start = max(start + 1, grapheme_boundary_at_or_before(text, cut, start))
        atoms.append(Atom(start, GLUED - 1))
    return atoms


def grapheme_boundary_at_or_before(text: str, position: int, floor: int) -> int:
    """The nearest place at or before `position` that lies between two graphemes; `position` if none is near."""
    nearby = text[max(floor, position - 40) : position + 8]
    if nearby.isascii():
        return position
    import regex

    offset = max(floor, position - 40)
    ends = [offset + found.start() for found in regex.finditer(r"\X", nearby)]
    before = [end for end in ends if floor < end <= position]
    return before[-1] if before else position


def cut_at_anchors(text: str, atoms: Sequence[Atom], end: int, limit: int) -> list[int]:
    """The starts of the chunks of `text[atoms[0].start:end]`: each a start of an atom, none over `limit` long.

    Within the window the strongest boundary wins, and among equals the one whose following words hash lowest.
    Given that no atom is longer than `limit`.
    """
    starts = [atom.start for atom in atoms]
    cuts = [0]
    while end - starts[cuts[-1]] > limit and cuts[-1] + 1 < len(starts):
        cuts.append(_next_cut(text, atoms, starts, cuts[-1], end, limit))
    return [starts[cut] for cut in cuts]


def _next_cut(text: str, atoms: Sequence[Atom], starts: list[int], current: int, end: int, limit: int) -> int:
    origin = starts[current]
    beyond = bisect_right(starts, origin + limit, current + 1)
    earliest = bisect_left(starts, origin + int(limit * EARLIEST_CUT), current + 1, beyond)
    before_tail = bisect_right(starts, end - int(limit * SMALLEST_TAIL), earliest, beyond)
    window = range(earliest, before_tail if before_tail > earliest else beyond)
    best = min(window, key=lambda index: (atoms[index].rank, _anchor(text, starts[index])), default=None)
    if best is None or atoms[best].rank >= GLUED:
        # Nothing good in the window: rather a short chunk than a whole block cut in two.
        whole = [index for index in range(current + 1, earliest) if atoms[index].rank < GLUED]
        best = whole[-1] if whole else best
    return best if best is not None else max(current + 1, beyond - 1)


def _anchor(text: str, position: int) -> int:
    return crc32(text[position : position + ANCHOR_CHARACTERS].strip().encode("utf-8", "surrogatepass"))
