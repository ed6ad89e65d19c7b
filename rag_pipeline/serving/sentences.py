"""Where sentences begin and end, in English, Japanese and Korean, by rules alone."""

import re
from dataclasses import dataclass

# A stop in a script without spaces ends a sentence by itself; a Latin or Korean one needs a space after it.
_END = re.compile(
    r"""
    [。！？｡]+[」』）】”’"')\]]*          # Japanese and Chinese stops, with closing brackets
    | [.!?…]+["'”’)\]」』）]*(?=\s)      # stops of the other scripts
    | \n\s*\n | \n(?=\s*(?:[-*+•]|\#+|\d+[.)])\s)   # a blank line, the next list item or heading
    """,
    re.VERBOSE,
)
_BLANK = re.compile(r"\n\s*\n|\n")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|al|approx|no|nos|fig|figs|eq|eqs|ref|refs|vol|pp|p|sec|ch|dr|mr|mrs|ms|prof|st"
    r"|inc|ltd|co|jr|sr|u\.s|u\.k|a\.m|p\.m)|(?<![A-Za-z])[A-Z]|(?:^|\n)\s*\d+)\.$",
    re.IGNORECASE,
)
_OPENING_QUOTES, _CLOSING_QUOTES = "「『（【", "」』）】"
# After a closing quote these particles carry the sentence on (「…。」と言った).
_PARTICLES = frozenset("とっなのやがはをにで、")


@dataclass(frozen=True)
class Span:
    """Offsets into the text: text[start:end] is the sentence, without space around it."""

    start: int
    end: int


def split_sentences(text: str) -> list[Span]:
    """Sentences in order, apart from each other and covering every character that is not space.

    Common abbreviations, initials and list numbers end none, nor does a stop within Japanese quotes.
    """
    spans: list[Span] = []
    start = depth = scanned = 0
    for match in _END.finditer(text):
        depth = _count_open_quotes(text[scanned : match.end()], depth)
        scanned = match.end()
        blank = _BLANK.match(match.group()) is not None
        goes_on = match.group()[-1] in _CLOSING_QUOTES and text[match.end() : match.end() + 1] in _PARTICLES
        if not blank and (depth > 0 or goes_on or _is_abbreviation(text, start, match)):
            continue
        depth = 0
        _add_span(spans, text, start, match.end())
        start = match.end()
    _add_span(spans, text, start, len(text))
    return spans


def _is_abbreviation(text: str, start: int, match: re.Match[str]) -> bool:
    if match.group() != ".":
        return False
    # "the U.S. Congress" goes on; "in the U.S. It" is taken to go on too: a long quote beats a broken one.
    return _ABBREVIATION.search(text[max(start, match.end() - 24) : match.end()]) is not None


def _count_open_quotes(piece: str, depth: int) -> int:
    for character in piece:
        if character in _OPENING_QUOTES:
            depth += 1
        elif character in _CLOSING_QUOTES:
            depth = max(0, depth - 1)
    return depth


def _add_span(spans: list[Span], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    stripped = piece.strip()
    if stripped:
        begin = start + len(piece) - len(piece.lstrip())
        spans.append(Span(begin, begin + len(stripped)))
