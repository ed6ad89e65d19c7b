"""Two models or generations side by side: the recorded evaluation of one against the other, or one made now."""

from dataclasses import dataclass
from typing import Any

import psycopg

from rag_pipeline.database.engine import Database
from rag_pipeline.errors import MissingError
from rag_pipeline.index.store import ACTIVE_STATES, Generation, find_candidate, read_generation
from rag_pipeline.serving import store
from rag_pipeline.serving.comparing import ComparedQuery
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.store import Evaluation
from rag_pipeline.settings import Settings


@dataclass(frozen=True)
class Comparison:
    """An evaluation with its generations and every query of it."""

    candidate: Generation
    baseline: Generation
    evaluation: Evaluation
    queries: list[ComparedQuery]

    def to_json(self) -> dict[str, Any]:
        """What `rag model compare --json` prints."""
        sides = {"candidate": self.candidate, "baseline": self.baseline}
        names = ("verdict", "allows", "reason", "created_at", "metrics")
        return {
            **{side: {"generation": g.id, "model": g.model, "state": g.state} for side, g in sides.items()},
            **{name: getattr(self.evaluation, name) for name in names},
            "queries": tabulate_queries(self.queries).to_dict("records"),
        }


def compare_generations(
    database: Database, settings: Settings, candidate: str, baseline: str | None = None, *, fresh: bool = False
) -> Comparison:
    """Compare two, each a model's slug or a generation's number; `baseline` is what serves unless given.

    The newest evaluation on record is read; with `fresh`, or without one, both are asked now and the verdict is
    recorded. Raises `MissingError` for a name without a generation that can be searched.
    """
    with database.connection() as connection:
        left = find_generation(connection, candidate)
        right = find_generation(connection, baseline) if baseline else _find_serving(connection, left)
        if left.id == right.id:
            raise MissingError(f"{candidate} and {baseline or 'what serves'} are the same generation, {left.id}")
        found = None if fresh else store.latest_comparison(connection, left.id, right.id)
    if found is not None and "zero_vectors" not in found.metrics:
        found = None  # recorded by an earlier version, without what is shown here
    evaluation = found or evaluate_candidate(database, settings, left, right)
    with database.connection() as connection:
        queries = store.list_evaluation_queries(connection, evaluation.id)
    return Comparison(left, right, evaluation, queries)


def find_generation(connection: psycopg.Connection, name: str) -> Generation:
    """The generation of that number, or the newest of that model, ready ones first. Raises `MissingError`."""
    if name.isdigit():
        found = read_generation(connection, int(name))
        if found is None or found.state not in ACTIVE_STATES:
            raise MissingError(f"Generation {name} cannot be searched: see `rag status` for those that can")
        return found
    if (candidate := find_candidate(connection, name)) is None:
        raise MissingError(f"No generation of model {name!r} is there to be compared; build one: rag model swap {name}")
    return candidate


def _find_serving(connection: psycopg.Connection, candidate: Generation) -> Generation:
    serving = store.read_serving(connection)
    if serving is None:
        raise MissingError("Nothing serves yet that it could be compared with; name a second model")
    number = serving.generation_id if serving.generation_id != candidate.id else serving.previous_id
    if number is None:
        raise MissingError(f"Generation {candidate.id} serves and replaced none; name a second model")
    return find_generation(connection, str(number))


def tabulate_queries(queries: list[ComparedQuery]) -> Any:
    """Every query as a row of a pandas DataFrame, those that lost most first."""
    import pandas as pd

    rows = [
        {
            "kind": q.kind,
            "query_id": q.query_id,
            "query": q.query,
            "change": round(q.change, 4),
            "candidate_ndcg_at_10": q.candidate.ndcg_at_10,
            "baseline_ndcg_at_10": q.baseline.ndcg_at_10,
            "candidate_recall_at_10": q.candidate.recall_at_10,
            "baseline_recall_at_10": q.baseline.recall_at_10,
            "candidate_reciprocal_rank": q.candidate.reciprocal_rank,
            "baseline_reciprocal_rank": q.baseline.reciprocal_rank,
            "overlap_at_10": q.overlap_at_10,
            "candidate": q.candidate.results,
            "baseline": q.baseline.results,
        }
        for q in queries
    ]
    table = pd.DataFrame(rows)
    return table.sort_values(["change", "overlap_at_10"], kind="stable") if rows else table
