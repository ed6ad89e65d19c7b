"""The end of a life as rows without numbers and times: equal for lives that came to the same end."""

from typing import Any

from psycopg import sql

from rag_pipeline.database.engine import Database
from rag_pipeline.index.reconciliation import find_discrepancies
from rag_pipeline.index.store import ACTIVE_STATES, list_generations

Rows = dict[str, list[tuple[Any, ...]]]

CHUNKS = """
    select distinct vc.chunk_id, vc.chunker_id from rag.document d
    join rag.version_chunk vc on vc.version_id = d.current_version_id
    join rag.generation g on g.chunker_id = vc.chunker_id and g.state <> 'retired'
"""
# Chunks and vectors of text that is not current any more are left out: whether it was current for long enough to
# be cut and embedded depends on who was faster. What there is of them must be right: see WRONG.
ENDS = {
    "documents": """
        select d.source, d.uri, d.external_id, d.deleted_at is null, v.ordinal, v.title, v.text, v.metadata::text
        from rag.document d left join rag.document_version v on v.id = d.current_version_id""",
    "history": """
        select d.source, d.uri, v.ordinal, encode(v.content_sha256, 'hex'), v.valid_to is null
        from rag.document_version v join rag.document d on d.id = v.document_id""",
    "failures": "select source, uri, code from rag.document_failure",
    "sources": "select name, kind, prune, token is not null, read_at is not null from rag.source",
    "chunks": """
        select d.source, d.uri, r.recipe::text, vc.ordinal, encode(c.content_sha256, 'hex'),
               vc.start_offset, vc.end_offset, c.bucket
        from rag.document d join rag.version_chunk vc on vc.version_id = d.current_version_id
        join rag.chunk c on c.id = vc.chunk_id join rag.chunker r on r.id = vc.chunker_id
        where exists (select from rag.generation g where g.chunker_id = vc.chunker_id and g.state <> 'retired')""",
    "models": "select slug, dimension, state, encode(fingerprint, 'hex') from rag.embedding_model",
    "embeddings": f"""
        select m.slug, encode(c.content_sha256, 'hex'), e.vector::text
        from rag.generation g join rag.embedding_model m on m.id = g.model_id
        join ({CHUNKS}) live on live.chunker_id = g.chunker_id
        join rag.chunk c on c.id = live.chunk_id
        left join rag.embedding e on e.space_id = m.space_id and e.chunk_id = c.id
        where g.state <> 'retired'""",
    "refused": f"""
        select m.slug, encode(c.content_sha256, 'hex'), f.reason
        from rag.embedding_failure f join rag.embedding_model m on m.id = f.space_id
        join rag.generation g on g.model_id = m.id and g.state <> 'retired'
        join ({CHUNKS}) live on live.chunk_id = f.chunk_id and live.chunker_id = g.chunker_id
        join rag.chunk c on c.id = f.chunk_id""",
    "generations": """
        select m.slug, g.state, g.recipe::text, r.recipe::text, g.loaded_at is not null
        from rag.generation g join rag.embedding_model m on m.id = g.model_id
        join rag.chunker r on r.id = g.chunker_id""",
    "served": """
        select m.slug, d.source, d.uri, v.ordinal, v.id = d.current_version_id
        from rag.generation_version gv join rag.generation g on g.id = gv.generation_id
        join rag.embedding_model m on m.id = g.model_id
        join rag.document d on d.id = gv.document_id join rag.document_version v on v.id = gv.version_id""",
    "postings": """
        select r.recipe::text, t.term, encode(c.content_sha256, 'hex'), p.frequency, p.length
        from rag.posting p join rag.chunk c on c.id = p.chunk_id join rag.chunker r on r.id = p.chunker_id
        join rag.lexical_term t on t.chunker_id = p.chunker_id and t.term_id = p.term_id""",
    "words": """
        select r.recipe::text, encode(c.content_sha256, 'hex'), l.length
        from rag.lexical_chunk l join rag.chunk c on c.id = l.chunk_id join rag.chunker r on r.id = l.chunker_id""",
    "terms": """
        select r.recipe::text, t.term, t.chunk_count
        from rag.lexical_term t join rag.chunker r on r.id = t.chunker_id where t.chunk_count <> 0""",
    "collection": """
        select r.recipe::text, i.chunk_count, i.total_length
        from rag.lexical_index i join rag.chunker r on r.id = i.chunker_id""",
    "queue": "select generation_id, document_id from rag.pending_change",
    "pointer": """
        select m.slug, p.slug from rag.serving s
        join rag.generation g on g.id = s.generation_id join rag.embedding_model m on m.id = g.model_id
        left join rag.generation b on b.id = s.previous_id left join rag.embedding_model p on p.id = b.model_id""",
    "moves": """
        select row_number() over (order by x.id), x.action, m.slug, p.slug, x.forced
        from rag.promotion x
        join rag.generation g on g.id = x.generation_id join rag.embedding_model m on m.id = g.model_id
        left join rag.generation b on b.id = x.previous_id left join rag.embedding_model p on p.id = b.model_id""",
    # compared again after a kill, and after writes that came in between: the last word counts
    "verdicts": """
        select distinct on (m.slug) m.slug, e.allows
        from rag.evaluation e join rag.generation g on g.id = e.generation_id
        join rag.embedding_model m on m.id = g.model_id order by m.slug, e.id desc""",
    "tables": """
        select regexp_replace(c.relname, '[0-9]+', 'N'), c.relkind::text, count(*)
        from pg_class c where c.relnamespace = 'rag'::regnamespace and c.relkind in ('r', 'i', 'p', 'I')
        group by 1, 2""",
}
INDEX = """
    select {slug}, encode(c.content_sha256, 'hex'), i.tenant, i.embedding::text
    from rag.{table} i join rag.chunk c on c.id = i.chunk_id
"""
ALL_VECTORS = """
    select m.slug, c.tenant, encode(c.content_sha256, 'hex'), e.vector::text
    from rag.embedding e join rag.chunk c on c.id = e.chunk_id join rag.embedding_model m on m.id = e.space_id
"""


def read_end(database: Database) -> Rows:
    """The end of a life; raises AssertionError where an active generation is not true to its documents."""
    with database.connection() as connection:
        active = list_generations(connection, ACTIVE_STATES)
        rows = {name: connection.execute(query).fetchall() for name, query in ENDS.items()}  # type: ignore[call-overload]
        rows["index"] = [
            row
            for generation in active
            for row in connection.execute(
                sql.SQL(INDEX).format(slug=sql.Literal(generation.model), table=sql.Identifier(generation.table_name))
            ).fetchall()
        ]
        rows["all vectors"] = connection.execute(ALL_VECTORS).fetchall()
    for generation in active:
        found = find_discrepancies(database, generation)
        assert found.clean, f"generation {generation.id} ({generation.model}): {found.describe()}"
    return {name: sorted(found, key=repr) for name, found in rows.items()}


def compare_ends(calm: Rows, disturbed: Rows) -> list[str]:
    """What is different, one line for each kind of row; empty where nothing is."""
    differences = []
    for name in calm.keys() - {"all vectors"}:
        lost, added = _subtract(calm[name], disturbed[name]), _subtract(disturbed[name], calm[name])
        if lost or added:
            differences.append(f"{name}: {len(lost)} lost, {len(added)} added, as {(lost or added)[0]!r:.300}")
    known = {row[:-1]: row[-1] for row in calm["all vectors"]}
    wrong = [row for row in disturbed["all vectors"] if known.get(row[:-1], row[-1]) != row[-1]]
    if wrong:
        differences.append(f"all vectors: {len(wrong)} differ, as {wrong[0]!r:.300}")
    return differences


def _subtract(rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows that occur more often than among the others."""
    left: dict[tuple[Any, ...], int] = {}
    for row in others:
        left[row] = left.get(row, 0) + 1
    found = []
    for row in rows:
        if left.get(row, 0):
            left[row] -= 1
        else:
            found.append(row)
    return found


def check_substance(end: Rows) -> None:
    """Whether a calm life came to an end worth comparing with: a test of the test."""
    assert end["queue"] == []
    assert len(end["index"]) > 150, len(end["index"])
    assert end["refused"], "the corpus has a text the model refuses"
    assert end["failures"], "the corpus has a document that cannot be read"
    assert end["pointer"] == [("good", "poor")]
    assert [row[1:3] for row in sorted(end["moves"])] == [
        ("promote", "poor"),
        ("promote", "good"),
        ("rollback", "poor"),
        ("promote", "good"),
    ]
    assert sorted(row[:2] for row in end["generations"]) == [
        ("bad", "retired"),
        ("good", "serving"),
        ("poor", "retired"),
    ]
    assert end["verdicts"] == [("bad", False), ("good", True), ("poor", True)]
