"""Versions: append-only, without gaps or overlaps in what they say about time, whoever writes at once."""

import random
import threading
import time
from datetime import datetime

import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.documents import store as documents
from rag_pipeline.versions.store import (
    WrittenVersions,
    count_versions,
    read_clock,
    read_history,
    read_version,
    write_versions,
)
from rag_pipeline_tests.content import SOURCE, delete_texts, make_incoming, put_texts, write_texts

OVERLAPS = """
    select a.id, b.id from rag.document_version a join rag.document_version b
    on a.document_id = b.document_id and a.id < b.id
    and tstzrange(a.valid_from, a.valid_to) && tstzrange(b.valid_from, b.valid_to)
"""
UNTRUE = """
    select d.id from rag.document d left join rag.document_version v on v.document_id = d.id and v.valid_to is null
    where d.current_version_id is distinct from v.id or (d.deleted_at is null) <> (v.id is not null)
"""


def assert_histories_hold(database: Database) -> None:
    """No two versions of a document overlap, and exactly the current one of a live document is open."""
    with database.connection() as connection:
        assert connection.execute(OVERLAPS).fetchall() == []
        assert connection.execute(UNTRUE).fetchall() == []


def find_id(database: Database, uri: str) -> int:
    with database.connection() as connection:
        return documents.find_documents(connection, uri)[0].id


def test_the_same_content_twice_is_one_version(database: Database) -> None:
    assert put_texts(database, {"a": "red", "b": "blue"}) == WrittenVersions(added=2, changed=0, unchanged=0)
    assert put_texts(database, {"a": "red", "b": "green"}) == WrittenVersions(added=0, changed=1, unchanged=1)
    with database.connection() as connection:
        assert count_versions(connection) == 3
    assert_histories_hold(database)


def test_a_history_tells_each_version_with_its_time(database: Database) -> None:
    moments = []
    for text in ("one", "two", "three"):
        put_texts(database, {"a": text})
        with database.connection() as connection:
            moments.append(read_clock(connection))
    with database.connection() as connection:
        history = read_history(connection, find_id(database, "a"))
        assert [(v.ordinal, v.characters, v.valid_to is None) for v in history] == [
            (1, 3, False),
            (2, 3, False),
            (3, 5, True),
        ]
        assert [later.valid_from for later in history[1:]] == [v.valid_to for v in history[:-1]]
        assert all(v.valid_from < moment for v, moment in zip(history, moments, strict=True))
        second = read_version(connection, find_id(database, "a"), 2)
        assert second is not None
        assert second.text == "two"
        assert read_version(connection, find_id(database, "a"), 9) is None


def test_a_deleted_document_comes_back_as_the_next_version_of_its_history(database: Database) -> None:
    put_texts(database, {"a": "red"})
    assert delete_texts(database, "a") == 1
    assert delete_texts(database, "a") == 0
    assert_histories_hold(database)
    assert put_texts(database, {"a": "red"}) == WrittenVersions(added=1, changed=0, unchanged=0)
    with database.connection() as connection:
        history = read_history(connection, find_id(database, "a"))
    assert [(v.ordinal, v.valid_to is None) for v in history] == [(1, False), (2, True)]
    first, second = history
    assert first.valid_to is not None
    assert first.valid_to < second.valid_from  # it was away in between
    assert_histories_hold(database)


def test_documents_of_one_name_in_two_tenants_are_two(database: Database) -> None:
    put_texts(database, {"a": "red"})
    assert put_texts(database, {"a": "blue"}, tenant="other").added == 1
    delete_texts(database, "a", tenant="other")
    with database.connection() as connection:
        assert [d.deleted_at is None for d in documents.find_documents(connection, "a")] == [True, False]


def test_two_writers_of_the_same_documents_wait_and_do_not_deadlock(database: Database) -> None:
    chosen = random.Random(3)
    problems: list[BaseException] = []

    def write(seed: int) -> None:
        order = random.Random(seed)
        try:
            for round_ in range(15):
                uris = [f"doc{n}" for n in range(20)]
                order.shuffle(uris)
                put_texts(database, {uri: f"round {round_} of {uri}" for uri in uris})
        except BaseException as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=(chosen.random(),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert problems == []
    assert_histories_hold(database)


def test_the_same_change_by_two_writers_at_once_is_one_version(database: Database) -> None:
    put_texts(database, {"a": "red"})
    results: list[WrittenVersions] = []
    with database.transaction() as first:
        write_texts(first, {"a": "blue"})
        second = threading.Thread(target=lambda: results.append(put_texts(database, {"a": "blue"})))
        second.start()
        time.sleep(0.3)
        assert second.is_alive()
    second.join(timeout=30)
    assert results == [WrittenVersions(added=0, changed=0, unchanged=1)]
    with database.connection() as connection:
        assert count_versions(connection) == 2


def test_a_deletion_that_waited_for_a_writer_closes_the_version_it_wrote(database: Database) -> None:
    put_texts(database, {"a": "red", "b": "blue"})
    deleted: list[int] = []
    with database.transaction() as writer:
        write_texts(writer, {"a": "green"})
        remover = threading.Thread(target=lambda: deleted.append(delete_texts(database, "a", "b")))
        remover.start()
        time.sleep(0.3)
        assert remover.is_alive()
    remover.join(timeout=30)
    assert deleted == [2]
    assert_histories_hold(database)
    put_texts(database, {"a": "red again"})  # and it can come back
    assert_histories_hold(database)


def test_writers_and_removers_at_once_leave_whole_histories(database: Database) -> None:
    uris = [f"doc{n}" for n in range(12)]
    put_texts(database, dict.fromkeys(uris, "first"))
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        try:
            for round_ in range(25):
                some = chosen.sample(uris, 5)
                if chosen.random() < 0.5:
                    put_texts(database, dict.fromkeys(some, f"{seed} {round_}"))
                else:
                    delete_texts(database, *some)
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert problems == []
    assert_histories_hold(database)


def test_a_failed_batch_leaves_nothing(database: Database) -> None:
    bad = make_incoming("b", "NUL is refused by PostgreSQL: \x00")

    def write() -> None:
        with database.transaction() as connection:
            documents.lock_changes(connection)
            write_versions(connection, "default", SOURCE, [make_incoming("a", "red"), bad])

    with pytest.raises(Exception, match=r"0x00|NUL"):
        write()
    with database.connection() as connection:
        assert count_versions(connection) == 0
        assert documents.count_documents(connection) == (0, 0)


def test_the_clock_goes_on_inside_a_transaction(database: Database) -> None:
    with database.transaction() as connection:
        first: datetime = read_clock(connection)
        assert read_clock(connection) > first
