"""Formats that need a parser: PDF with PDFium, HTML and office files with xberg.

Runs only inside `parser_worker`, whose process is limited in memory, time and output: these parsers are
native code reading hostile bytes. Every expected defect of a file is a `ParseFailure`.
"""

import asyncio
import html
import io
import re
import zipfile
import zlib
from importlib.metadata import version
from typing import Any

from rag_pipeline.documents.parsing import (
    BINARY_MEDIA_TYPES,
    OLE_MAGIC,
    Parsed,
    ParseFailure,
    ParseRequest,
    clean_title,
    describe_failure,
    detect_format,
    read_extension,
)
from rag_pipeline.documents.text_files import decode_text, find_markdown_title, make_storable, to_plain_json

# Raise when the same bytes begin to give another text; it is part of `Parsed.parser`.
REVISION = 1
MAX_TEXT_CHARACTERS = 64 << 20
MAX_EXPANDED_BYTES = 512 << 20
MAX_OUTLINE_ENTRIES = 5000

# What surrounds the content of a page on documentation sites, blogs and wikis.
BOILERPLATE_SELECTORS = [
    "nav", "footer", "[role=navigation]", "[role=banner]", "[role=contentinfo]", "[role=search]",
    "button", "select", "textarea", "svg",
    ".headerlink", ".anchor-link", ".sidebar", ".breadcrumb", ".breadcrumbs", "#cookie-banner",
]  # fmt: skip
# Authoring programs write these into the title field when nobody else does; the last is RTF left undecoded.
_JUNK_TITLE = re.compile(
    r"(microsoft word|powerpoint presentation|untitled|slide 1\b|document\d*$)"
    r"|.*\.(docx?|pptx?|xlsx?|indd|tex|dvi|qxd|rtf)$|.*\\'[0-9a-f]{2}",
    re.IGNORECASE,
)
# Formats whose first heading, of whatever level, names the document; a workbook's is just a sheet.
_HEADED_FORMATS = frozenset({"docx", "pptx", "odt", "doc"})
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_IMAGE = re.compile(r"\\?!\[((?:[^\]\\]|\\.){0,1000})\]\([^()\s]{0,2000}\)")
# An escape at the start of a line keeps a paragraph from becoming a heading or a list; elsewhere it is noise.
_INLINE_ESCAPE = re.compile(r"(?<=[^\s\\])((?:[ \t]+)?)\\([!<>~#$&])")
_BROKEN_HYPHEN = re.compile(r"(?<=\w)[\x02\ufffe](?=\w)")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def load_parsers() -> None:
    """Import everything this module will need, so that limits set afterwards cover the file alone."""
    import chardet  # noqa: F401
    import pypdfium2  # type: ignore[import-untyped]  # noqa: F401
    import xberg  # noqa: F401


def parse_binary_file(request: ParseRequest) -> Parsed | ParseFailure:
    """Parse any format but plain text. Raises only what no file should cause (and MemoryError)."""
    format = detect_format(request.name, request.content)
    if format == "zip":
        format, failure = _settle_archive(request)
    elif request.content.startswith(OLE_MAGIC):
        format, failure = _settle_ole(request, format)
    else:
        failure = None
    if failure:
        return failure
    if format == "pdf":
        outcome = _parse_pdf(request)
    elif format == "html":
        outcome = _parse_html(request)
    elif format in BINARY_MEDIA_TYPES:
        outcome = _parse_office(request, format)
    else:
        return describe_failure(request, "unsupported", f"a .{read_extension(request.name)} file")
    if isinstance(outcome, Parsed) and len(outcome.text) > MAX_TEXT_CHARACTERS:
        return describe_failure(request, "too_large", f"{len(outcome.text):,} characters of text")
    return outcome


def _parse_pdf(request: ParseRequest) -> Parsed | ParseFailure:
    import pypdfium2

    try:
        # PDFium tries the empty password itself.
        document = pypdfium2.PdfDocument(request.content)
        count = len(document)
    except pypdfium2.PdfiumError as error:
        code = "encrypted" if "assword" in str(error) or "ecurity" in str(error) else "malformed"
        return describe_failure(request, code, str(error))
    headings = _read_outline(document)
    pages: list[str] = []
    unreadable = 0
    for number in range(count):
        try:
            page = document[number]
            text = page.get_textpage().get_text_range(errors="replace")
            page.close()
        except pypdfium2.PdfiumError:
            unreadable += 1
            continue
        pages.append(_mark_headings(_clean_page(text), headings.get(number, [])))
    text = "\n\n".join(page for page in pages if page)
    if not re.search(r"\w", text.replace("\ufffd", "")):
        if unreadable == count:
            return describe_failure(request, "malformed", f"none of its {count} pages is readable")
        return describe_failure(request, "no_text", f"images or drawings on {count} page(s)")
    described = document.get_metadata_dict(skip_empty=True)
    metadata: dict[str, object] = {"pages": count}
    if unreadable:
        metadata["unreadable_pages"] = unreadable
    if described.get("Author"):
        metadata["authors"] = [make_storable(described["Author"])]
    if day := re.match(r"D:(\d{4})(\d\d)(\d\d)", described.get("CreationDate", "")):
        metadata["created"] = "-".join(day.groups())
    if described.get("Subject"):
        metadata["subject"] = make_storable(described["Subject"])
    return _compose(request, "pdf", "pypdfium2", text, _prefer_title(described.get("Title", "")), metadata)


def _clean_page(text: str) -> str:
    # PDFium joins a word that was hyphenated at the line end and leaves a mark; codes of fonts without a
    # Unicode map arrive as control characters.
    joined = _BROKEN_HYPHEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _UNPRINTABLE.sub("", joined).strip()


def _read_outline(document: Any) -> dict[int, list[tuple[int, str]]]:
    """Page number -> (level from 1, title) of the bookmarks pointing at it."""
    headings: dict[int, list[tuple[int, str]]] = {}
    for count, mark in enumerate(document.get_toc(max_depth=6)):
        if count >= MAX_OUTLINE_ENTRIES:
            break
        target = mark.get_dest()
        number = target.get_index() if target else None
        title = mark.get_title()
        if number is not None and title:
            headings.setdefault(number, []).append((min(mark.level + 1, 6), title))
    return headings


def _mark_headings(page: str, headings: list[tuple[int, str]]) -> str:
    """The page with `#` before the lines that bookmarks to it name; section numbers may differ."""
    if not headings:
        return page
    levels = {_reduce_heading(title): level for level, title in reversed(headings)}
    lines = page.split("\n")
    for index, line in enumerate(lines):
        level = levels.pop(_reduce_heading(line), None) if len(line) < 300 else None
        if level:
            lines[index] = f"\n{'#' * level} {line.strip()}\n"
    return "\n".join(lines).strip()


def _reduce_heading(line: str) -> str:
    bare = re.sub(r"^\s*(?:chapter|section)?\s*[\dA-Z]?[\d.]*\s+(?=\S)", "", line, flags=re.IGNORECASE)
    return "".join(bare.split()).casefold()


def _parse_html(request: ParseRequest) -> Parsed | ParseFailure:
    head = request.content[:4096]
    declared = re.search(rb"(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]{2,40})", head, re.IGNORECASE)
    decoded = decode_text(request.content, declared.group(1).decode("ascii", "replace") if declared else "")
    if decoded is None:
        return describe_failure(request, "encoding")
    page = decoded[0]
    stated = re.search(r"<title[^>]{0,200}>([^<]{0,2000})</title", page[:200_000], re.IGNORECASE)
    if not page.strip():
        return describe_failure(request, "empty")
    main = _find_main(page)
    for content, preset in ((main, "standard"), (_find_body(page), "aggressive"), (page, "minimal")):
        if not content:
            continue
        converted = _convert(content.encode(), "html", preset)
        if isinstance(converted, str):
            return _explain_refusal(request, converted)
        text = converted[0]
        if re.search(r"\w", text):
            title = html.unescape(stated.group(1)) if stated else ""
            return _compose(request, "html", "xberg", text, title, {})
    return describe_failure(request, "no_text", "markup or scripts")


def _find_main(page: str) -> str:
    """The inside of the only `<main>`, else of the only `<article>`, else ``""``."""
    for tag in ("main", "article"):
        starts = [found.start() for found in re.finditer(rf"<{tag}[\s>]", page, re.IGNORECASE)]
        ends = [found.start() for found in re.finditer(rf"</{tag}\s*>", page, re.IGNORECASE)]
        if len(starts) == 1 and ends and starts[0] < ends[-1]:
            return page[starts[0] : ends[-1]]
    return ""


def _find_body(page: str) -> str:
    """The page from its body on: without the head, a wrong `charset` there cannot mislead the converter."""
    body = re.search(r"<body[\s>]", page, re.IGNORECASE)
    return page[body.start() :] if body else page


def _parse_office(request: ParseRequest, format: str) -> Parsed | ParseFailure:
    converted = _convert(request.content, format, "standard")
    if isinstance(converted, str):
        return _explain_refusal(request, converted)
    text, described = converted
    text = _simplify_markdown(text)
    if not re.search(r"\w", text):
        return describe_failure(request, "no_text", "pictures, charts or embedded files")
    fields = {"authors": described.authors, "created": described.created_at, "subject": described.subject}
    metadata = {key: to_plain_json(value) for key, value in fields.items() if value}
    return _compose(request, format, "xberg", text, _prefer_title(described.title or ""), metadata)


def _convert(content: bytes, format: str, preset: str) -> "tuple[str, Any] | str":
    """(Markdown, document properties) by xberg, or what it said against the file.

    Its own limits are set wide (long tables and repetitive sheets are normal): the process has the real ones.
    """
    import xberg

    options = xberg.ConversionOptions(
        extract_metadata=False,
        compact_tables=True,
        inline_data_media=xberg.InlineDataMedia.ALT_TEXT_ONLY,
        # Whole pages stand inside a <form> on some servers: only its controls go, by selector.
        preprocessing=xberg.PreprocessingOptions(preset=preset, remove_forms=False),
        exclude_selectors=[] if preset == "minimal" else BOILERPLATE_SELECTORS,
    )
    config = xberg.ExtractionConfig(
        use_cache=False,
        output_format="markdown",
        disable_ocr=True,
        enable_quality_processing=False,
        max_archive_depth=0,
        html_options=options,
        security_limits=xberg.SecurityLimits(
            max_archive_size=MAX_EXPANDED_BYTES,
            max_content_size=MAX_EXPANDED_BYTES,
            max_compression_ratio=2000,  # deflate ends at 1032
            max_table_cells=2_000_000,
            max_iterations=1_000_000_000,
        ),
    )
    source = xberg.ExtractInput(
        kind="bytes", bytes=content, filename=f"file.{format}", mime_type=BINARY_MEDIA_TYPES[format]
    )
    try:
        result = asyncio.run(xberg.extract(source, config))
    except (RuntimeError, ValueError) as error:
        return re.sub(r"^\w+ error: ", "", str(error))
    if result.errors or not result.results:
        return str(result.errors[0]) if result.errors else "the parser returned nothing"
    return result.results[0].content, result.results[0].metadata


def _explain_refusal(request: ParseRequest, said: str) -> ParseFailure:
    if re.search("encrypt|password", said, re.IGNORECASE):
        return describe_failure(request, "encrypted")
    if "out of memory" in said:
        raise MemoryError(said)
    code = "too_large" if re.search("security (limit|violation)", said, re.IGNORECASE) else "malformed"
    return describe_failure(request, code, said)


def _simplify_markdown(text: str) -> str:
    """Image links become their alternative text and needless escapes go, outside code fences."""
    pieces: list[str] = []
    inside = False
    for piece in _split_fences(text):
        if inside:
            pieces.append(piece)
        else:
            pieces.append(_INLINE_ESCAPE.sub(r"\1\2", _IMAGE.sub(r"\1", piece)))
        inside = not inside
    return "".join(pieces).strip()


def _split_fences(text: str) -> list[str]:
    """Prose and fenced code by turns, starting with prose."""
    cuts = [found.start() for found in _FENCE.finditer(text)]
    ends = [text.find("\n", cut) + 1 or len(text) for cut in cuts[1::2]]
    bounds = [0]
    for begin, end in zip(cuts[::2], ends + [len(text)] * (len(cuts) % 2), strict=True):
        bounds += [begin, end]
    return [text[a:b] for a, b in zip(bounds, [*bounds[1:], len(text)], strict=True)]


def _settle_archive(request: ParseRequest) -> tuple[str, ParseFailure | None]:
    """Which format a ZIP archive is, by what it contains; refuses bombs, encrypted and unknown archives."""
    try:
        with zipfile.ZipFile(io.BytesIO(request.content)) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            kind = _read_entry(archive, "mimetype", 100).strip() if "mimetype" in names else ""
            locks = "META-INF/encryption.xml"
            locked = _read_entry(archive, locks, 1 << 20) if locks in names else ""
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError) as error:
        return "", describe_failure(request, "malformed", str(error))
    expanded = sum(entry.file_size for entry in entries)
    if expanded > MAX_EXPANDED_BYTES:
        return "", describe_failure(request, "too_large", f"{expanded:,} bytes when unpacked")
    # An EPUB may scramble its fonts alone, which locks nobody out.
    if any(entry.flag_bits & 1 for entry in entries) or re.search(r"URI=\"[^\"]+\.x?html?\"", locked):
        return "", describe_failure(request, "encrypted")
    for format, folder in (("docx", "word/"), ("pptx", "ppt/"), ("xlsx", "xl/")):
        if any(name.startswith(folder) for name in names):
            return format, None
    for format in ("odt", "epub"):
        if kind.startswith(BINARY_MEDIA_TYPES[format]) or (not kind and read_extension(request.name) == format):
            return format, None
    return "", describe_failure(request, "unsupported", f"a ZIP archive of {kind or 'unknown content'}")


def _read_entry(archive: zipfile.ZipFile, name: str, size: int) -> str:
    with archive.open(name) as entry:
        return entry.read(size).decode("utf-8", "replace")


def _settle_ole(request: ParseRequest, format: str) -> tuple[str, ParseFailure | None]:
    """Which format an OLE container is; refuses what a password protects.

    That is OOXML wrapped whole in a container, or a flag in the Word header ([MS-DOC] 2.5.1 FibBase: magic
    0xA5EC, fEncrypted is bit 8 of the flags at offset 10).
    """
    content = request.content
    if "EncryptedPackage".encode("utf-16-le") in content:
        return format, describe_failure(request, "encrypted")
    if content[512:514] == b"\xec\xa5" and content[523:524] and content[523] & 1:
        return format, describe_failure(request, "encrypted")
    if format != "msg" and "WordDocument".encode("utf-16-le") in content:
        return "doc", None
    return format, None


def _prefer_title(title: str) -> str:
    return "" if _JUNK_TITLE.match(title.strip()) else title


def _compose(
    request: ParseRequest, format: str, parser: str, text: str, title: str, metadata: dict[str, object]
) -> Parsed:
    text = make_storable(text).strip("\n")
    deepest = 6 if format in _HEADED_FORMATS else 1
    return Parsed(
        key=request.key,
        title=clean_title(title.strip() or find_markdown_title(text, deepest), request.name),
        text=text,
        media_type=BINARY_MEDIA_TYPES[format],
        parser=f"{parser}@{version(parser)}+{REVISION}",
        metadata=metadata,
    )
