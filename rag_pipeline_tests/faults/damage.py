"""Holes torn into an index from outside, for the doctor to find."""

from psycopg import sql

from rag_pipeline.database.engine import Database
from rag_pipeline.index.store import Generation


def tear(database: Database, generation: Generation) -> None:
    """Delete a tenth of the rows, chosen by content, and add one that belongs to no document; twice is once."""
    table = sql.Identifier(generation.table_name)
    with database.transaction() as connection:
        connection.execute(
            sql.SQL(
                "delete from rag.{} i using rag.chunk c where c.id = i.chunk_id and get_byte(c.content_sha256, 9) < 26"
            ).format(table)
        )
        connection.execute(
            sql.SQL(
                "insert into rag.{} (chunk_id, tenant, embedding)"
                " select -1, tenant, embedding from rag.{} limit 1 on conflict do nothing"
            ).format(table, table)
        )
