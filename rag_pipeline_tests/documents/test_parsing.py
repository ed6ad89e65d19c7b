"""What a file is, and what plain files become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.documents.parsing import (
    Parsed,
    ParseFailure,
    ParseRequest,
    describe_failure,
    detect_format,
    parse_text_file,
)


def parse(name: str, content: bytes) -> Parsed | ParseFailure:
    return parse_text_file(ParseRequest("key", name, content), detect_format(name, content))


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.md", b"# x", "markdown"),
        ("A.MARKDOWN", b"x", "markdown"),
        ("a.txt", b"x", "text"),
        ("Makefile", b"all:", "text"),
        ("a.py", b"import os", "text"),
        ("a.txt", b"%PDF-1.7\n", "pdf"),
        ("a.md", b"\xef\xbb\xbf%PDF-1.7\n", "pdf"),
        ("a.txt", b"the magic of a PDF is %PDF-1.7", "text"),
        ("a.pdf", b"junk before %PDF-1.4", "pdf"),
        ("a.pdf", b"<!DOCTYPE html><html>", "html"),
        ("a.docx", b"  <html><body>", "html"),
        ("a.doc", b"{\\rtf1 x}", "rtf"),
        ("a.txt", b"PK\x03\x04", "zip"),
        ("a.htm", b"<p>x", "html"),
        ("a.md", b"<html>", "markdown"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "doc"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
        ("a.ipynb", b"{}", "ipynb"),
    ],
)
def test_magic_bytes_decide_before_the_extension(name, content, format):
    assert detect_format(name, content) == format


def test_plain_text_keeps_every_space_and_takes_the_file_stem_as_title():
    content = b"\xef\xbb\xbf  two  spaces\t\r\n\r\n\r\nend \n"
    parsed = parse("notes/My file.txt", content)
    assert parsed == Parsed("key", "My file", content[3:].decode(), "text/plain", "text@1", {})


def test_markdown_gives_up_its_front_matter_and_nothing_else():
    parsed = parse("a.md", b"---\ntitle: Stated\ntags: [x]\n---\n# Heading { #h }\n\n    code  \n")
    assert isinstance(parsed, Parsed)
    assert parsed.title == "Stated"
    assert parsed.text == "# Heading { #h }\n\n    code  \n"
    assert parsed.metadata == {"title": "Stated", "tags": ["x"]}
    assert (parsed.media_type, parsed.parser) == ("text/markdown", "markdown@1")


@pytest.mark.parametrize(
    ("content", "title"),
    [
        (b"---\ntitle: 2024\n---\nx", "2024"),
        (b"---\ntitle: [a]\n---\n# Heading\n", "Heading"),
        (b"---\ntitle: '  '\n---\n# Heading\n", "Heading"),
        (b"## Second\n", "guide"),
        (b"# " + b"long " * 400 + b"\n", ("long " * 100)),
    ],
)
def test_the_title_falls_back_from_front_matter_to_heading_to_file_stem(content, title):
    parsed = parse("guide.md", content)
    assert isinstance(parsed, Parsed)
    assert parsed.title == title


def test_another_encoding_is_recorded():
    text = "Größe und Übermut tun selten gut; die Straße ist naß.\n"
    parsed = parse("a.txt", text.encode("latin-1"))
    assert isinstance(parsed, Parsed)
    assert (parsed.text, parsed.metadata) == (text, {"encoding": "cp1252"})


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.txt", b" \n\t\n", "empty"),
        ("a.txt", b"\xef\xbb\xbf", "empty"),
        ("a.md", b"---\ntitle: only this\n---\n", "empty"),
        ("a.txt", bytes(range(256)) * 20, "encoding"),
        ("noextension", bytes(range(256)) * 20, "encoding"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "unsupported"),
    ],
)
def test_a_file_without_text_gets_a_reason(name, content, code):
    failure = parse(name, content)
    assert isinstance(failure, ParseFailure)
    assert failure.code == code
    assert failure.reason.startswith(f"{name}: ")


def test_a_reason_names_the_thing_the_cause_and_the_next_step():
    failure = describe_failure(ParseRequest("k", "scan\udcff.pdf", b""), "no_text", "images on 3 page(s)")
    assert failure.reason == (
        "scan\ufffd.pdf: it has no text, only images on 3 page(s); run OCR on it first, or leave it out."
    )


def test_an_unsupported_kind_is_told_what_is_supported():
    failure = describe_failure(ParseRequest("k", "a.xls", b""), "unsupported", "a .xls file")
    assert "PDF" in failure.reason
    assert "XLSX" in failure.reason


@given(st.binary(max_size=300), st.sampled_from(["a.md", "a.txt", "a", "a.csv"]))
def test_any_plain_file_ends_as_storable_text_or_a_reason(content, name):
    if detect_format(name, content) not in ("text", "markdown"):
        return
    outcome = parse(name, content)
    assert outcome.key == "key"
    if isinstance(outcome, Parsed):
        assert outcome.text.strip()
        assert "\0" not in outcome.text + outcome.title
        (outcome.text + outcome.title).encode("utf-8")
