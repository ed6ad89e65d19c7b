"""What a path is, which files it holds, and when they look changed."""

import gzip
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rag_pipeline.documents.locations import (
    LocationError,
    is_jsonl,
    list_entries,
    location_token,
    open_entry,
    printable,
    resolve_location,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.md", "a.txt", "sub/c.html", "sub/rows.jsonl", ".hidden.md", ".git/config.md", "z.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def list_uris(path: Path | str, *include: str) -> list[str]:
    return [entry.uri for entry in list_entries(resolve_location(str(path), "t", include=include))]


def test_a_folder_holds_its_files_in_a_stable_order_without_hidden_ones(folder: Path) -> None:
    location = resolve_location(str(folder), "t")
    assert (location.kind, location.prefix, location.source) == ("folder", "", str(folder))
    assert list_uris(folder) == ["a.txt", "b.md", "z.md", "sub/c.html", "sub/rows.jsonl"]
    assert [entry.jsonl for entry in list_entries(location)] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("patterns", "uris"),
    [
        (["*.md"], ["b.md", "z.md"]),
        (["sub/*"], ["sub/c.html", "sub/rows.jsonl"]),
        (["a.*", "c.*"], ["a.txt", "sub/c.html"]),
    ],
)
def test_only_files_that_match_are_listed(folder: Path, patterns: list[str], uris: list[str]) -> None:
    assert list_uris(folder, *patterns) == uris


def test_one_file_and_one_jsonl_file_speak_for_themselves_only(folder: Path) -> None:
    one = resolve_location(str(folder / "b.md"), "t")
    rows = resolve_location(str(folder / "sub/rows.jsonl"), "t", "mine")
    assert (one.kind, one.prefix, one.source) == ("file", "b.md", str(folder))
    assert (rows.kind, rows.prefix, rows.source) == ("jsonl", "rows.jsonl#", "mine")
    assert [e.uri for e in list_entries(one)] == ["b.md"]
    assert [e.uri for e in list_entries(rows)] == ["rows.jsonl"]


def test_a_file_has_the_same_uri_alone_and_in_its_folder(folder: Path) -> None:
    assert list_uris(folder / "z.md")[0] in list_uris(folder)


@pytest.mark.parametrize("path", ["/nonexistent/x", "relative-nonexistent", "memory://nothing/here"])
def test_what_does_not_exist_is_refused_by_name(path: str) -> None:
    with pytest.raises(LocationError, match=r"does not exist\. Nothing was read or deleted"):
        resolve_location(path, "t")


def test_an_unknown_protocol_is_refused_by_name() -> None:
    with pytest.raises(LocationError, match="nope://x cannot be opened"):
        resolve_location("nope://x", "t")


def test_a_token_changes_with_the_file_and_only_then(folder: Path) -> None:
    def token() -> str:
        return location_token(list(list_entries(resolve_location(str(folder), "t"))))

    before = token()
    assert token() == before
    status = (folder / "b.md").stat()
    (folder / "b.md").write_text("B.MD")  # as long, and as old
    os.utime(folder / "b.md", ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = token()
    assert changed != before
    (folder / "z.md").rename(folder / "y.md")
    assert token() not in (before, changed)


def test_names_are_made_printable_and_stay_apart() -> None:
    names = [b"a\xff.md", b"a\xfe.md", "ä.md".encode(), b"a.md"]
    shown = [printable(os.fsdecode(name)) for name in names]
    assert shown == ["a\\xff.md", "a\\xfe.md", "ä.md", "a.md"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("a.jsonl", True),
        ("A.NDJSON.GZ", True),
        ("a.jsonl.gz", True),
        ("a.json", False),
        ("jsonl", False),
        ("a.gz", False),
    ],
)
def test_json_lines_are_known_by_their_name(name: str, answer: bool) -> None:
    assert is_jsonl(name) is answer


def test_a_compressed_jsonl_file_is_opened_decompressed_and_other_archives_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"row\n"))
    (tmp_path / "page.txt.gz").write_bytes(gzip.compress(b"page"))
    contents = {}
    for entry in list_entries(resolve_location(str(tmp_path), "t")):
        with open_entry(entry) as stream:
            contents[entry.uri] = stream.read()
    assert contents["rows.jsonl.gz"] == b"row\n"
    assert contents["page.txt.gz"][:2] == b"\x1f\x8b"


def test_a_remote_folder_lists_and_opens_as_a_local_one() -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe({"/box/a.md": b"red", "/box/sub/b.jsonl": b'{"id": 1, "text": "x"}\n', "/box/.hidden.md": b"no"})
    location = resolve_location("memory://box", "t", include=())
    entries = list(list_entries(location))
    assert [(e.uri, e.jsonl) for e in entries] == [("a.md", False), ("sub/b.jsonl", True)]
    with open_entry(entries[0]) as stream:
        assert stream.read() == b"red"
    before = location_token(entries)
    system.pipe({"/box/a.md": b"blue"})
    assert location_token(list(list_entries(location))) != before
    one = resolve_location("memory://box/sub/b.jsonl", "t")
    assert (one.kind, one.prefix) == ("jsonl", "b.jsonl#")
    assert [e.uri for e in list_entries(one)] == ["b.jsonl"]


def test_a_file_behind_http_is_read(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    (tmp_path / "rows.jsonl").write_bytes(b'{"id": 1, "text": "x"}\n')
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        location = resolve_location(f"http://127.0.0.1:{web.server_port}/rows.jsonl", "t")
        (entry,) = list_entries(location)
        with open_entry(entry) as stream:
            assert stream.read() == b'{"id": 1, "text": "x"}\n'
    finally:
        web.shutdown()
