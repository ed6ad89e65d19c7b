"""What a file becomes: text with a title and metadata, or a reason why there is none.

Nothing here trusts a file. Plain text and Markdown are decoded in the calling process, because that runs no
format parser; every other format is parsed by `binary_files` inside a limited process (`parser_pool`).
"""

from dataclasses import dataclass
from pathlib import PurePath

from rag_pipeline.documents.text_files import (
    decode_text,
    find_markdown_title,
    is_markup_page,
    make_storable,
    split_front_matter,
)

TEXT_PARSER = "text@1"
MARKDOWN_PARSER = "markdown@1"

# Extension -> media type of all that a worker parses. Magic bytes come first, the extension breaks ties.
BINARY_MEDIA_TYPES = {
    "pdf": "application/pdf",
    "html": "text/html",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "epub": "application/epub+zip",
    "rtf": "application/rtf",
    "doc": "application/msword",
    "msg": "application/vnd.ms-outlook",
    "hwp": "application/x-hwp",
    "ipynb": "application/x-ipynb+json",
}
EXTENSION_ALIASES = {"htm": "html", "xhtml": "html", "docm": "docx", "pptm": "pptx", "xlsm": "xlsx"}
MARKDOWN_EXTENSIONS = frozenset({"md", "markdown", "mdx", "mkd"})
TEXT_MEDIA_TYPES = {"csv": "text/csv", "tsv": "text/tab-separated-values", "rst": "text/x-rst"}
# An undecodable file with one of these endings is broken text; with any other it is a kind we do not read.
TEXT_EXTENSIONS = frozenset({"", "txt", "text", "log", *TEXT_MEDIA_TYPES})
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
SUPPORTED = "Markdown, plain text, HTML, PDF, DOCX, PPTX, XLSX, ODT, EPUB, RTF, DOC, MSG, HWP 5 and IPYNB"
MAX_TITLE_CHARACTERS = 500

# code -> (cause, next step); {detail} is what the parser said.
_SENTENCES = {
    "empty": ("it holds no text at all", "fill it or leave it out"),
    "encrypted": ("it is protected by a password", "save a copy without the password"),
    "malformed": (
        "it cannot be read ({detail})",
        "save it again from its own program, or export it to PDF",
    ),
    "unsupported": ("{detail} is not a kind this parser reads", f"convert it to one of {SUPPORTED}"),
    "too_large": ("it is too large ({detail})", "split it, or raise the limit"),
    "timeout": ("parsing took longer than {detail}", "split it, or raise the timeout"),
    "memory": ("parsing needed more than {detail} of memory", "split it, or raise the memory limit"),
    "no_text": ("it has no text, only {detail}", "run OCR on it first, or leave it out"),
    "encoding": ("its bytes are not text in any known encoding", "save it as UTF-8"),
    "crash": (
        "the parser process died ({detail})",
        "try again, then convert the file to another format",
    ),
}


@dataclass(frozen=True)
class ParseRequest:
    """One file: `name` gives the extension and the fallback title, `key` comes back with the outcome."""

    key: str
    name: str
    content: bytes


@dataclass(frozen=True)
class Parsed:
    """A file as text PostgreSQL can hold (no NUL, no lone surrogates); metadata is plain JSON.

    `parser` is `name@version`: another value means that the same bytes may give another text.
    """

    key: str
    title: str
    text: str
    media_type: str
    parser: str
    metadata: dict[str, object]


@dataclass(frozen=True)
class ParseFailure:
    """Why a file gave no text, as one sentence for a person and one code for a program.

    Codes: empty, encrypted, malformed, unsupported, too_large, timeout, memory, no_text, encoding, crash.
    """

    key: str
    reason: str
    code: str


def describe_failure(request: ParseRequest, code: str, detail: str = "") -> ParseFailure:
    """The failure as one sentence: the file, the cause, the next step."""
    cause, step = _SENTENCES[code]
    said = " ".join(make_storable(detail).split())[:200] or "no details"
    name = make_storable(request.name)
    return ParseFailure(request.key, f"{name}: {cause.format(detail=said)}; {step}.", code)


def read_extension(name: str) -> str:
    """Lower-case extension without the dot, aliases resolved: `A.HTM` -> `html`."""
    extension = PurePath(name).suffix[1:].lower()
    return EXTENSION_ALIASES.get(extension, extension)


def detect_format(name: str, content: bytes) -> str:
    """`markdown`, `text`, `zip`, or a key of `BINARY_MEDIA_TYPES`: magic bytes first, then the extension.

    So a `.txt` that is a PDF is a PDF, and a `.docx` that is a saved web page is HTML. `zip` is settled by
    `binary_files`, since listing an archive is already parsing.
    """
    extension = read_extension(name)
    head = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"%PDF-") or (extension == "pdf" and b"%PDF-" in head):
        return "pdf"
    if head.startswith(ZIP_MAGICS):
        return "zip"
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if content.startswith(OLE_MAGIC):
        return extension if extension in BINARY_MEDIA_TYPES else "ole"
    if extension in MARKDOWN_EXTENSIONS:
        return "markdown"
    if extension in BINARY_MEDIA_TYPES:
        return "html" if is_markup_page(head) else extension
    return "text"


def parse_text_file(request: ParseRequest, format: str) -> Parsed | ParseFailure:
    """Decode `text` or `markdown`; the text is kept as written but for a byte-order mark and NUL bytes.

    Front matter moves from the text to the metadata. Title: its `title`, else the first `# heading`, else the
    file stem; plain text always takes the stem.
    """
    decoded = decode_text(request.content)
    if decoded is None:
        extension = read_extension(request.name)
        if extension in TEXT_EXTENSIONS or extension in MARKDOWN_EXTENSIONS:
            return describe_failure(request, "encoding")
        return describe_failure(request, "unsupported", f"a .{extension} file")
    text, encoding = decoded
    metadata: dict[str, object] = {}
    title = ""
    if format == "markdown":
        text, metadata = split_front_matter(text)
        stated = metadata.get("title")
        title = str(stated) if isinstance(stated, (str, int, float)) else ""
        title = title.strip() or find_markdown_title(text)
    if not text or text.isspace():
        return describe_failure(request, "empty")
    if encoding != "utf-8":
        metadata = {**metadata, "encoding": encoding}
    markdown = format == "markdown"
    plain_type = TEXT_MEDIA_TYPES.get(read_extension(request.name), "text/plain")
    return Parsed(
        key=request.key,
        title=clean_title(title, request.name),
        text=text,
        media_type="text/markdown" if markdown else plain_type,
        parser=MARKDOWN_PARSER if markdown else TEXT_PARSER,
        metadata=metadata,
    )


def clean_title(title: str, name: str) -> str:
    """One line of at most 500 characters; an empty title becomes the file stem."""
    line = " ".join(make_storable(title).split())[:MAX_TITLE_CHARACTERS]
    return line or make_storable(PurePath(name).stem) or make_storable(name)
