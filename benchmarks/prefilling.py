"""A ledger that is filled but for a sample, where the whole would take hours: by a map from another model's space."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.provenance import normalise, read_vectors
from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.registry import open_checked_model
from rag_pipeline.embeddings.store import ModelRecord, land_embeddings, missing_chunks, read_chunk_texts
from rag_pipeline.index.store import Generation

FITTED = 1_000
HELD_OUT = 100
# Added to the diagonal of a fit over unit vectors: enough to keep it stable, little beside its eigenvalues.
RIDGE = 0.1
BATCH = 10_000


@dataclass(frozen=True)
class Filling:
    """Where the candidate's vectors come from: chunks left to the product, embedded while preparing, mapped.

    `likeness`: mean cosine of mapped vectors to the model's own, on chunks the map was not fitted on.
    """

    left: int
    embedded: int = 0
    mapped: int = 0
    likeness: float = 1.0


def fill_ledger(database: Database, serving: Generation, candidate: ModelRecord, sample: int, seed: int) -> Filling:
    """Give all chunks but a random `sample` a vector in the candidate's space; 0 leaves all to the product."""
    with database.connection() as connection:
        missing = missing_chunks(connection, candidate.space, serving.chunker_id, only_pending=False)
    chunks = sorted(chunk.id for chunk in missing)
    random.Random(seed).shuffle(chunks)
    left, others = chunks[:sample], chunks[sample:]
    if not sample or len(others) <= FITTED:
        return Filling(len(chunks))
    fitted, mapped = others[:FITTED], others[FITTED:]
    own = embed_chunks(database, candidate, fitted)
    their = read_unit_vectors(database, serving.space_id, fitted)
    matrix = fit_map(their[HELD_OUT:], own[HELD_OUT:])
    likeness = float(np.mean(np.sum(normalise(their[:HELD_OUT] @ matrix) * own[:HELD_OUT], axis=1)))
    land(database, candidate, fitted, own)
    for position in range(0, len(mapped), BATCH):
        batch = mapped[position : position + BATCH]
        land(database, candidate, batch, normalise(read_unit_vectors(database, serving.space_id, batch) @ matrix))
    with database.connection() as connection:
        connection.execute("vacuum (analyze) rag.embedding")  # not in the middle of the quiet phase
        connection.execute("checkpoint")
    return Filling(len(left), len(fitted), len(mapped), likeness)


def embed_chunks(database: Database, model: ModelRecord, chunks: Sequence[int]) -> np.ndarray:
    """(n, dimension) unit vectors by the model itself, in the order of `chunks`."""
    with database.connection() as connection:
        found = {chunk.id: chunk for chunk in read_chunk_texts(connection, model.space, chunks)}
    texts = [embedded_text(found[c].title, found[c].heading_path, found[c].text) for c in chunks]
    return normalise(open_checked_model(model).embed_documents(texts))


def read_unit_vectors(database: Database, space_id: int, chunks: Sequence[int]) -> np.ndarray:
    """(n, dimension) of the ledger, in the order of `chunks`. Raises KeyError for one that is not there."""
    with database.connection() as connection:
        vectors = dict(read_vectors(connection, space_id, chunks))
    return np.stack([vectors[chunk] for chunk in chunks])


def fit_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix that maps source (n, d) nearest to target (n, e), by ridge regression. Pure."""
    gram = source.T @ source + RIDGE * np.eye(source.shape[1])
    return np.asarray(np.linalg.solve(gram, source.T @ target), dtype=np.float32)


def land(database: Database, model: ModelRecord, chunks: Sequence[int], vectors: np.ndarray) -> None:
    with database.transaction() as connection:
        land_embeddings(connection, model.space, chunks, vectors)
