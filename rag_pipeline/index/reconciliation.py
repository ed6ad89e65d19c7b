"""Comparing documents, ledger and index whole: what is missing, orphaned, stale or altered, however it came about."""

from dataclasses import dataclass, fields

import psycopg
from psycopg import sql

from rag_pipeline.database.engine import Database
from rag_pipeline.index import lexical_store, store
from rag_pipeline.index.applying import apply_changes
from rag_pipeline.index.store import Generation


@dataclass(frozen=True)
class Discrepancies:
    """Counts over one generation; all zero and a valid index mean that it is true.

    stale: documents served at another version than their current one and not queued. missing, orphaned:
    index rows that should be there, or should not. altered: rows that differ from the ledger's vector.
    zero: rows without direction. duplicate: texts with more than one row. words: chunks that the lexical
    index lacks, holds though nobody serves them, or holds other postings of. statistics: terms and totals
    that are not what a recount gives. `recipe_held`: the index, if there is one, is what
    the generation's recipe says.
    """

    stale: int = 0
    missing: int = 0
    orphaned: int = 0
    altered: int = 0
    zero: int = 0
    duplicate: int = 0
    words: int = 0
    statistics: int = 0
    index_valid: bool = True
    recipe_held: bool = True

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.index_valid and self.recipe_held and not any(self.counts().values())

    def counts(self) -> dict[str, int]:
        """What is counted, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type is int}

    def describe(self) -> str:
        """What was found, in words."""
        found = [f"{count} {name}" for name, count in self.counts().items() if count]
        if not self.index_valid:
            found.append("no valid HNSW index")
        elif not self.recipe_held:
            found.append("an index that is not what the generation's recipe says")
        return ", ".join(found) or "clean"


SERVED = """
    select distinct vc.chunk_id
    from rag.generation_version gv
    join rag.version_chunk vc on vc.version_id = gv.version_id and vc.chunker_id = %(chunker)s
    where gv.generation_id = %(generation)s
"""
STALE = """
    select coalesce(d.id, gv.document_id)
    from (select * from rag.generation_version where generation_id = %(generation)s) gv
    full join (select id, current_version_id from rag.document where current_version_id is not null) d
        on d.id = gv.document_id
    where gv.version_id is distinct from d.current_version_id
      and not exists (select from rag.pending_change p
                      where p.generation_id = %(generation)s and p.document_id = coalesce(d.id, gv.document_id))
"""
MISSING_ROWS = """
    select s.chunk_id from served s
    where not exists (select from rag.{table} i where i.chunk_id = s.chunk_id)
      and (exists (select from rag.embedding e where e.space_id = %(space)s and e.chunk_id = s.chunk_id)
           or not exists (select from rag.embedding_failure f
                          where f.space_id = %(space)s and f.chunk_id = s.chunk_id))
"""
ORPHANED_ROWS = (
    "select i.chunk_id from rag.{table} i where not exists (select from served s where s.chunk_id = i.chunk_id)"
)
ALTERED_ROWS = """
    select i.chunk_id from rag.{table} i
    left join rag.embedding e on e.space_id = %(space)s and e.chunk_id = i.chunk_id
    where e.vector::{type} is distinct from i.embedding
"""


def find_discrepancies(database: Database, generation: Generation) -> Discrepancies:
    """Compare everything a generation should hold with what it holds; costs a pass over the corpus."""
    with database.transaction() as connection:
        connection.execute("set transaction isolation level repeatable read")
        _hold_served(connection, generation)
        index = store.read_index_state(connection, generation)
        return Discrepancies(
            stale=_count(connection, generation, STALE),
            missing=_count(connection, generation, MISSING_ROWS),
            orphaned=_count(connection, generation, ORPHANED_ROWS),
            altered=_count(connection, generation, ALTERED_ROWS),
            zero=_count(connection, generation, "select 1 from rag.{table} i where l2_norm(i.embedding) = 0"),
            duplicate=_count(
                connection,
                generation,
                "select 1 from rag.{table} i join rag.chunk c on c.id = i.chunk_id"
                " group by c.tenant, c.content_sha256 having count(*) > 1",
            ),
            words=lexical_store.count_lost_words(connection, generation.chunker_id)
            + len(lexical_store.find_wrong_words(connection, generation.chunker_id)),
            statistics=lexical_store.count_wrong_statistics(connection, generation.chunker_id),
            index_valid=index is not None and index.valid,
            recipe_held=index is None or store.follows_recipe(connection, generation),
        )


def repair(database: Database, generation: Generation) -> None:
    """Delete rows that should not be there, queue the documents that are not true, and apply the queue.

    A document whose vectors are gone from the ledger stays queued until they are embedded again.
    An index that is invalid or not of the recipe is dropped, and built again by the caller's next build.
    """
    with database.transaction() as connection:
        store.lock_generation(connection, generation.id)
        _hold_served(connection, generation)
        for wrong in (ORPHANED_ROWS, ALTERED_ROWS):
            _run(connection, generation, "delete from rag.{table} where chunk_id in (" + wrong + ")")
        lexical_store.forget_wrong_words(connection, generation.chunker_id)
        _run(
            connection,
            generation,
            "insert into rag.pending_change (generation_id, document_id)"
            " select distinct %(generation)s::int, gv.document_id from rag.generation_version gv"
            " join rag.version_chunk vc on vc.version_id = gv.version_id and vc.chunker_id = %(chunker)s"
            " where gv.generation_id = %(generation)s and (vc.chunk_id in (" + MISSING_ROWS + ")"
            " or not exists (select from rag.lexical_chunk l"
            " where l.chunker_id = %(chunker)s and l.chunk_id = vc.chunk_id))",
        )
        _run(
            connection,
            generation,
            "insert into rag.pending_change (generation_id, document_id) select %(generation)s::int, x from ("
            + STALE
            + ") s(x)",
        )
        index = store.read_index_state(connection, generation)
        if index is not None and not (index.valid and store.follows_recipe(connection, generation)):
            store.drop_index(connection, generation)
    apply_changes(database, generation)


def _hold_served(connection: psycopg.Connection, generation: Generation) -> None:
    _run(connection, generation, "create temporary table served on commit drop as" + SERVED)
    connection.execute("analyze served")


def _run(connection: psycopg.Connection, generation: Generation, text: str) -> psycopg.Cursor[tuple[object, ...]]:
    statement = sql.SQL(text).format(  # type: ignore[arg-type]
        table=sql.Identifier(generation.table_name),
        type=sql.SQL("{}({})").format(
            sql.Identifier(generation.index_recipe.vector_type), sql.Literal(generation.dimension)
        ),
    )
    parameters = {
        "generation": generation.id,
        "chunker": generation.chunker_id,
        "space": generation.space_id,
    }
    return connection.execute(statement, parameters)


def _scalar(connection: psycopg.Connection, generation: Generation, text: str) -> int:
    row = _run(connection, generation, text).fetchone()
    return int(row[0]) if row else 0  # type: ignore[call-overload]


def _count(connection: psycopg.Connection, generation: Generation, text: str) -> int:
    return _scalar(connection, generation, f"select count(*) from ({text}) found")
