"""Bytes to text: encodings, front matter, Markdown titles, and what PostgreSQL can hold."""

import codecs
import contextlib
import datetime
import math
import re

MAX_FRONT_MATTER_CHARACTERS = 64 << 10
MAX_METADATA_DEPTH = 20
TITLE_SEARCH_CHARACTERS = 64 << 10
DETECTION_BYTES = 128 << 10

# UTF-32 before UTF-16: its little-endian mark starts with the UTF-16 one.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Detectors name the narrow standard; files hold the vendor superset.
_SUPERSETS = {
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
}
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKUP_PAGE = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL
)


def is_markup_page(head: bytes) -> bool:
    """Whether the first bytes open an HTML page."""
    return _MARKUP_PAGE.match(head) is not None


def make_storable(text: str) -> str:
    """The text without what PostgreSQL cannot hold: NUL is dropped, lone surrogates become U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "")
    if not text.isascii() and _SURROGATE.search(text):
        # A round trip through UTF-16 joins surrogate pairs into their character and marks the lone ones.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def decode_text(content: bytes, declared: str = "") -> tuple[str, str] | None:
    """Text and the encoding it was in, or None where the bytes are no text.

    Order: byte-order mark, UTF-8, the `declared` encoding, detection. A UTF-8 file with a few broken bytes
    stays UTF-8 (they become U+FFFD): one bad byte must not turn a whole file into mojibake.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return make_storable(content[len(mark) :].decode(encoding, "replace")), encoding
    wide = _guess_wide_encoding(content)
    if wide:
        return make_storable(content.decode(wide, "replace")), wide
    share = _measure_control_share(content)
    if b"\x1b$" in content[:DETECTION_BYTES]:  # 7-bit Japanese: valid UTF-8, but not meant as such
        with contextlib.suppress(UnicodeDecodeError):
            return make_storable(content.decode("iso2022_jp_ext")), "iso2022_jp_ext"
    text = _decode_utf8(content)
    if text is not None:
        return (make_storable(text), "utf-8") if share < 0.1 else None
    # Random bytes hold 11 % control characters; no text in a legacy encoding holds more than a stray one.
    if share > 0.02:
        return None
    for encoding in (declared, _detect_encoding(content)):
        text = _decode_legacy(content, encoding) if encoding else None
        if text is not None:
            return make_storable(text), _SUPERSETS.get(_name_codec(encoding), _name_codec(encoding))
    return None


def split_front_matter(text: str) -> tuple[str, dict[str, object]]:
    """(text without its YAML front matter, the front matter as plain JSON values).

    Front matter that cannot be trusted or read stays in the text, so nothing is lost, and the metadata says
    why under `front_matter_error`. A leading `---` that opens no mapping is a rule, not front matter.
    """
    import yaml  # type: ignore[import-untyped]

    found = _FRONT_MATTER.match(text[:MAX_FRONT_MATTER_CHARACTERS])
    if not found:
        return text, {}
    block = found.group(1)
    try:
        refusal = _refuse_yaml(block)
        if refusal:
            return text, {"front_matter_error": refusal}
        # The pure Python loader: the C one recurses without a limit, and this runs in the caller's process.
        loaded = yaml.load(block, Loader=yaml.SafeLoader)
        if loaded is None:
            return text[found.end() :], {}
        if not isinstance(loaded, dict):
            return text, {}
        metadata = to_plain_json(loaded)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return text, {"front_matter_error": " ".join(make_storable(str(error)).split())[:200]}
    assert isinstance(metadata, dict)
    return text[found.end() :], metadata


def _refuse_yaml(block: str) -> str:
    """Why this YAML is not worth loading, or ``""``. Reads events one by one, so it stops at the first offence.

    Aliases turn a few lines into gigabytes (also through `<<`), and the loader's time is quadratic in depth.
    """
    import yaml

    depth = 0
    for event in yaml.parse(block, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            return "YAML aliases are not accepted in front matter"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_METADATA_DEPTH:
            return f"it is nested deeper than {MAX_METADATA_DEPTH} levels"
    return ""


def to_plain_json(value: object, depth: int = 0) -> object:
    """The value as JSON that `jsonb` accepts: dates as ISO strings, keys as strings, NaN and huge integers as
    strings. Raises ValueError beyond 20 levels."""
    if depth > MAX_METADATA_DEPTH:
        raise ValueError(f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return make_storable(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, dict):
        return {_name_key(key): to_plain_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain_json(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((to_plain_json(item, depth + 1) for item in value), key=str)
    return make_storable(str(value))


def find_markdown_title(text: str, deepest: int = 1) -> str:
    """The first heading of level 1 (to `deepest`) outside code fences, else ``""``.

    Attributes like `{ #anchor }` and closing marks are cut off.
    """
    fence = ""
    previous = ""
    for line in text[:TITLE_SEARCH_CHARACTERS].splitlines():
        stripped = line.strip()
        opening = re.match(r"(`{3,}|~{3,})", stripped)
        if fence:
            if opening and stripped == opening.group(1) and stripped.startswith(fence):
                fence = ""
        elif opening:
            fence = opening.group(1)
        elif found := re.match(rf" {{0,3}}#{{1,{deepest}}}[ \t]+(.*)", line):
            return _clean_heading(found.group(1))
        elif previous and re.fullmatch(r" {0,3}=+[ \t]*", line):
            return _clean_heading(previous)
        previous = stripped if not fence else ""
    return ""


def _clean_heading(heading: str) -> str:
    # Cut first: these patterns are quadratic in a run of spaces, and a line may be as long as the file.
    without_anchor = re.sub(r"\s*\{[^{}]*\}\s*$", "", heading[:2000])
    return re.sub(r"(?:^|\s+)#+\s*$", "", without_anchor).strip()


def _name_key(key: object) -> str:
    plain = to_plain_json(key)
    if plain is None or isinstance(plain, bool):
        return {None: "null", True: "true", False: "false"}[plain]
    return str(plain)


def _measure_control_share(content: bytes) -> float:
    sample = content[:DETECTION_BYTES]
    return 1 - len(sample.translate(None, _CONTROL_BYTES)) / len(sample) if sample else 0.0


def _guess_wide_encoding(content: bytes) -> str:
    """UTF-16 without a mark: every other byte of mostly Latin text is zero."""
    sample = content[:4096]
    if len(sample) < 4 or sample.count(0) < len(sample) * 0.3:
        return ""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > 20 * even:
        return "utf-16-le"
    return "utf-16-be" if even > 20 * odd else ""


def _decode_utf8(content: bytes) -> str | None:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    whole = len(content) - len(content.translate(None, bytes(range(0xC2, 0xF5))))
    return text if broken * 20 < whole else None


def _detect_encoding(content: bytes) -> str:
    import chardet

    # A long ASCII beginning says nothing about the encoding: look where it ends.
    start = re.search(rb"[\x80-\xff]", content)
    begin = max(0, start.start() - 1024) if start else 0
    sample = content[begin : begin + DETECTION_BYTES]
    # The encodings browsers know: with Mac, DOS and mainframe ones allowed, short German became Mac Turkish.
    found = chardet.detect(sample, encoding_era=chardet.EncodingEra.MODERN_WEB, prefer_superset=True)
    return str(found["encoding"] or "")


def _name_codec(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        return ""


def _decode_legacy(content: bytes, encoding: str) -> str | None:
    name = _name_codec(encoding)
    try:
        # `declared` comes from the file: codecs that are no text encodings (zip, hex ...) raise LookupError.
        text = content.decode(_SUPERSETS.get(name, name), "replace")
    except (LookupError, UnicodeError):
        return None
    odd = text.count("\ufffd") + sum(map(text.count, map(chr, range(0x80, 0xA0))))
    return text if odd * 100 <= len(text) else None
