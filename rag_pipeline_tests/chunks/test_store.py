"""Chunks in the database: exact offsets, one row per text, one cutter's work however many cut."""

import random
import threading
from itertools import pairwise

import pytest

from rag_pipeline.chunks import store
from rag_pipeline.chunks.cutting import Chunker, cut_missing_versions, read_chunker, record_chunker
from rag_pipeline.chunks.recipe import ChunkerRecipe
from rag_pipeline.database.engine import Database
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.tiny_model import make_text

RECIPE = ChunkerRecipe(size=300, max_tokens=None)
ODD = {
    "empty": "",
    "spaces": "  \n\n\t ",
    "emoji": "🦊 fox. " * 80,
    "japanese": "吾輩は猫である。名前はまだ無い。" * 40,
    "combining": "e\u0301" * 500,
    "crlf": "# Red\r\n\r\nvalve\r\n" * 30,
    "code": "# Title\n\n```python\n" + "x = 1\n" * 200 + "```\n\nend",
    "one line": "x" * 3000,
}


@pytest.fixture
def chunker(database: Database) -> Chunker:
    with database.transaction() as connection:
        return record_chunker(connection, RECIPE, None)


def cut(database: Database, chunker: Chunker, *, only_pending: bool = False) -> tuple[int, int, int]:
    report = cut_missing_versions(database, chunker, 16, never_opened, only_pending=only_pending)
    return report.versions, report.new, report.reused


def never_opened(name: str) -> None:  # type: ignore[misc]
    raise AssertionError(f"the tokenizer of {name} was opened without need")


def make_texts(seed: int, count: int = 30) -> dict[str, str]:
    chosen = random.Random(seed)
    return {f"doc{n}": make_text(chosen, chosen.randint(5, 400)) for n in range(count)}


def test_every_chunk_is_the_text_between_its_offsets(database: Database, chunker: Chunker) -> None:
    put_texts(database, {**make_texts(1), **ODD})
    versions, new, _ = cut(database, chunker)
    assert versions == 30 + len(ODD)
    assert new > 60
    with database.connection() as connection:
        rows = connection.execute(
            "select v.text, vc.start_offset, vc.end_offset, c.text, c.title, v.title, vc.version_id, vc.ordinal"
            " from rag.version_chunk vc join rag.chunk c on c.id = vc.chunk_id"
            " join rag.document_version v on v.id = vc.version_id order by vc.version_id, vc.ordinal"
        ).fetchall()
    assert len(rows) > 60
    for text, start, end, chunk, title, own_title, _, _ in rows:
        assert text[start:end] == chunk
        assert title == own_title
    for before, after in pairwise(rows):
        if before[6] == after[6]:
            assert after[7] == before[7] + 1
            assert after[1] >= before[2], "chunks of one version do not overlap and stand in order"


def test_cutting_again_does_nothing(database: Database, chunker: Chunker) -> None:
    put_texts(database, make_texts(2))
    assert cut(database, chunker)[0] == 30
    assert cut(database, chunker) == (0, 0, 0)
    assert cut(database, chunker, only_pending=True) == (0, 0, 0)


def test_an_edit_makes_only_the_chunks_new_that_it_touches(database: Database, chunker: Chunker) -> None:
    text = "\n\n".join(f"## Part {n}\n\n{make_text(random.Random(n), 30)}" for n in range(20))
    put_texts(database, {"a": text})
    _, first, _ = cut(database, chunker)
    assert first >= 20
    put_texts(database, {"a": text.replace("## Part 7\n\n", "## Part 7\n\nRed valve. ")})
    versions, new, reused = cut(database, chunker)
    assert (versions, new) == (1, 1)
    assert reused == first - 1


def test_the_same_text_twice_is_one_chunk_and_another_tenants_is_another(database: Database, chunker: Chunker) -> None:
    put_texts(database, {"a": "red valve", "b": "red valve"})
    assert cut(database, chunker) == (2, 1, 1)
    put_texts(database, {"a": "red valve"}, tenant="other")
    assert cut(database, chunker) == (1, 1, 0)
    with database.connection() as connection:
        assert store.count_chunks(connection) == 2


def test_two_cutters_at_once_share_the_work_and_write_each_chunk_once(database: Database, chunker: Chunker) -> None:
    texts = make_texts(3, 60)
    put_texts(database, {**texts, **{f"copy {uri}": text for uri, text in texts.items()}})
    results: list[tuple[int, int, int]] = []
    cutters = [threading.Thread(target=lambda: results.append(cut(database, chunker))) for _ in range(3)]
    for cutter in cutters:
        cutter.start()
    for cutter in cutters:
        cutter.join(timeout=60)
    assert len(results) == 3
    assert sum(versions for versions, _, _ in results) == 120
    with database.connection() as connection:
        assert sum(new for _, new, _ in results) == store.count_chunks(connection)
        wrong = connection.execute(
            "select 1 from rag.version_chunking n where chunk_count <> (select count(*) from rag.version_chunk c"
            " where c.version_id = n.version_id)"
        ).fetchall()
    assert wrong == []


def test_only_the_queue_is_cut_when_asked(database: Database, chunker: Chunker) -> None:
    put_texts(database, {"a": "red valve"})
    assert cut(database, chunker, only_pending=True) == (0, 0, 0)  # no generation waits for anything
    assert cut(database, chunker) == (1, 1, 0)


def test_a_recipe_has_one_number_and_comes_back_as_it_was(database: Database, chunker: Chunker) -> None:
    with database.transaction() as connection:
        again = record_chunker(connection, RECIPE, None)
        other = record_chunker(connection, ChunkerRecipe(size=301, max_tokens=None), None)
        counted = record_chunker(connection, RECIPE, "packaged:all-MiniLM-L6-v2")
        assert read_chunker(connection, counted.id) == counted
    assert again == chunker
    assert len({chunker.id, other.id, counted.id}) == 3


def test_two_that_record_one_recipe_at_once_get_one_number(database: Database) -> None:
    numbers: list[int] = []

    def record() -> None:
        with database.transaction() as connection:
            numbers.append(record_chunker(connection, RECIPE, None).id)

    with database.transaction() as connection:
        numbers.append(record_chunker(connection, RECIPE, None).id)
        second = threading.Thread(target=record)
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
    second.join(timeout=30)
    assert len(numbers) == 2
    assert len(set(numbers)) == 1


def test_a_version_without_text_counts_as_cut(database: Database, chunker: Chunker) -> None:
    put_texts(database, {"empty": ""})
    assert cut(database, chunker) == (1, 0, 0)
    assert cut(database, chunker) == (0, 0, 0)


def test_offsets_outside_a_text_cannot_be_stored(database: Database, chunker: Chunker) -> None:
    put_texts(database, {"a": "red valve"})
    cut(database, chunker)
    with database.connection() as connection, pytest.raises(Exception, match="check constraint"):
        connection.execute("update rag.version_chunk set end_offset = start_offset")
