"""What a chunk is to a model and to BM25: its text under a bounded header; and the address that names it."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from rag_pipeline.chunks.markdown_blocks import clean_heading

# In estimated tokens: together a fifth to a quarter of what a small model reads (256).
TITLE_BUDGET = 48
PATH_BUDGET = 20
PATH_SEPARATOR = " > "

_LEADING_HEADING = re.compile(r"\s{0,8}(#{1,6}[ \t][^\n]{0,1000})\n")
# Code comes first, so that what only looks like a link in it is left alone: `[this](int a)` is C++.
_CODE = r"```.*?(?:```|\Z)|`[^`\n]{1,500}`"
_DESTINATION = r"(?:(?:https?|mailto|ftp):|\.{0,2}/|#|[\w.-]{1,200}/|[\w-]{1,200}\.\w{2,5}[#)])[^()\s]{0,2000}"
_LINK_TITLE = r"(?:[ \t]+\"[^\"\n]{0,300}\")?"
_ATTRIBUTES = r"\{:?[ \t]*[#.][^{}\n]{0,500}\}"
_INVISIBLE = re.compile(
    rf"({_CODE})|!?\[([^\[\]\n]{{1,500}})\]\((?={_DESTINATION})[^()\s]{{1,2000}}{_LINK_TITLE}\)(?:{_ATTRIBUTES})?"
    rf"|(?<=\])\((?={_DESTINATION})[^()\s]{{1,2000}}{_LINK_TITLE}\)(?:{_ATTRIBUTES})?"
    rf"|(?<=<a)[ \t][^<>]{{0,2000}}(?=>)|{_ATTRIBUTES}(?=[ \t]*(?:\n|$))",
    re.DOTALL,
)
# Table rules and lines of dashes; and runs of white space, indentation and blank lines among them. Repetitions
# here and above are bounded or of one class that starts nowhere else: a text of spaces alone costs no more.
_RULES = re.compile(r"^[ \t]*[|:-][|: \t-]{2,}\r?$", re.MULTILINE)
_GAPS = re.compile(r"\s{2,}")
_MARKS = re.compile(r"[\W_]+")
_LONGEST_WORD = 24


def embedded_text(title: str, heading_path: Sequence[str], text: str) -> str:
    """Exactly what is embedded, what BM25 sees and what the content address covers.

    The title, the headings, a blank line, the words of the text. A heading that the text itself opens with
    is not repeated; a long title or path is cut, so that the header never takes the place of the text. Link
    destinations and attribute lists are left out (see `visible_words`).
    """
    header = "\n".join(line for line in _header(title, heading_path, text) if line)
    words = visible_words(text)
    return f"{header}\n\n{words}" if header else words


def visible_words(text: str) -> str:
    """The text as a reader sees it: without link destinations, `<a>` attributes, `{ #id .class }` lists, table
    rules, indentation and blank lines.

    They cost a small model a large share of its tokens, say nothing about the content, and change in bulk
    when a site moves. Code, bare addresses and `<https://...>` stay. Never longer than the text, and never
    empty for a text with anything in it: one of rules or attributes alone stays as it is. Linear in its length.
    """
    words = text
    if "](" in words or "<a" in words or "{" in words:
        words = _INVISIBLE.sub(r"\1\2", words)
    if "-" in words:
        words = _RULES.sub("", words)
    return _GAPS.sub(_close_gap, words).strip() or text.strip()


def _close_gap(gap: re.Match[str]) -> str:
    return "\n" if "\n" in gap.group() or "\r" in gap.group() else " "


def content_address(title: str, heading_path: Sequence[str], text: str) -> bytes:
    """SHA-256 (32 bytes) of exactly what is embedded: equal addresses may share one vector, and do.

    Texts that differ only in what is not embedded (a link's destination, indentation) share an address; what
    a reader is shown is therefore the version's own text, never the chunk's.
    """
    return hashlib.sha256(embedded_text(title, heading_path, text).encode("utf-8", "surrogatepass")).digest()


def is_same_heading(one: str, other: str) -> bool:
    """Whether two headings say the same: case, markup and punctuation don't count."""
    return one == other or _MARKS.sub("", one).casefold() == _MARKS.sub("", other).casefold() != ""


def estimate_tokens(texts: Sequence[str]) -> list[int]:
    """Tokens by a rule of thumb: four ASCII characters make one, and so does one character of three bytes.

    Stands in where no tokenizer is at hand; special tokens are not counted.
    """
    return [_estimate(text) for text in texts]


def _estimate(text: str) -> int:
    if text.isascii():
        return -(-len(text) // 4)
    beyond_ascii = (len(text.encode("utf-8", "surrogatepass")) - len(text)) / 2
    return -int(-(len(text) - beyond_ascii) // 4) + int(beyond_ascii)


def _header(title: str, heading_path: Sequence[str], text: str) -> tuple[str, str]:
    stated = _stated_headings(text) if "#" in text[:16] else []
    path = list(heading_path)
    if stated and is_same_heading(stated[0], title):
        title = ""
        stated = stated[1:]
    for length in range(min(len(path), len(stated)), 0, -1):
        if path[-length:] == stated[:length]:
            path = path[:-length]
            break
    return _bound(title, TITLE_BUDGET) if title else "", _bound_path(path) if path else ""


def _stated_headings(text: str) -> list[str]:
    headings: list[str] = []
    position = 0
    while len(headings) < 8 and (found := _LEADING_HEADING.match(text, position)):
        headings.append(clean_heading(found.group(1)))
        position = found.end()
    return headings


def _bound_path(path: Sequence[str]) -> str:
    """The innermost headings that fit; they say most about the chunk."""
    kept: list[str] = []
    left = PATH_BUDGET
    for heading in reversed(path):
        bounded = _bound(heading, left)
        if not bounded:
            break
        kept.append(bounded)
        left -= _weigh(bounded) + 1
        if left <= 0 or bounded != " ".join(heading.split()):
            break
    return PATH_SEPARATOR.join(reversed(kept))


@lru_cache(maxsize=4096)
def _bound(text: str, budget: int) -> str:
    """The leading words whose estimated tokens stay within the budget, on one line."""
    text = " ".join(text[: 8 * budget].split())
    if len(text) * 2 <= budget or _weigh(text) <= budget:
        return text
    weights = accumulate(map(_weigh_character, text))
    position = next((at for at, weight in enumerate(weights) if weight > budget), len(text))
    # A word without end may be as many tokens as it has characters, whatever the sum above says.
    kept = text[:position]
    while _weigh(kept) > budget:
        kept = kept[: len(kept) // 2]
    return kept.rstrip()


def _weigh(text: str) -> int:
    """A cautious estimate of tokens for WordPiece and byte-level tokenizers."""
    return int(
        sum(
            len(word) if len(word) > _LONGEST_WORD and word.isascii() else 0.25 + sum(map(_weigh_character, word))
            for word in text.split()
        )
        + 0.99
    )


def _weigh_character(character: str) -> float:
    if character.isascii():
        return 0.25 if character.isalnum() or character == " " else 1.0
    # Multilingual BERT vocabularies take a Hangul syllable apart into its two or three letters.
    return 2.5 if "\uac00" <= character <= "\ud7a3" else 1.0
