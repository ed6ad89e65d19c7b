"""Whether answers came from one model and one generation alone: recomputed from the ledger, outside the search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg

from benchmarks.traffic import Answer
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.registry import open_checked_model
from rag_pipeline.embeddings.store import read_model_by_id
from rag_pipeline.index.store import Generation, list_generations

# An index of halfvec has 11 bits of each value (IEEE 754 half precision): over hundreds of values the errors of a
# cosine cancel to some 1e-4. Two models' cosines for the same pair differ by tenths.
TOLERANCE = 2e-3
BATCH = 5_000


@dataclass(frozen=True)
class Served:
    """A generation and when it may have answered: from the start of the call that let it serve to the end of the
    one that replaced it. Unix seconds."""

    generation: int
    since: float
    until: float


@dataclass(frozen=True)
class Space:
    """One generation's side of the check: its ledger's vectors by chunk, and every query embedded by its model."""

    generation: Generation
    vectors: Mapping[int, np.ndarray]
    queries: np.ndarray


@dataclass(frozen=True)
class Verification:
    """What was found of each answer ('' where it is true to one generation), and over how many cosines.

    `blind`: answers whose cosines another model's query against the same ledger would explain as well, so that a
    mixture could not have been told. `largest_error`: the largest difference among those accepted.
    """

    mixed: list[str]
    cosines: int
    largest_error: float
    blind: int


def read_spaces(database: Database, answers: Sequence[Answer], queries: Sequence[str]) -> dict[int, Space]:
    """Each generation that answered, with the ledger's vectors of all chunks that anyone returned."""
    wanted = {answer.generation for answer in answers}
    chunks = sorted({chunk for answer in answers for chunk, _, _ in answer.hits})
    with database.connection() as connection:
        generations = [g for g in list_generations(connection) if g.id in wanted]
        records = {g.id: read_model_by_id(connection, g.model_id) for g in generations}
        spaces = {}
        for generation in generations:
            vectors = dict(read_vectors(connection, generation.space_id, chunks))
            embedded = open_checked_model(records[generation.id]).embed_queries(queries)
            spaces[generation.id] = Space(generation, vectors, normalise(embedded))
    return spaces


def read_vectors(connection: psycopg.Connection, space_id: int, chunks: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    """(chunk, unit vector) of those chunks that have one in the space's ledger."""
    found = []
    for position in range(0, len(chunks), BATCH):
        rows = connection.execute(
            "select chunk_id, vector from rag.embedding where space_id = %s and chunk_id = any(%s)",
            (space_id, list(chunks[position : position + BATCH])),
        )
        found += [(chunk, normalise(vector.to_numpy())) for chunk, vector in rows]
    return found


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Rows (…, dimension) of length one; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def verify_answers(answers: Sequence[Answer], spaces: Mapping[int, Space], served: Sequence[Served]) -> Verification:
    """Judge every answer that did not fail. Pure."""
    mixed: list[str] = []
    cosines = blind = 0
    largest = 0.0
    for answer in answers:
        reason = judge_provenance(answer, spaces, served)
        mixed.append(reason)
        if reason or answer.error:
            continue
        space = spaces[answer.generation or 0]
        errors = list_errors(answer, space.queries[answer.query], space)
        cosines += len(errors)
        largest = max([largest, *errors])
        foreign = [other.queries[answer.query] for number, other in spaces.items() if number != answer.generation]
        blind += any(
            max(list_errors(answer, query, space), default=0.0) <= TOLERANCE
            for query in foreign
            if len(query) == space.generation.dimension  # the database refuses any other
        )
    return Verification(mixed, cosines, largest, blind)


def judge_provenance(answer: Answer, spaces: Mapping[int, Space], served: Sequence[Served]) -> str:
    """Why an answer is not one model's and one generation's, or ''. Pure."""
    if answer.error:
        return ""
    space = spaces.get(answer.generation or 0)
    if space is None:
        return f"generation {answer.generation} is unknown"
    if answer.model != space.generation.model:
        return f"generation {answer.generation} is of {space.generation.model}, the answer says {answer.model}"
    if answer.embedded_by is not None and answer.embedded_by != answer.model:
        return f"the query was embedded by {answer.embedded_by}, the index is of {answer.model}"
    if others := {generation for _, _, generation in answer.hits if generation != answer.generation}:
        return f"an answer of generation {answer.generation} has hits of {sorted(others)}"
    if not any(s.generation == answer.generation and s.since <= answer.done and answer.sent <= s.until for s in served):
        return f"generation {answer.generation} did not serve between {answer.sent} and {answer.done}"
    errors = list_errors(answer, space.queries[answer.query], space)
    if not errors and not answer.degraded:
        return "it has no cosine, so nothing proves where it came from"
    if any(error > TOLERANCE for error in errors):
        return f"its cosines are not those of {answer.model}'s query and the ledger's vectors, by {max(errors):.3f}"
    return ""


def list_errors(answer: Answer, query: np.ndarray, space: Space) -> list[float]:
    """|reported - recomputed| cosine of every hit that came with one; infinite for a chunk without a vector there."""
    return [
        abs(cosine - float(query @ space.vectors[chunk])) if chunk in space.vectors else np.inf
        for chunk, cosine, _ in answer.hits
        if cosine is not None
    ]
