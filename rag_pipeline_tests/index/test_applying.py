"""Deltas: after any history of changes a generation holds exactly what is current, and nothing gets lost."""

import random
import threading
from collections import Counter
from typing import Any

import numpy as np
import psycopg
import pytest

from rag_pipeline.automation.wanted import KEPT_CURRENT
from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index import applying, building, delta_store, lexical_store, store
from rag_pipeline.index.analysis import open_analyzer
from rag_pipeline.index.applying import RetiredGenerationError, apply_changes, load_generation
from rag_pipeline.index.building import (
    build_generation,
    cut_for,
    ensure_generation,
    fill_generation,
    refresh_generation,
)
from rag_pipeline.index.lexical_store import LexicalStatistics
from rag_pipeline.index.reconciliation import find_discrepancies
from rag_pipeline.index.store import Generation, count_pending, count_rows, list_generations, set_state
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import delete_texts, put_texts, read_served, write_texts
from rag_pipeline_tests.tiny_model import make_text
from rag_pipeline_tests.whole_run import bring_up


@pytest.fixture
def serving(database: Database, settings: Settings) -> Generation:
    """A generation that serves three documents."""
    put_texts(database, {"a": "red valve", "b": "blue pump", "c": "green boiler"})
    return bring_up(database, settings)


def assert_true(database: Database, generation: Generation, texts: dict[str, str]) -> None:
    """The generation serves these texts, its tables say so, and the words' statistics are those of a recount."""
    assert read_served(database, generation.id) == texts
    found = find_discrepancies(database, generation)
    assert found.clean, found.describe()
    assert count_pending(database_connection(database)) == {}
    assert_words_recounted(database, generation)


def database_connection(database: Database) -> psycopg.Connection:
    with database.connection() as connection:
        return connection


def assert_words_recounted(database: Database, *generations: Generation) -> None:
    """The lexical index equals one counted from scratch over every chunk that some generation serves."""
    chunker_id = generations[0].chunker_id
    analyzer = open_analyzer(generations[0].stemmer)
    with database.connection() as connection:
        chunks = connection.execute(
            "select distinct c.id, c.title, c.heading_path, c.text from rag.chunk c"
            " join rag.version_chunk vc on vc.chunk_id = c.id and vc.chunker_id = %s"
            " join rag.generation_version g on g.version_id = vc.version_id",
            (chunker_id,),
        ).fetchall()
        counts = {id_: analyzer.count_terms(embedded_text(title, path, text)) for id_, title, path, text in chunks}
        statistics = connection.execute(
            "select chunk_count, total_length from rag.lexical_index where chunker_id = %s", (chunker_id,)
        ).fetchone()
        assert statistics == (len(counts), sum(c.total() for c in counts.values()))
        terms = dict(
            connection.execute(
                "select term, chunk_count from rag.lexical_term where chunker_id = %s and chunk_count <> 0",
                (chunker_id,),
            ).fetchall()
        )
        assert terms == Counter(term for c in counts.values() for term in c)
        postings = connection.execute(
            "select p.chunk_id, t.term, p.frequency, p.length from rag.posting p"
            " join rag.lexical_term t on t.term_id = p.term_id where p.chunker_id = %s",
            (chunker_id,),
        ).fetchall()
        wanted = [(id_, term, n, c.total()) for id_, c in counts.items() for term, n in c.items()]
        assert sorted(postings) == sorted(wanted)


def refresh(database: Database, settings: Settings, generation: Generation) -> None:
    refresh_generation(database, settings, generation)


def test_a_change_is_served_after_it_is_applied_and_costs_what_it_touches(
    database: Database, settings: Settings, serving: Generation
) -> None:
    put_texts(database, {"b": "blue pump leak"})
    embedded, moved = refresh_generation(database, settings, serving)
    assert (embedded.embedded, moved.documents, moved.inserted, moved.deleted) == (1, 1, 1, 1)
    assert_true(database, serving, {"a": "red valve", "b": "blue pump leak", "c": "green boiler"})


def test_a_text_that_two_documents_share_stays_while_one_of_them_has_it(
    database: Database, settings: Settings, serving: Generation
) -> None:
    put_texts(database, {"copy": "red valve"})
    embedded, _ = refresh_generation(database, settings, serving)
    assert embedded.embedded == 0
    assert count_rows(database_connection(database), serving) == 3
    delete_texts(database, "a")
    refresh(database, settings, serving)
    assert_true(database, serving, {"copy": "red valve", "b": "blue pump", "c": "green boiler"})
    delete_texts(database, "copy")
    refresh(database, settings, serving)
    assert count_rows(database_connection(database), serving) == 2
    assert_true(database, serving, {"b": "blue pump", "c": "green boiler"})


def test_two_writers_that_commit_out_of_order_lose_no_delta(
    database: Database, settings: Settings, serving: Generation
) -> None:
    with database.transaction() as first:
        write_texts(first, {"a": "red valve old"})  # its place in the queue is the earlier one
        put_texts(database, {"b": "blue pump new"})
        refresh(database, settings, serving)
        assert read_served(database, serving.id)["b"] == "blue pump new"
        assert read_served(database, serving.id)["a"] == "red valve"
    refresh(database, settings, serving)
    assert_true(database, serving, {"a": "red valve old", "b": "blue pump new", "c": "green boiler"})


def test_a_change_that_commits_while_the_queue_is_applied_stays_queued(
    database: Database, settings: Settings, serving: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_texts(database, {"a": "red valve second"})
    cut_for(database, settings, serving.chunker_id, only_pending=True)
    refresh_once = delta_store.move_documents

    def change_meanwhile(*arguments: object) -> delta_store.Moved:
        moved = refresh_once(*arguments)  # type: ignore[arg-type]
        monkeypatch.undo()
        put_texts(database, {"a": "red valve third"})
        return moved

    monkeypatch.setattr(delta_store, "move_documents", change_meanwhile)
    refresh(database, settings, serving)
    assert count_pending(database_connection(database))[serving.id].documents == 1
    refresh(database, settings, serving)
    assert_true(database, serving, {"a": "red valve third", "b": "blue pump", "c": "green boiler"})


def test_a_document_moves_whole_and_is_served_at_its_old_version_until_then(
    database: Database, settings: Settings, serving: Generation
) -> None:
    put_texts(database, {"a": "red valve new", "b": "blue pump new"})
    moved = apply_changes(database, serving)
    assert (moved.documents, moved.waiting) == (0, 2)
    assert read_served(database, serving.id)["a"] == "red valve"
    cut_for(database, settings, serving.chunker_id, only_pending=True)
    assert apply_changes(database, serving).waiting == 2  # cut, but not embedded
    assert read_served(database, serving.id)["a"] == "red valve"
    assert find_discrepancies(database, serving).clean  # late is not untrue
    refresh(database, settings, serving)
    assert_true(database, serving, {"a": "red valve new", "b": "blue pump new", "c": "green boiler"})


def test_a_document_the_model_refuses_is_served_by_its_words(
    database: Database, settings: Settings, serving: Generation
) -> None:
    put_texts(database, {"odd": "qqqqq xxxxx"})
    refresh(database, settings, serving)
    assert count_rows(database_connection(database), serving) == 3
    texts = {"a": "red valve", "b": "blue pump", "c": "green boiler", "odd": "qqqqq xxxxx"}
    assert_true(database, serving, texts)


def test_a_generation_created_while_a_writer_is_open_misses_nothing(database: Database, settings: Settings) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump"})
    made: list[Generation] = []

    def build() -> None:
        model = add_model(database, ModelSpec("tiny", settings.model))
        made.append(ensure_generation(database, settings, model))
        fill_generation(database, settings, made[0])
        build_generation(database, settings, made[0])

    builder = threading.Thread(target=build)
    with database.transaction() as early:
        write_texts(early, {"a": "red valve early"})  # the generation does not exist yet: nothing is queued for it
        builder.start()
        builder.join(timeout=1.5)
        assert builder.is_alive(), "the build did not wait for the writer that cannot know of it"
    builder.join(timeout=60)
    refresh(database, settings, made[0])
    assert_true(database, made[0], {"a": "red valve early", "b": "blue pump"})


def test_a_build_that_goes_on_after_a_kill_waits_for_that_writer_too(database: Database, settings: Settings) -> None:
    put_texts(database, {"a": "red valve"})
    model = add_model(database, ModelSpec("tiny", settings.model))
    with database.transaction() as early:
        write_texts(early, {"a": "red valve early"})
        generation = ensure_generation(database, settings, model)  # and killed here
        resumed = threading.Thread(target=build_generation, args=(database, settings, generation))
        resumed.start()
        resumed.join(timeout=1.5)
        assert resumed.is_alive(), "the build did not wait for the writer that cannot know of it"
    resumed.join(timeout=60)
    refresh(database, settings, generation)
    fill_generation(database, settings, generation)
    assert apply_changes(database, generation).waiting == 0
    assert_true(database, generation, {"a": "red valve early"})


def test_changes_during_a_build_are_in_it_when_it_is_ready(database: Database, settings: Settings) -> None:
    put_texts(database, {"a": "red valve", "b": "blue pump", "c": "green boiler"})
    generation = ensure_generation(database, settings, add_model(database, ModelSpec("tiny", settings.model)))
    fill_generation(database, settings, generation)
    load_generation(database, generation)
    put_texts(database, {"a": "red valve new", "d": "old dog"})
    delete_texts(database, "b")
    build_generation(database, settings, generation)
    assert_true(database, generation, {"a": "red valve new", "c": "green boiler", "d": "old dog"})


def test_a_change_after_a_builds_last_look_at_its_queue_is_taken_by_its_own_ingestion(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_texts(database, {"a": "red valve"})
    generation = ensure_generation(database, settings, add_model(database, ModelSpec("tiny", settings.model)))
    fill_generation(database, settings, generation)

    def look_and_be_late(*arguments: Any) -> Any:
        found = refresh_generation(*arguments)
        put_texts(database, {"b": "blue pump"})
        with database.connection() as connection:
            current = list_generations(connection, KEPT_CURRENT)
        for one in current:  # as an ingestion does: it keeps current what serves or may serve next
            refresh(database, settings, one)
        return found

    monkeypatch.setattr(building, "refresh_generation", look_and_be_late)
    build_generation(database, settings, generation)
    assert_true(database, generation, {"a": "red valve", "b": "blue pump"})


def test_loading_twice_changes_nothing(database: Database, settings: Settings, serving: Generation) -> None:
    assert load_generation(database, serving) == delta_store.Moved()
    assert build_generation(database, settings, serving) is None
    assert_true(database, serving, {"a": "red valve", "b": "blue pump", "c": "green boiler"})


@pytest.mark.usefixtures("settings")
def test_no_change_is_applied_to_a_retired_generation(database: Database, serving: Generation) -> None:
    with database.transaction() as connection:
        set_state(connection, serving.id, "retired")
    put_texts(database, {"a": "red valve new"})
    with pytest.raises(RetiredGenerationError, match="retired"):
        apply_changes(database, serving)
    assert count_pending(database_connection(database)) == {}


def test_every_active_generation_gets_every_change(
    database: Database, settings: Settings, serving: Generation, other_tiny_model: object
) -> None:
    record = add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    second = ensure_generation(database, settings, record)
    fill_generation(database, settings, second)
    build_generation(database, settings, second)
    assert second.chunker_id == serving.chunker_id
    put_texts(database, {"a": "red valve new", "d": "old dog"})
    delete_texts(database, "b")
    texts = {"a": "red valve new", "c": "green boiler", "d": "old dog"}
    refresh(database, settings, serving)
    assert read_served(database, second.id)["a"] == "red valve"
    assert_words_recounted(database, serving, second)
    refresh(database, settings, second)
    for generation in (serving, second):
        assert_true(database, generation, texts)


def test_words_survive_when_one_generation_drops_a_chunk_while_another_takes_it_up(
    database: Database,
    settings: Settings,
    serving: Generation,
    other_tiny_model: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = add_model(database, ModelSpec("other", f"model2vec:{other_tiny_model}"))
    second = ensure_generation(database, settings, record)
    fill_generation(database, settings, second)
    build_generation(database, settings, second)
    put_texts(database, {"a": "small cat"})
    refresh(database, settings, serving)  # only the second serves 'red valve' now
    put_texts(database, {"d": "red valve"})
    fill_generation(database, settings, second)
    open_index = lexical_store.open_lexical_index

    def let_the_second_go_first(*arguments: Any) -> LexicalStatistics:
        # it moves 'a' away, and cannot see that the first, not committed, took the same text up in 'd'
        monkeypatch.undo()
        with database.transaction() as other:
            store.lock_generation(other, second.id)
            taken, _ = delta_store.take_pending(other, second, 0, 1)
            delta_store.move_documents(other, second, taken)
            applying._apply_words(other, second)
            delta_store.finish_pending(other)
        return open_index(*arguments)

    monkeypatch.setattr(lexical_store, "open_lexical_index", let_the_second_go_first)
    apply_changes(database, serving)
    assert_words_recounted(database, serving, second)
    refresh(database, settings, second)
    for generation in (serving, second):
        assert_true(database, generation, {"a": "small cat", "b": "blue pump", "c": "green boiler", "d": "red valve"})


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_edits_ends_true(database: Database, settings: Settings, seed: int) -> None:
    chosen = random.Random(seed)
    texts = {f"doc{n}": make_text(chosen, chosen.randint(5, 300)) for n in range(12)}
    gone: dict[str, str] = {}
    put_texts(database, texts)
    generation = bring_up(database, settings)
    for _ in range(25):
        action = chosen.choice(("add", "edit", "edit", "delete", "undelete", "copy", "revert", "cut", "apply"))
        name = chosen.choice(sorted(texts))
        if action == "add":
            texts[f"new{chosen.randrange(10**9)}"] = make_text(chosen, chosen.randint(0, 200))
        elif action == "edit":
            words = texts[name].split(" ")
            words[chosen.randrange(len(words))] = make_text(chosen, 3)
            texts[name] = " ".join(words)
        elif action == "delete" and len(texts) > 3:
            gone[name] = texts.pop(name)
            delete_texts(database, name)
        elif action == "undelete" and gone:
            back = chosen.choice(sorted(gone))
            texts[back] = gone.pop(back)
        elif action == "copy":
            texts[name] = texts[chosen.choice(sorted(texts))]
        elif action == "revert":
            before, texts[name] = texts[name], make_text(chosen, 20)
            put_texts(database, {name: texts[name]})
            texts[name] = before
        elif action == "cut":
            cut_for(database, settings, generation.chunker_id, only_pending=True)
        elif action == "apply":
            refresh(database, settings, generation)
        put_texts(database, texts)
    refresh(database, settings, generation)
    assert_true(database, generation, texts)


def test_the_ledger_keeps_what_the_index_gave_up(database: Database, settings: Settings, serving: Generation) -> None:
    put_texts(database, {"a": "small cat"})
    refresh(database, settings, serving)
    put_texts(database, {"a": "red valve"})
    embedded, moved = refresh_generation(database, settings, serving)
    assert embedded.embedded == 0
    assert moved.inserted == 1


def test_index_rows_are_the_ledger_rounded_to_half_precision(database: Database, serving: Generation) -> None:
    with database.connection() as connection:
        rows = connection.execute(
            f"select i.embedding, e.vector from rag.{serving.table_name} i join rag.embedding e using (chunk_id)"
        ).fetchall()
    assert len(rows) == 3
    for half, full in rows:
        assert np.allclose(half.to_numpy(), full.to_numpy(), atol=1e-3)
