"""Where to cut when no heading says so: boundaries chosen by content, not by counting from the start.

Content-defined chunking (Muthitacharoen et al., LBFS, 2001; anchors as local extrema follow Bjørner et al.,
"Content-dependent chunking for differential compression", 2010), over sentences and blocks
instead of bytes. Counting moves the cuts after an edit; a boundary that is chosen because of the words that
follow it is chosen again, so the chunks behind the edit stay what they were.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

from rag_pipeline.chunks.markdown_blocks import BlockKind

# How far, in limits, an anchor must be the lowest to either side: the mean distance between anchors is about
# twice that, so that a handful of chunks lies between two of them.
ANCHOR_REACH = 1.5
# How far from the middle, as a share of the whole, a range is cut: wide enough for a choice by content.
CUT_WITHIN = 0.25
# How much of what follows a boundary is hashed: enough to tell boundaries apart, little enough that an edit
# further on leaves the choice alone.
HASHED_CHARACTERS = 48
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
        earliest = start + max(1, limit // 2)
        latest = max(earliest, min(start + limit, end - limit // 4))
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
    import regex  # type: ignore[import-untyped]  # the one library here that knows graphemes

    offset = max(floor, position - 40)
    ends = [offset + found.start() for found in regex.finditer(r"\X", nearby)]
    before = [end for end in ends if floor < end <= position]
    return before[-1] if before else position


def cut_at_anchors(text: str, atoms: Sequence[Atom], end: int, limit: int) -> list[int]:
    """The starts of the chunks of `text[atoms[0].start:end]`: each a start of an atom, none over `limit` long.

    Given that no atom is longer than `limit`. A long range is first parted at anchors, whose choice depends on
    nothing further away than a few limits, so an edit reaches no further either; what lies between is halved,
    each time near its middle, until it fits. The strongest boundary wins, among equals the lowest hash.
    """
    starts = [atom.start for atom in atoms]
    if end - starts[0] <= limit:
        return starts[:1]
    keys = [atom.rank << 32 | _hash_words(text, atom.start) for atom in atoms]
    bounds = [0, *_find_anchors(starts, keys, end, limit), len(starts)]
    positions = [*starts, end]
    return [starts[cut] for low, high in pairwise(bounds) for cut in _halve(positions, keys, low, high, limit)]


def _find_anchors(starts: Sequence[int], keys: Sequence[int], end: int, limit: int) -> list[int]:
    """Indices whose key is the lowest within ANCHOR_REACH limits on both sides; one pass with a stack."""
    reach = limit * ANCHOR_REACH
    if end - starts[0] <= 2 * reach:
        return []
    anchors: list[int] = []
    lower_before = [-1] * len(starts)
    stack: list[int] = []
    for index in range(1, len(starts) + 1):
        while stack and (index == len(starts) or keys[stack[-1]] > keys[index]):
            low = stack.pop()
            before = starts[lower_before[low]] if lower_before[low] > 0 else starts[0]
            after = starts[index] if index < len(starts) else end
            if starts[low] - before > reach and after - starts[low] > reach and keys[low] < GLUED << 32:
                anchors.append(low)
        if index < len(starts):
            lower_before[index] = stack[-1] if stack else -1
            stack.append(index)
    return sorted(anchors)


def _halve(positions: Sequence[int], keys: Sequence[int], low: int, high: int, limit: int) -> list[int]:
    """Indices in [low, high) at which chunks begin; positions[high] is where the last one ends."""
    cuts: list[int] = []
    pending = [(low, high)]
    while pending:
        first, last = pending.pop()
        if last - first == 1 or positions[last] - positions[first] <= limit:
            cuts.append(first)
            continue
        cut = _choose_cut(positions, keys, first, last)
        pending += [(cut, last), (first, cut)]
    return cuts


def _choose_cut(positions: Sequence[int], keys: Sequence[int], first: int, last: int) -> int:
    size = positions[last] - positions[first]
    middle = positions[first] + size / 2
    earliest = bisect_left(positions, middle - size * CUT_WITHIN, first + 1, last)
    latest = bisect_right(positions, middle + size * CUT_WITHIN, earliest, last)
    best = min(range(earliest, latest), key=lambda index: (keys[index], abs(positions[index] - middle)), default=None)
    if best is not None and keys[best] < GLUED << 32:
        return best
    # Nothing good near the middle: rather an uneven cut than a whole block in two.
    return min(range(first + 1, last), key=lambda index: (keys[index] >= GLUED << 32, abs(positions[index] - middle)))


def _hash_words(text: str, position: int) -> int:
    return crc32(text[position : position + HASHED_CHARACTERS].strip().encode("utf-8", "surrogatepass"))
