"""JSON lines: one document per row (`id`, `title`, `text`, `metadata`), read as a stream."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

KNOWN_FIELDS = {"id", "title", "text", "metadata"}
LARGEST_ROW = 256 << 20


@dataclass(frozen=True)
class Row:
    """One well-formed row."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be a document. `id` is its own where it has one, else 'line N' and `nameless`."""

    id: str
    reason: str
    sha256: bytes
    nameless: bool = False


def clean_text(text: str) -> str:
    """The text as PostgreSQL can hold it: NUL removed, lone surrogates replaced by U+FFFD."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        # pairs written as two escapes become the character they mean, lone ones U+FFFD
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_value(value: Any) -> Any:
    """A JSON value with every string in it cleaned."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_value(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(str(key)): clean_value(item) for key, item in value.items()}
    return value


def hash_row(row: Row) -> bytes:
    """SHA-256 of what a version holds: title, text and metadata, whatever order the row's keys had."""
    content = orjson.dumps([row.title, row.text, row.metadata], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).digest()


def read_rows(lines: Iterable[bytes]) -> Iterator[Row | BadRow]:
    """Parse lines one by one; a bad one is a `BadRow` and the rest goes on. Blank lines are passed over."""
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.isspace() or not line:
            continue
        row = parse_row(line, number)
        if row.id in seen:
            yield BadRow(
                f"{row.id} (line {number})",
                f"line {number} repeats the id {row.id!r}; the first row with it was taken",
                hashlib.sha256(line).digest(),
            )
            continue
        seen.add(row.id)
        yield row


def parse_row(line: bytes, number: int) -> Row | BadRow:
    """One line as a row, or why it is none."""

    def bad(reason: str, row_id: str = "") -> BadRow:
        digest = hashlib.sha256(line).digest()
        return BadRow(row_id or f"line {number}", f"line {number} {reason}", digest, not row_id)

    if len(line) > LARGEST_ROW:
        return bad(f"is longer than {LARGEST_ROW >> 20} MiB; split it")
    try:
        record = _load(line)
    except (ValueError, RecursionError) as error:
        return bad(f"is not JSON ({error}); correct the line")
    if not isinstance(record, dict):
        return bad(f"is {type(record).__name__}, not an object with id and text")
    identity, text, title, metadata = (record.get(key) for key in ("id", "text", "title", "metadata"))
    if isinstance(identity, bool) or not isinstance(identity, str | int) or str(identity).strip() == "":
        return bad("has no id: a string or an integer is needed")
    row_id = str(identity)
    if not isinstance(text, str):
        return bad("has no text: a string is needed", row_id)
    if title is not None and not isinstance(title, str):
        return bad("has a title that is not a string", row_id)
    if metadata is not None and not isinstance(metadata, dict):
        return bad("has metadata that is not an object", row_id)
    extra = {key: value for key, value in record.items() if key not in KNOWN_FIELDS}
    return Row(row_id, title or "", text, {**extra, **(metadata or {})})


def _load(line: bytes) -> Any:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        # orjson refuses lone surrogates, NaN and bytes that are not UTF-8; the first and last can be mended
        record = json.loads(line.decode("utf-8", "replace"), parse_constant=_refuse_constant)
        return clean_value(record)
    # the escapes \u0000 and \u0001-\u001f are rare: look before walking the whole value
    return clean_value(record) if b"\\u0000" in line else record


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
