"""What `rag status` shows: one look at every stage."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rag_pipeline.chunks.store import count_chunks
from rag_pipeline.database.engine import Database
from rag_pipeline.documents.store import count_documents, list_failures, list_sources
from rag_pipeline.embeddings.store import count_embeddings, list_embedding_failures, list_models, read_coverage
from rag_pipeline.index.store import ACTIVE_STATES, count_pending, count_rows, list_generations, read_index_state
from rag_pipeline.serving.alert_store import list_alerts
from rag_pipeline.serving.store import list_promotions, read_serving
from rag_pipeline.versions.store import count_versions


@dataclass(frozen=True)
class Status:
    """Counts and states, ready for JSON."""

    documents: dict[str, int]
    versions: int
    chunks: int
    models: list[dict[str, Any]]
    generations: list[dict[str, Any]]
    serving: dict[str, Any] | None
    failures: list[dict[str, Any]]
    embedding_failures: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    promotions: list[dict[str, Any]]
    alerts: list[dict[str, Any]]


def read_status(database: Database) -> Status:
    """Everything `rag status` says, read in one transaction."""
    with database.transaction() as connection:
        connection.execute("set transaction isolation level repeatable read")
        live, deleted = count_documents(connection)
        vectors = count_embeddings(connection)
        pending = count_pending(connection)
        serving = read_serving(connection)
        generations = []
        for g in list_generations(connection):
            row: dict[str, Any] = {"id": g.id, "model": g.model, "state": g.state, "created_at": str(g.created_at)}
            if g.state in ACTIVE_STATES:
                coverage = read_coverage(connection, g.space_id, g.chunker_id)
                index = read_index_state(connection, g)
                queue = pending.get(g.id)
                row |= {
                    "rows": count_rows(connection, g),
                    "chunks": coverage.chunks,
                    "embedded": coverage.embedded,
                    "missing": coverage.missing,
                    "index_valid": bool(index and index.valid),
                    "index_bytes": index.bytes if index else 0,
                    "pending_documents": queue.documents if queue else 0,
                    "pending_since": str(queue.oldest) if queue else None,
                }
            generations.append(row)
        return Status(
            documents={"live": live, "deleted": deleted},
            versions=count_versions(connection),
            chunks=count_chunks(connection),
            models=[
                {
                    "slug": m.slug,
                    "source": m.spec.source,
                    "state": m.state,
                    "reason": m.reason,
                    "dimension": m.dimension,
                    "max_tokens": m.max_tokens,
                    "vectors": vectors.get(m.space_id or 0, 0),
                    "drift": m.drift,
                    "checked_at": str(m.checked_at) if m.checked_at else None,
                }
                for m in list_models(connection)
            ],
            generations=generations,
            serving={k: str(v) if k == "changed_at" else v for k, v in asdict(serving).items()} if serving else None,
            failures=[
                {"tenant": t, "source": s, "uri": u, "code": c, "reason": r, "failed_at": str(at)}
                for t, s, u, c, r, at in list_failures(connection)
            ],
            embedding_failures=[
                {"model": m, "chunk_id": c, "reason": r, "failed_at": str(at)}
                for m, c, r, at in list_embedding_failures(connection)
            ],
            sources=[asdict(source) for source in list_sources(connection)],
            promotions=[
                {**asdict(promotion), "promoted_at": str(promotion.promoted_at)}
                for promotion in list_promotions(connection)
            ],
            alerts=[
                {k: str(v) if isinstance(v, datetime) else v for k, v in asdict(alert).items()}
                for alert in list_alerts(connection)
            ],
        )
