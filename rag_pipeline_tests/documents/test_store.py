"""Documents, sources and failures as rows."""

from datetime import UTC, datetime

from rag_pipeline.database.engine import Database
from rag_pipeline.documents.locations import Location
from rag_pipeline.documents.store import (
    count_documents,
    find_documents,
    forget_failures_of,
    forget_other_folders,
    list_failures,
    list_sources,
    read_known_documents,
    read_known_failures,
    record_failure,
    register_source,
    update_stat_tokens,
)
from rag_pipeline_tests.content import SOURCE, delete_texts, put_texts


def test_what_is_known_of_a_location_is_what_its_prefix_covers(database: Database) -> None:
    put_texts(database, {"rows.jsonl#1": "red", "rows.jsonl#2": "blue", "rows.jsonl2": "x", "100%_a.md": "y"})
    with database.connection() as connection:
        known = read_known_documents(connection, "default", SOURCE, "rows.jsonl#")
        assert sorted(known) == ["rows.jsonl#1", "rows.jsonl#2"]
        assert sorted(read_known_documents(connection, "default", SOURCE, "100%_")) == ["100%_a.md"]
        assert len(read_known_documents(connection, "default", SOURCE, "")) == 4
        assert read_known_documents(connection, "other", SOURCE, "") == {}
        assert read_known_documents(connection, "default", "else", "") == {}


def test_a_deleted_document_is_known_without_content(database: Database) -> None:
    put_texts(database, {"a": "red", "b": "blue"})
    delete_texts(database, "a")
    with database.connection() as connection:
        known = read_known_documents(connection, "default", SOURCE, "")
        assert (known["a"].content_sha256, known["b"].content_sha256 is None) == (None, False)
        assert count_documents(connection) == (1, 1)


def test_a_documents_look_is_remembered_and_forgotten_with_it(database: Database) -> None:
    put_texts(database, {"a": "red"})
    with database.transaction() as connection:
        known = read_known_documents(connection, "default", SOURCE, "")
        update_stat_tokens(connection, {known["a"].id: "token"})
        update_stat_tokens(connection, {})
        assert read_known_documents(connection, "default", SOURCE, "")["a"].stat_token == "token"
    delete_texts(database, "a")
    with database.connection() as connection:
        assert read_known_documents(connection, "default", SOURCE, "")["a"].stat_token is None


def test_a_failure_is_kept_once_with_its_newest_reason_until_it_is_forgotten(database: Database) -> None:
    with database.transaction() as connection:
        for reason in ("first", "second"):
            record_failure(connection, "default", SOURCE, "a.pdf", reason.encode(), "malformed", reason)
        record_failure(connection, "default", SOURCE, "b.pdf", b"x", "timeout", "slow")
        known = read_known_failures(connection, "default", SOURCE, "a")
        assert {uri: (f.content_sha256, f.reason) for uri, f in known.items()} == {"a.pdf": (b"second", "second")}
        forget_failures_of(connection, "default", SOURCE, ["a.pdf"])
        forget_failures_of(connection, "default", SOURCE, [])
        assert [row[2] for row in list_failures(connection)] == ["b.pdf"]


def test_a_document_that_is_read_well_is_no_failure_any_more(database: Database) -> None:
    with database.transaction() as connection:
        record_failure(connection, "default", SOURCE, "a", b"x", "malformed", "bad")
        record_failure(connection, "default", SOURCE, "b", b"x", "malformed", "bad")
    put_texts(database, {"a": "red"})
    with database.connection() as connection:
        assert [row[2] for row in list_failures(connection)] == ["b"]


def test_a_document_is_found_by_uri_id_or_number_live_ones_first(database: Database) -> None:
    put_texts(database, {"a": "red"})
    put_texts(database, {"a": "blue"}, tenant="other")
    delete_texts(database, "a")
    with database.connection() as connection:
        found = find_documents(connection, "a")
        assert [(d.tenant, d.deleted_at is None) for d in found] == [("other", True), ("default", False)]
        assert find_documents(connection, str(found[0].id)) == [found[0]]
        assert find_documents(connection, "nope") == []


def test_a_source_is_one_row_per_location_and_moves_with_its_folder(database: Database) -> None:
    def location(path: str, kind: str = "folder") -> Location:
        return Location("default", "docs", path, kind, "")  # type: ignore[arg-type]

    with database.transaction() as connection:
        register_source(connection, location("/old"), False, "t1")
        register_source(connection, location("/old"), True, "t2")
        register_source(connection, location("/old/rows.jsonl", "jsonl"), False, "t3")
        assert [(s.location, s.prune, s.token) for s in list_sources(connection)] == [
            ("/old", True, "t2"),
            ("/old/rows.jsonl", False, "t3"),
        ]
        register_source(connection, location("/new"), False, "t4")
        forget_other_folders(connection, "default", "docs", ["/new"])
        assert [s.location for s in list_sources(connection)] == ["/old/rows.jsonl", "/new"]


def test_moments_carry_their_zone(database: Database) -> None:
    put_texts(database, {"a": "red"})
    delete_texts(database, "a")
    with database.connection() as connection:
        deleted_at = find_documents(connection, "a")[0].deleted_at
    assert deleted_at is not None
    assert abs((datetime.now(UTC) - deleted_at).total_seconds()) < 60
