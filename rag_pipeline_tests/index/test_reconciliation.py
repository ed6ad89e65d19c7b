"""Whatever is done to the tables by hand, the comparison finds it, and a repair leaves what should be there."""

import numpy as np
import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.index.building import build_generation, refresh_generation
from rag_pipeline.index.reconciliation import Discrepancies, find_discrepancies, repair
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.diagnosis import diagnose, mend
from rag_pipeline.settings import Settings
from rag_pipeline_tests.content import put_texts
from rag_pipeline_tests.index.test_applying import assert_words_recounted
from rag_pipeline_tests.whole_run import bring_up, dump_rows

TEXTS = {"a": "red valve", "b": "blue pump", "c": "green boiler", "d": "old dog"}
CHUNK = "(select id from rag.chunk where text = 'blue pump')"
DOCUMENT = "(select id from rag.document where uri = 'b')"
# what was done by hand, what the comparison calls it
DAMAGES = {
    "an index row deleted": ("delete from rag.index_1 where chunk_id = {chunk}", "missing"),
    "an index row altered": (
        "update rag.index_1 set embedding = embedding - embedding - embedding where chunk_id = {chunk}",
        "altered",
    ),
    "an index row that is zero": (
        "update rag.index_1 set embedding = embedding - embedding where chunk_id = {chunk}",
        "zero",
    ),
    "an index row of a chunk that is gone": (
        "insert into rag.index_1 select -1, 'default', embedding from rag.index_1 where chunk_id = {chunk}",
        "orphaned",
    ),
    "an index row of a chunk nobody serves": (
        "with c as (insert into rag.chunk (tenant, content_sha256, bucket, title, heading_path, text, token_count)"
        " values ('default', 'x', 0, '', '{{}}', 'nobody', 1) returning id)"
        " insert into rag.index_1 select id, 'default', i.embedding from c, rag.index_1 i where chunk_id = {chunk}",
        "orphaned",
    ),
    "a vector deleted from the ledger": ("delete from rag.embedding where chunk_id = {chunk}", "altered"),
    "vector and index row deleted": (
        "delete from rag.embedding where chunk_id = {chunk}; delete from rag.index_1 where chunk_id = {chunk}",
        "missing",
    ),
    "a served version forgotten": ("delete from rag.generation_version where document_id = {document}", "stale"),
    "a change lost from the queue": (
        "update rag.document set current_version_id = null, deleted_at = now() where id = {document};"
        " delete from rag.pending_change",
        "stale",
    ),
    "a chunk's words deleted": ("delete from rag.lexical_chunk where chunk_id = {chunk}", "words"),
    "words of a chunk nobody serves": (
        "with c as (insert into rag.chunk (tenant, content_sha256, bucket, title, heading_path, text, token_count)"
        " values ('default', 'x', 0, '', '{{}}', 'nobody', 1) returning id)"
        " insert into rag.lexical_chunk select 1, id, 0, '{{}}', '{{}}' from c",
        "words",
    ),
    "postings deleted": ("delete from rag.posting where chunk_id = {chunk}", "words"),
    "a posting altered": ("update rag.posting set frequency = 9 where chunk_id = {chunk}", "words"),
    "a term's count altered": ("update rag.lexical_term set chunk_count = 7 where term = 'blue'", "statistics"),
    "the collection's length altered": ("update rag.lexical_index set total_length = 0", "statistics"),
}


@pytest.fixture
def serving(database: Database, settings: Settings) -> Generation:
    put_texts(database, TEXTS)
    return bring_up(database, settings)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_done_by_hand_is_found_and_mended(
    database: Database, settings: Settings, serving: Generation, damage: str
) -> None:
    assert find_discrepancies(database, serving) == Discrepancies()
    statement, name = DAMAGES[damage]
    with database.connection() as connection:
        for part in statement.format(chunk=CHUNK, document=DOCUMENT).split(";"):
            connection.execute(part)
    found = find_discrepancies(database, serving)
    assert getattr(found, name) > 0, found.describe()
    assert not found.clean
    mend(database, settings)
    assert find_discrepancies(database, serving) == Discrepancies()
    assert all(f.good for f in diagnose(database, settings))
    assert_words_recounted(database, serving)


def test_a_repair_restores_every_row_as_it_was(database: Database, settings: Settings, serving: Generation) -> None:
    before = dump_rows(database, serving)
    with database.connection() as connection:
        connection.execute("delete from rag.index_1 where chunk_id % 2 = 0")
        connection.execute("update rag.index_1 set embedding = embedding - embedding - embedding")
        connection.execute("delete from rag.posting")
        connection.execute("delete from rag.lexical_chunk where chunk_id % 2 = 1")
        connection.execute("delete from rag.generation_version where document_id % 2 = 0")
    mend(database, settings)
    assert dump_rows(database, serving) == before


def test_a_repair_of_what_is_true_changes_nothing(database: Database, serving: Generation) -> None:
    before = dump_rows(database, serving)
    repair(database, serving)
    assert dump_rows(database, serving) == before


def test_an_invalid_index_is_found_dropped_and_built_again(
    database: Database, settings: Settings, serving: Generation
) -> None:
    with database.connection() as connection:
        connection.execute("update pg_index set indisvalid = false where indexrelid = 'rag.index_1_hnsw'::regclass")
    found = find_discrepancies(database, serving)
    assert (found.index_valid, found.clean, found.describe()) == (False, False, "no valid HNSW index")
    mend(database, settings)
    assert find_discrepancies(database, serving) == Discrepancies()


def test_a_missing_index_is_built_again(database: Database, settings: Settings, serving: Generation) -> None:
    with database.connection() as connection:
        connection.execute("drop index rag.index_1_hnsw")
    assert not find_discrepancies(database, serving).index_valid
    assert build_generation(database, settings, serving) is not None
    assert find_discrepancies(database, serving).clean


def test_what_waits_in_the_queue_is_late_and_not_untrue(
    database: Database, settings: Settings, serving: Generation
) -> None:
    put_texts(database, {"a": "red valve new"})
    assert find_discrepancies(database, serving).clean
    findings = {f.name: f for f in diagnose(database, settings)}
    assert "1 documents wait" in findings["generation 1 (tiny, serving) queue"].detail
    refresh_generation(database, settings, serving)
    assert all(f.good for f in diagnose(database, settings))


@pytest.mark.usefixtures("serving")
def test_a_repaired_vector_is_the_models_own(database: Database, settings: Settings) -> None:
    query = f"select vector from rag.embedding where chunk_id = {CHUNK}"
    with database.connection() as connection:
        before = connection.execute(query).fetchone()
        connection.execute(f"delete from rag.embedding where chunk_id = {CHUNK}")
    mend(database, settings)
    with database.connection() as connection:
        after = connection.execute(query).fetchone()
    assert before is not None
    assert after is not None
    assert np.array_equal(before[0].to_numpy(), after[0].to_numpy())


@pytest.mark.parametrize(
    ("operators", "options"),
    [("halfvec_cosine_ops", "m = 8, ef_construction = 64"), ("halfvec_l2_ops", "m = 16, ef_construction = 64")],
)
def test_an_index_of_another_recipe_is_found_and_built_again(
    database: Database, settings: Settings, serving: Generation, operators: str, options: str
) -> None:
    with database.connection() as connection:
        connection.execute("drop index rag.index_1_hnsw")
        connection.execute(
            f"create index index_1_hnsw on rag.index_1 using hnsw (embedding {operators}) with ({options})"
        )
    found = find_discrepancies(database, serving)
    assert (found.index_valid, found.recipe_held, found.clean) == (True, False, False)
    assert found.describe() == "an index that is not what the generation's recipe says"
    mend(database, settings)
    assert find_discrepancies(database, serving).clean
