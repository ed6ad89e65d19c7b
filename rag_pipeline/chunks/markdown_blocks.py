"""Text -> structural blocks with exact offsets, in one pass over the lines.

A line scanner and not a Markdown library: only block boundaries are needed, never inline markup, and a
library gives line numbers at a fifth of the speed. Where CommonMark and plain text disagree the reading that
loses nothing wins: a wrong guess moves a chunk boundary and never a character.
"""

import re
from enum import IntEnum
from typing import NamedTuple


class BlockKind(IntEnum):
    """What a block is; it decides how an oversized one is taken apart."""

    HEADING = 0
    TEXT = 1
    CODE = 2
    TABLE = 3
    LIST = 4
    OPENER = 5  # `::: tip`, `/// note`: belongs to what follows
    CLOSER = 6  # `:::`, `///`: belongs to what precedes


class Block(NamedTuple):
    """`text[start:end]` without surrounding blank lines. level: 1-6 for a heading, else 0."""

    start: int
    end: int
    kind: BlockKind
    level: int = 0
    heading: str = ""


# Bounded or single-class repetitions only: no pattern here can backtrack over more than one line.
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]|$)")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|[0-9]{1,9}[.)])(?:[ \t]|$)")
_RULE = re.compile(r"(?:-{3,}|={2,})$")
_TABLE_RULE = re.compile(r"[ \t|:-]+$")
_RAW_HTML = re.compile(r"<(pre|script|style|textarea)\b|<!--", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"[ \t]*\{:?[ \t]*[#.][^{}]{0,500}\}$")
_CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+$")
_SPECIAL = frozenset("#`~-*+=|<:/0123456789")
_LONGEST_HEADING = 1000  # what is longer is a paragraph, whatever it begins with
_LONGEST_SETEXT = 300
_LONGEST_FRONT_MATTER = 20_000


def normalise_line_breaks(text: str) -> str:
    """The text with every kind of line break as a newline, at the same offsets (a CRLF becomes ' ' + newline).

    A form feed, as PDF extraction leaves between pages, counts as a line break too.
    """
    for found, replacement in (
        ("\r\n", " \n"),
        ("\r", "\n"),
        ("\f", "\n"),
        ("\v", "\n"),
        ("\x85", "\n"),
        ("\u2028", "\n"),
        ("\u2029", "\n"),
    ):
        if found in text:
            text = text.replace(found, replacement)
    return text


def clean_heading(line: str) -> str:
    """The words of a heading: without `#` marks, `{ #anchor }` attributes and repeated spaces."""
    words = line.strip().lstrip("#").strip()
    words = _ATTRIBUTES.sub("", words)
    words = _CLOSING_HASHES.sub("", words)
    return " ".join(words.split())


def scan_blocks(text: str) -> list[Block]:
    """The blocks of a text with normalised line breaks: ordered, disjoint, covering all but blank lines."""
    scanner = _Scanner()
    position = front_matter_end(text)
    if position:
        scanner.blocks.append(Block(0, position, BlockKind.CODE))
    for line in text[position:].split("\n"):
        scanner.read(line, position)
        position += len(line) + 1
    scanner.close()
    return scanner.blocks


def front_matter_end(text: str) -> int:
    """Where a leading `---` ... `---` block of metadata ends; 0 without one."""
    if not text.startswith("---\n"):
        return 0
    end = text.find("\n---\n", 3, _LONGEST_FRONT_MATTER)
    return end + 4 if end > 0 else 0


class _Scanner:
    """The open block and what would end it."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.kind: BlockKind | None = None
        self.start = self.end = 0
        self.lines = 0
        self.heading_line = ""  # the first line of the open text, should an underline follow
        self.after_blank = False
        self.until = ""  # what closes an open fence or raw HTML element

    def open(self, kind: BlockKind, start: int, end: int) -> None:
        self.close()
        self.kind, self.start, self.end, self.lines, self.after_blank = kind, start, end, 1, False

    def close(self) -> None:
        if self.kind is not None:
            self.blocks.append(Block(self.start, self.end, self.kind))
            self.kind = None

    def read(self, line: str, position: int) -> None:
        stripped = line.strip()
        if not stripped:
            if self.kind is BlockKind.LIST:
                self.after_blank = True
            elif not self.until:
                self.close()
            return
        end = position + len(line)
        if self.until:
            self.end = end
            self._read_verbatim(stripped)
        elif stripped[0] not in _SPECIAL or not self._read_special(line, stripped, position, end):
            self._read_plain(line, position, end)

    def _read_verbatim(self, stripped: str) -> None:
        fenced = self.until[0] in "`~"
        # A closing fence is at least as long as the opening one and carries nothing else.
        closed = (
            stripped.startswith(self.until) and not stripped.strip(self.until[0])
            if fenced
            else self.until in stripped.lower()
        )
        if closed:
            self.until = ""
            if self.kind is BlockKind.CODE:
                self.close()

    def _read_special(self, line: str, stripped: str, position: int, end: int) -> bool:
        """Whether the line was a mark of structure and has been dealt with."""
        first = stripped[0]
        indented = line[0] in " \t"
        if first == "#":
            mark = _ATX.match(line)
            if mark is None or len(line) > _LONGEST_HEADING or (indented and self.kind is BlockKind.LIST):
                return False
            self.close()
            level = len(mark.group(1))
            self.blocks.append(Block(position, end, BlockKind.HEADING, level, clean_heading(stripped)))
            return True
        if first in "`~<":
            return self._read_verbatim_start(stripped, position, end, indented)
        if first in "-=" and _RULE.match(stripped):
            return self._read_rule(stripped, position, end)
        if first in "/:" and stripped[:3] in ("///", ":::"):
            marker = BlockKind.OPENER if stripped.strip("/: ") else BlockKind.CLOSER
            self.open(marker, position, end)
            self.close()
            return True
        if first in "|-:" and "|" in stripped:
            return self._read_table_line(stripped, position, end)
        if first in "-*+0123456789" and _ITEM.match(line):
            if self.kind is BlockKind.LIST:
                self.end, self.after_blank = end, False
            else:
                self.open(BlockKind.LIST, position, end)
            return True
        return False

    def _read_verbatim_start(self, stripped: str, position: int, end: int, indented: bool) -> bool:
        if stripped[0] == "<":
            html = _RAW_HTML.match(stripped)
            if html is None:
                return False
            until = f"</{html.group(1).lower()}" if html.group(1) else "-->"
            if until in stripped.lower():
                return False
        else:
            fence = _FENCE.match(stripped)
            if fence is None or (stripped[0] == "`" and "`" in stripped[fence.end() :]):
                return False
            until = fence.group(1)
        if self.kind is BlockKind.LIST and (indented or not self.after_blank):
            self.end, self.after_blank = end, False
        else:
            self.open(BlockKind.CODE, position, end)
        self.until = until
        return True

    def _read_rule(self, stripped: str, position: int, end: int) -> bool:
        """An underline makes one line of text a heading (setext); else `---` is a rule of its own."""
        if self.kind is BlockKind.TEXT and self.lines == 1 and end - self.start <= _LONGEST_SETEXT:
            start, self.kind = self.start, None
            level = 1 if stripped[0] == "=" else 2
            heading = clean_heading(self.heading_line)
            self.blocks.append(Block(start, end, BlockKind.HEADING, level, heading))
            return True
        if stripped[0] == "=":
            return False
        self.open(BlockKind.TEXT, position, end)
        self.close()
        return True

    def _read_table_line(self, stripped: str, position: int, end: int) -> bool:
        if self.kind is BlockKind.TEXT and self.lines == 1 and _TABLE_RULE.match(stripped):
            self.kind = BlockKind.TABLE  # the line before was the table's head
        if self.kind is BlockKind.TABLE:
            self.end = end
            return True
        if stripped[0] != "|" or self.kind is BlockKind.LIST:
            return False
        self.open(BlockKind.TABLE, position, end)
        return True

    def _read_plain(self, line: str, position: int, end: int) -> None:
        kind = self.kind
        if (
            kind is None
            or (kind is BlockKind.LIST and self.after_blank and line[0] not in " \t")
            or (kind is BlockKind.TABLE and "|" not in line)
        ):
            self.open(BlockKind.TEXT, position, end)
            self.heading_line = line
        else:
            self.end, self.after_blank = end, False
            self.lines += 1
