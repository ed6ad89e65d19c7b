"""Reading folders and files into versions: exact deltas, nothing lost to bad input, bounded memory."""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.documents.locations import LocationError, resolve_location
from rag_pipeline.documents.store import find_documents, list_failures, list_sources
from rag_pipeline.settings import Settings
from rag_pipeline.versions.ingestion import IngestReport, PruneRefusedError, ingest_locations
from rag_pipeline.versions.store import read_history
from rag_pipeline_tests.conftest import find_data
from rag_pipeline_tests.versions.test_store import assert_histories_hold

Reading = dict[str, tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def read(database: Database, settings: Settings, *paths: Path, prune: bool = True, **more: Any) -> IngestReport:
    locations = [resolve_location(str(path), "default", "test", **more) for path in paths]
    return ingest_locations(database, settings, locations, prune=prune)


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return report.added, report.changed, report.removed, report.unchanged, report.failed


def read_live(database: Database) -> Reading:
    """(current version, its text) of every live document by URI."""
    with database.connection() as connection:
        rows = connection.execute(
            "select d.uri, v.id, v.text from rag.document d join rag.document_version v on v.id = d.current_version_id"
        )
        return {uri: (version, text) for uri, version, text in rows}


def write_rows(path: Path, rows: list[Any]) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")


# folders ---------------------------------------------------------------------------------------------------


def test_a_folder_is_added_changed_removed_and_otherwise_left_alone(
    database: Database, settings: Settings, folder: Path
) -> None:
    for name in ("a.md", "b.md", "sub/c.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"# {name}\n\nred valve")
    assert counts(read(database, settings, folder)) == (3, 0, 0, 0, 0)
    assert counts(read(database, settings, folder)) == (0, 0, 0, 3, 0)
    (folder / "a.md").write_text("blue pump")
    (folder / "b.md").unlink()
    (folder / "d.md").write_text("green boiler")
    os.utime(folder / "sub/c.txt")  # touched, and says the same
    assert counts(read(database, settings, folder)) == (1, 1, 1, 1, 0)
    assert sorted(read_live(database)) == ["a.md", "d.md", "sub/c.txt"]
    assert_histories_hold(database)


def test_without_prune_nothing_is_deleted(database: Database, settings: Settings, folder: Path) -> None:
    (folder / "a.md").write_text("red")
    (folder / "b.md").write_text("blue")
    read(database, settings, folder)
    (folder / "b.md").unlink()
    assert counts(read(database, settings, folder, prune=False)) == (0, 0, 0, 1, 0)
    assert sorted(read_live(database)) == ["a.md", "b.md"]


def test_a_replay_of_released_documentation_gives_exactly_the_recorded_changes(
    database: Database, settings: Settings
) -> None:
    base = find_data("snapshots-fastapi")
    wanted: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in (base / "changes.tsv").read_text().splitlines():
        snapshot, kind, path = line.split("\t")
        wanted[snapshot][kind].add(path)
    snapshots = sorted(path for path in base.iterdir() if path.is_dir())
    assert len(snapshots) >= 4
    before: Reading = {}
    for snapshot in snapshots:
        report = read(database, settings, snapshot)
        after = read_live(database)
        found = {
            "added": after.keys() - before.keys(),
            "changed": {uri for uri in after.keys() & before.keys() if after[uri][0] != before[uri][0]},
            "removed": before.keys() - after.keys(),
        }
        for kind in ("added", "changed", "removed"):
            assert found[kind] == wanted[snapshot.name][kind], (snapshot.name, kind)
            assert getattr(report, kind) == len(wanted[snapshot.name][kind])
        assert report.unchanged == len(after) - len(found["added"]) - len(found["changed"])
        assert report.failures == []
        before = after
    assert_histories_hold(database)
    assert counts(read(database, settings, snapshots[-1])) == (0, 0, 0, len(before), 0)


def test_a_folder_that_lost_all_its_files_is_not_pruned(database: Database, settings: Settings, folder: Path) -> None:
    (folder / "a.md").write_text("red")
    read(database, settings, folder)
    (folder / "a.md").unlink()
    with pytest.raises(PruneRefusedError, match=r"is empty.*delete all 1 documents"):
        read(database, settings, folder)
    assert sorted(read_live(database)) == ["a.md"]


def test_a_file_that_lost_all_its_rows_is_not_pruned(database: Database, settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"id": 1, "text": "red"}])
    read(database, settings, tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_bytes(b"")
    with pytest.raises(PruneRefusedError, match=r"is empty.*delete all 1 documents"):
        read(database, settings, tmp_path / "rows.jsonl")
    assert sorted(read_live(database)) == ["rows.jsonl#1"]


def test_a_path_that_vanished_is_refused_and_deletes_nothing(
    database: Database, settings: Settings, folder: Path
) -> None:
    (folder / "a.md").write_text("red")
    read(database, settings, folder)
    (folder / "a.md").unlink()
    folder.rmdir()
    with pytest.raises(LocationError, match="does not exist"):
        read(database, settings, folder)
    assert sorted(read_live(database)) == ["a.md"]


@pytest.mark.parametrize(
    "name", [b"bytes-\xff\xfe.md", b"new\nline.md", "emoji-🦊.md".encode(), b"semi;colon 'quote'.md", b"#%?.md"]
)
def test_any_file_name_is_read_and_pruned(database: Database, settings: Settings, folder: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(folder), name)
    Path(os.fsdecode(path)).write_text("red valve")
    (folder / "other.md").write_text("blue")
    assert counts(read(database, settings, folder)) == (2, 0, 0, 0, 0)
    assert counts(read(database, settings, folder)) == (0, 0, 0, 2, 0)
    os.unlink(path)
    assert counts(read(database, settings, folder)) == (0, 0, 1, 1, 0)


def test_pruning_one_file_leaves_the_rest_of_its_source(database: Database, settings: Settings, folder: Path) -> None:
    (folder / "a.md").write_text("red")
    (folder / "ab.md").write_text("blue")
    read(database, settings, folder)
    (folder / "a.md").write_text("green")
    assert counts(read(database, settings, folder / "a.md")) == (0, 1, 0, 0, 0)
    assert sorted(read_live(database)) == ["a.md", "ab.md"]


def test_two_readers_of_one_folder_at_once_agree(database: Database, settings: Settings, folder: Path) -> None:
    for number in range(60):
        (folder / f"{number}.md").write_text(f"red valve {number}")
    problems: list[BaseException] = []

    def run() -> None:
        try:
            read(database, settings, folder)
        except BaseException as error:
            problems.append(error)

    for _ in range(3):
        readers = [threading.Thread(target=run) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout=60)
        for number in range(0, 60, 2):
            (folder / f"{number}.md").write_text(f"blue pump {number} {_}")
    assert problems == []
    with database.connection() as connection:
        row = connection.execute("select count(*), max(ordinal) from rag.document_version").fetchone()
    assert row == (60 + 2 * 30, 3)
    assert_histories_hold(database)


def test_a_source_is_registered_with_what_it_looked_like(database: Database, settings: Settings, folder: Path) -> None:
    (folder / "a.md").write_text("red")
    read(database, settings, folder, include=("*.md",))
    with database.connection() as connection:
        (first,) = list_sources(connection)
    (folder / "a.md").write_text("blue")
    read(database, settings, folder, include=("*.md",))
    with database.connection() as connection:
        (second,) = list_sources(connection)
    assert (first.location, first.include, first.prune) == (str(folder), ["*.md"], True)
    assert first.token != second.token


# bad input -------------------------------------------------------------------------------------------------


def test_a_document_that_turns_bad_keeps_its_last_good_version_until_it_is_good_again(
    database: Database, settings: Settings, folder: Path
) -> None:
    (folder / "good.md").write_text("blue pump")
    path = folder / "page.html"
    path.write_text("<h1>Red</h1><p>valve</p>")
    read(database, settings, folder)
    path.write_bytes(b"%PDF-1.7 this is no page")
    report = read(database, settings, folder)
    assert counts(report) == (0, 0, 0, 1, 1)
    assert "valve" in read_live(database)["page.html"][1]
    with database.connection() as connection:
        (failure,) = list_failures(connection)
    assert failure[2] == "page.html"
    assert report.failures[0].reason == failure[4]
    path.write_text("<h1>Red</h1><p>valve repaired</p>")
    assert counts(read(database, settings, folder)) == (0, 1, 0, 1, 0)
    with database.connection() as connection:
        assert list_failures(connection) == []


def test_what_failed_is_tried_again_only_when_it_changed(
    database: Database, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_pipeline.documents.parser_pool import ParserPool

    parsed: list[str] = []
    parse = ParserPool.parse

    def note(self: ParserPool, requests: Any) -> Iterator[Any]:
        def noted() -> Iterator[Any]:
            for request in requests:
                parsed.append(request.key)
                yield request

        return iter(parse(self, noted()))

    monkeypatch.setattr(ParserPool, "parse", note)
    (folder / "bad.pdf").write_bytes(b"%PDF-1.7 broken")
    for _ in range(3):
        assert read(database, settings, folder).failed == 1
    assert parsed == ["bad.pdf"]
    (folder / "bad.pdf").write_bytes(b"%PDF-1.7 broken otherwise")
    read(database, settings, folder)
    assert parsed == ["bad.pdf", "bad.pdf"]
    (folder / "bad.pdf").unlink()
    (folder / "good.md").write_text("red")
    assert read(database, settings, folder).failed == 0


def test_a_file_that_cannot_be_opened_is_a_failure_and_not_a_deletion(
    database: Database, settings: Settings, folder: Path
) -> None:
    (folder / "a.md").write_text("red")
    (folder / "b.md").write_text("blue")
    read(database, settings, folder)
    (folder / "b.md").unlink()
    (folder / "b.md").mkdir()  # a folder of that name: not even root can read it as a file
    (folder / "b.md" / "c.md").write_text("green")
    report = read(database, settings, folder, prune=False)
    assert counts(report) == (1, 0, 0, 1, 0)
    assert sorted(read_live(database)) == ["a.md", "b.md", "b.md/c.md"]


# JSON lines ------------------------------------------------------------------------------------------------


def test_good_rows_are_read_and_bad_ones_recorded_with_their_line(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[Any] = [
        {"id": "one", "title": "One", "text": "red", "metadata": {"lang": "en"}, "extra": 5},
        b"{not json",
        {"id": "two", "text": 7},
        {"text": "no id"},
        [1, 2],
        {"id": "one", "text": "again"},
        {"id": 3, "text": "a number is an id"},
        b'{"id": "lone", "text": "a \\ud83d b"}',
        b'{"id": "pair", "text": "\\ud83e\\udd8a"}',
        b'{"id": "nul", "text": "a\\u0000b"}',
        b"",
        {"id": "empty", "text": ""},
    ]
    write_rows(path, rows)
    report = read(database, settings, path, prune=False)
    assert counts(report) == (6, 0, 0, 0, 5)
    assert {uri.partition("#")[2]: text for uri, (_, text) in read_live(database).items()} == {
        "one": "red",
        "3": "a number is an id",
        "lone": "a \ufffd b",
        "pair": "🦊",
        "nul": "ab",
        "empty": "",
    }
    for line, failure in zip((2, 3, 4, 5, 6), report.failures, strict=True):
        assert f"line {line}" in failure.reason
    with database.connection() as connection:
        row = connection.execute(
            "select d.external_id, v.metadata from rag.document d join rag.document_version v"
            " on v.id = d.current_version_id where d.uri = 'rows.jsonl#one'"
        ).fetchone()
    assert row == ("one", {"lang": "en", "extra": 5})
    assert counts(read(database, settings, path, prune=False)) == (0, 0, 0, 6, 5)


def test_rows_are_added_changed_and_removed(database: Database, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"id": n, "text": f"red {n}"} for n in range(5)])
    assert counts(read(database, settings, path)) == (5, 0, 0, 0, 0)
    write_rows(path, [{"id": n, "text": f"{'blue' if n == 1 else 'red'} {n}"} for n in (4, 3, 1, 7)])
    assert counts(read(database, settings, path)) == (1, 1, 2, 2, 0)
    assert_histories_hold(database)


def test_changed_metadata_alone_is_a_change_and_another_order_of_keys_is_none(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"id": 1, "text": "red", "metadata": {"a": 1, "b": 2}}])
    read(database, settings, path)
    write_rows(path, [{"metadata": {"b": 2, "a": 1}, "text": "red", "id": 1}])
    assert counts(read(database, settings, path)) == (0, 0, 0, 1, 0)
    write_rows(path, [{"id": 1, "text": "red", "metadata": {"a": 1, "b": 3}}])
    assert counts(read(database, settings, path)) == (0, 1, 0, 0, 0)


def test_a_row_that_turns_bad_keeps_its_document_even_if_its_id_cannot_be_read(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"id": "good", "text": "blue"}
    write_rows(path, [good, {"id": "x", "text": "red"}, {"id": "y", "text": "green"}])
    read(database, settings, path)
    write_rows(path, [good, {"id": "x", "text": None}, b'{"id": "y", "text": "gre'])
    assert counts(read(database, settings, path)) == (0, 0, 0, 1, 2)
    assert sorted(text for _, text in read_live(database).values()) == ["blue", "green", "red"]
    write_rows(path, [good])  # whole again: what is gone is gone
    assert counts(read(database, settings, path)) == (0, 0, 2, 1, 0)


def test_a_line_of_a_hundred_megabytes_stops_nothing(database: Database, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": "first", "text": "red"}\n{"id": "big", "text": "' + b"x" * 100_000_000 + b"\n")
        file.write(b'{"id": "last", "text": "blue"}\n')
    report = read(database, settings, path, prune=False)
    assert counts(report) == (2, 0, 0, 0, 1)
    assert len(report.failures[0].reason) < 1000
    assert sorted(text for _, text in read_live(database).values()) == ["blue", "red"]


def test_a_truncated_archive_keeps_the_rows_before_the_damage_and_deletes_none_behind_it(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl.gz"
    rows = [{"id": n, "text": os.urandom(200).hex()} for n in range(400)]
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(content))
    assert counts(read(database, settings, path)) == (400, 0, 0, 0, 0)
    changed = content.replace(rows[0]["text"].encode(), b"changed", 1)  # type: ignore[attr-defined]
    whole = gzip.compress(changed)
    path.write_bytes(whole[: len(whole) // 2])
    report = read(database, settings, path)
    assert (report.changed, report.removed, report.failed) == (1, 0, 1)
    assert report.failures[0].uri == "rows.jsonl.gz"
    assert "ends early" in report.failures[0].reason
    live = read_live(database)
    assert len(live) == 400
    assert live["rows.jsonl.gz#0"][1] == "changed"
    path.write_bytes(gzip.compress(changed[: changed.index(b"\n") + 1]))
    assert counts(read(database, settings, path)) == (0, 0, 399, 1, 0)


def test_two_files_of_one_source_do_not_prune_each_other(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    write_rows(tmp_path / "a.jsonl", [{"id": 1, "text": "red"}])
    write_rows(tmp_path / "b.jsonl", [{"id": 1, "text": "blue"}])
    read(database, settings, tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    write_rows(tmp_path / "a.jsonl", [{"id": 2, "text": "red"}])
    assert counts(read(database, settings, tmp_path / "a.jsonl")) == (1, 0, 1, 0, 0)
    assert sorted(read_live(database)) == ["a.jsonl#2", "b.jsonl#1"]


MEASURED = """
import sys
from pathlib import Path
from rag_pipeline.database.engine import open_database
from rag_pipeline.settings import load_settings
from rag_pipeline_tests.versions.test_ingestion import counts, read
settings = load_settings()
database = open_database(settings)
assert counts(read(database, settings, Path(sys.argv[1])))[0] == 100_000
# not ru_maxrss, which begins at the size of the process that started this one
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_a_hundred_thousand_rows_are_read_in_bounded_memory(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(100_000):
            file.write(json.dumps({"id": number, "text": f"row {number} " + "red valve " * 60}) + "\n")
    assert settings.database_url is not None
    environment = {**os.environ, "RAG_DATABASE_URL": settings.database_url.get_secret_value()}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    megabytes = int(done.stdout)
    print(f"\npeak memory {megabytes} MB for {path.stat().st_size >> 20} MB of rows")
    assert megabytes < 700


def test_a_history_survives_a_file_that_comes_and_goes(database: Database, settings: Settings, folder: Path) -> None:
    (folder / "keep.md").write_text("keep")
    for text in ("red", None, "red", "blue", None, "blue"):
        (folder / "a.md").unlink(missing_ok=True)
        if text:
            (folder / "a.md").write_text(text)
        read(database, settings, folder)
        assert_histories_hold(database)
    with database.connection() as connection:
        (document,) = find_documents(connection, "a.md")
        assert len(read_history(connection, document.id)) == 4
