"""Comparing a candidate with what serves on the same queries, and recording the verdict with its evidence."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psycopg

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.aside import give_way, rest_after
from rag_pipeline.embeddings.registry import open_checked_model
from rag_pipeline.embeddings.store import read_coverage, read_gaps, read_model_by_id
from rag_pipeline.errors import MissingError
from rag_pipeline.index.store import (
    Generation,
    count_pending,
    count_zero_vectors,
    merge_metrics,
    read_generation,
    read_index_state,
)
from rag_pipeline.progress import track
from rag_pipeline.serving import store
from rag_pipeline.serving.comparing import (
    SHOWN,
    ComparedQuery,
    Outcome,
    describe_comparison,
    describe_shadow,
    find_difference,
)
from rag_pipeline.serving.hits import Mode
from rag_pipeline.serving.known_items import (
    FEWEST,
    KnownItem,
    Legs,
    choose_weight,
    fit_floor,
    pick_sentences,
    place_items,
    score_weights,
    search_items,
)
from rag_pipeline.serving.legs import read_ef_search, read_fusion_weight
from rag_pipeline.serving.measuring import Measured, measure
from rag_pipeline.serving.metrics import Verdict, judge_legs
from rag_pipeline.serving.questions import JudgedQuery
from rag_pipeline.serving.recall_store import insert_recall
from rag_pipeline.serving.recall_watch import fit_ef_search
from rag_pipeline.serving.search import Searcher
from rag_pipeline.serving.store import Evaluation
from rag_pipeline.settings import Settings

# Under this many judged queries an interval says little: known items decide then.
FEWEST_GOLDEN = 10
SHADOWS = 200
# While documents are edited a few chunks are always queued and not embedded yet: up to this share is no gap.
MOST_ON_ITS_WAY = 0.01
RECALL_QUERIES = 100


def evaluate_candidate(
    database: Database, settings: Settings, generation: Generation, baseline: Generation | None = None
) -> Evaluation:
    """Fit the candidate's fusion weight and similarity floor, compare it on the same queries, record the verdict.

    `baseline` is what serves unless one is given; only a verdict against what serves opens the gate. The queries
    are the judged ones users keep; with fewer than ten of them, known items made from the corpus. Logged searches
    are replayed to both and shown, not judged. With nothing serving a sound candidate gets 'first'.
    """
    with database.connection() as connection:
        if baseline is None and (serving := store.read_serving(connection)) is not None:
            baseline = read_generation(connection, serving.generation_id)
        metrics, broken = _check_soundness(connection, generation)
    if baseline is not None and baseline.id == generation.id:
        baseline = None
    queries: list[ComparedQuery] = []
    if broken:
        verdict = Verdict("broken", False, broken)
    else:
        asked = _ask_known_items(database, settings, generation)
        generation = _fit(database, settings, generation, asked, metrics)
        metrics["hnsw"] = {"candidate": _fit_recall(database, settings, generation, asked)}
        if baseline is None:
            verdict = Verdict("first", True, "nothing serves that it could be compared with")
        else:
            metrics["hnsw"]["baseline"] = baseline.metrics.get("recall")
            verdict, queries = _compare(database, settings, generation, baseline, asked, metrics)
    metrics["evaluated_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return _record(database, generation, baseline, verdict, metrics, queries)


def _check_soundness(connection: psycopg.Connection, generation: Generation) -> tuple[dict[str, Any], str | None]:
    """Coverage, queue, index and vectors: what must hold before any figure means something. (figures, what is broken)

    A NaN cannot be there: pgvector refuses it at the door, and the embedding step records it as a failure.
    """
    coverage = read_coverage(connection, generation.space_id, generation.chunker_id)
    index = read_index_state(connection, generation)
    pending = count_pending(connection).get(generation.id)
    lost, queued = read_gaps(connection, generation.id, generation.space_id, generation.chunker_id)
    figures = {
        "chunks": coverage.chunks,
        "embedded": coverage.embedded,
        "refused": coverage.refused,
        "zero_vectors": count_zero_vectors(connection, generation),
        "pending_documents": pending.documents if pending else 0,
        "index_valid": bool(index and index.valid),
        "index_bytes": index.bytes if index else 0,
    }
    if index is None or not index.valid:
        return figures, "its HNSW index is missing or invalid; build it again: rag doctor --repair"
    if lost or queued > MOST_ON_ITS_WAY * coverage.chunks:
        return figures, f"{lost + queued} of {coverage.chunks} chunks have no vector; embed them: rag model swap"
    if figures["zero_vectors"]:
        return figures, f"{figures['zero_vectors']} rows of its index have no direction; mend them: rag doctor --repair"
    return figures, None


@dataclass(frozen=True)
class _Asked:
    """Sentences of a generation's documents, the items made of them and what the legs returned, both by place."""

    sentences: list[tuple[int, str]]
    items: dict[int, KnownItem]
    legs: dict[int, Legs]


def _ask_known_items(database: Database, settings: Settings, generation: Generation) -> _Asked:
    with database.connection() as connection:
        sentences = pick_sentences(connection, generation)
        items = place_items(connection, generation, sentences)
    return _Asked(sentences, items, _search_items(database, settings, generation, items))


def _search_items(
    database: Database, settings: Settings, generation: Generation, items: dict[int, KnownItem]
) -> dict[int, Legs]:
    if not items:
        return {}
    with database.connection() as connection:
        record = read_model_by_id(connection, generation.model_id)
        resting = store.read_serving(connection) is not None
    width = read_ef_search(generation, settings.ef_search)
    with give_way(open_checked_model(record), record.spec) as model:
        legs = search_items(database, generation, model, list(items.values()), width, resting=resting)
    return dict(zip(items, legs, strict=True))


def _fit(
    database: Database, settings: Settings, generation: Generation, asked: _Asked, metrics: dict[str, Any]
) -> Generation:
    """Learn the fusion weight and the similarity floor, keep them with the generation, and show them."""
    legs = list(asked.legs.values())
    choice, floor = choose_weight(score_weights(legs), settings.fusion_weight), fit_floor(legs)
    fitted = {
        "fusion_weight": choice.weight,
        "fusion": {
            "mrr": {str(weight): mrr for weight, mrr in choice.mrr.items()},
            "items": choice.items,
            "reason": choice.reason,
        },
        "similarity_floor": floor.similarity if floor else None,
        "floor": asdict(floor) if floor else None,
    }
    metrics |= fitted
    with database.transaction() as connection:
        merge_metrics(connection, generation.id, fitted)
        now = read_generation(connection, generation.id)
    if now is None:
        raise MissingError(f"generation {generation.id} was deleted while it was evaluated")
    return now


def _fit_recall(database: Database, settings: Settings, generation: Generation, asked: _Asked) -> dict[str, Any] | None:
    """Set the candidate's ef_search so that it holds the recall target from its first search on; what was found."""
    if not asked.legs:
        return None
    with database.connection() as connection:
        resting = store.read_serving(connection) is not None
    choice, _ = fit_ef_search(database, settings, generation, _list_queries(asked.legs), resting=resting)
    with database.transaction() as connection:
        insert_recall(connection, generation.id, [choice.figure])
    return {**choice.figure.to_json(), "reason": choice.reason}


def _list_queries(legs: dict[int, Legs]) -> np.ndarray:
    return np.stack([leg.query for leg in list(legs.values())[:RECALL_QUERIES]])


def _compare(
    database: Database,
    settings: Settings,
    generation: Generation,
    baseline: Generation,
    asked: _Asked,
    metrics: dict[str, Any],
) -> tuple[Verdict, list[ComparedQuery]]:
    """The verdict and all queries behind it; the figures are added to `metrics`."""
    searcher = Searcher(database, ef_search=settings.ef_search)
    golden, notes = _list_usable_queries(database)
    if len(golden) >= FEWEST_GOLDEN:
        whole, vectors = (_ask_judged(searcher, generation, baseline, golden, mode) for mode in _MODES)
    else:
        if golden:
            notes.append(f"{len(golden)} judged queries are too few to decide, {FEWEST_GOLDEN} are needed")
        whole, vectors = _compare_known_items(database, settings, generation, baseline, asked)
    shadows = _replay_logged(database, searcher, generation, baseline)
    metrics |= {
        "query_kind": "golden" if len(golden) >= FEWEST_GOLDEN else "known-item",
        "notes": notes,
        **describe_comparison(whole),
        "vector_ndcg_at_10": [describe_comparison(vectors)[side]["ndcg_at_10"] for side in ("candidate", "baseline")],
    }
    metrics["candidate"]["generation"], metrics["baseline"]["generation"] = generation.id, baseline.id
    if shadows:
        metrics["shadow"] = describe_shadow(shadows)
    if len(golden) < FEWEST_GOLDEN and len(whole) < FEWEST:
        reason = f"only {len(whole)} sentences to ask both for; add judged queries: rag golden add"
        verdict = Verdict("cannot_tell", False, reason)
    else:
        margin = settings.not_worse_margin
        verdict = judge_legs(find_difference(whole), find_difference(vectors), margin, len(whole))
    return verdict, [*whole, *shadows]


_MODES: tuple[Mode, Mode] = ("hybrid", "vector")


def _list_usable_queries(database: Database) -> tuple[list[tuple[str, JudgedQuery]], list[str]]:
    """Judged queries with their tenants, and what is to be said of the others: nobody can find a document that is
    not there."""
    usable = []
    with database.connection() as connection:
        rows = store.list_golden_queries(connection)
        for tenant, query_id, text, relevant in rows:
            if store.list_known_names(connection, tenant, [name for name, grade in relevant.items() if grade > 0]):
                usable.append((tenant, JudgedQuery(query_id, text, relevant)))
    lost = len(rows) - len(usable)
    return usable, [f"{lost} judged queries name no document that exists"] if lost else []


def _ask_judged(
    searcher: Searcher,
    generation: Generation,
    baseline: Generation,
    golden: Sequence[tuple[str, JudgedQuery]],
    mode: Mode,
) -> list[ComparedQuery]:
    found = []
    for tenant in sorted({tenant for tenant, _ in golden}):
        queries = [query for owner, query in golden if owner == tenant]
        sides: list[Measured] = []
        for number in (generation.id, baseline.id):
            vectors = searcher.embed_queries([q.text for q in queries], number)
            searcher.search(queries[0].text, generation=number, tenant=tenant, vector=vectors[0])  # warms the caches
            sides.append(measure(searcher, queries, vectors, mode=mode, generation=number, tenant=tenant, resting=True))
        for query, candidate, served in zip(queries, sides[0].scored, sides[1].scored, strict=True):
            name = query.id if tenant == "default" else f"{tenant}/{query.id}"
            found.append(ComparedQuery("golden", name, query.text, candidate.outcome(), served.outcome()))
    return found


def _compare_known_items(
    database: Database, settings: Settings, generation: Generation, baseline: Generation, asked: _Asked
) -> tuple[list[ComparedQuery], list[ComparedQuery]]:
    """(by the whole path, by the vectors alone), for the sentences that make an item on both sides: with the same
    chunker all of them."""
    with database.connection() as connection:
        placed = place_items(connection, baseline, asked.sentences)
    places = [place for place in asked.legs if place in placed]
    served = _search_items(database, settings, baseline, {place: placed[place] for place in places})
    fused = (read_fusion_weight(generation), read_fusion_weight(baseline))
    whole = {place: _rank_both(asked.legs[place], served[place], fused) for place in places}
    alone = {place: _rank_both(asked.legs[place], served[place], (1.0, 1.0)) for place in places}
    with database.connection() as connection:
        shown = {number for both in (*whole.values(), *alone.values()) for side in both for number in side[:SHOWN]}
        names = store.name_documents(connection, sorted(shown))

    def compare(ranked: dict[int, tuple[list[int], list[int]]]) -> list[ComparedQuery]:
        return [
            ComparedQuery(
                "known-item",
                f"{place:03d}",
                asked.sentences[place][1],
                _score_item(asked.legs[place], candidate, names),
                _score_item(served[place], incumbent, names),
            )
            for place, (candidate, incumbent) in ranked.items()
        ]

    return compare(whole), compare(alone)


def _rank_both(candidate: Legs, baseline: Legs, weights: tuple[float, float]) -> tuple[list[int], list[int]]:
    return candidate.list_documents(weights[0]), baseline.list_documents(weights[1])


def _score_item(leg: Legs, documents: list[int], names: dict[int, str]) -> Outcome:
    """The figures of one relevant document: nDCG@10 is 1 / log2(rank + 1)."""
    rank = documents.index(leg.document) + 1 if leg.document in documents else None
    return Outcome(
        [names[number] for number in documents[:SHOWN]],
        1 / math.log2(rank + 1) if rank and rank <= 10 else 0.0,
        float(rank is not None and rank <= 10),
        1 / rank if rank else 0.0,
        leg.milliseconds,
    )


def _replay_logged(
    database: Database, searcher: Searcher, generation: Generation, baseline: Generation
) -> list[ComparedQuery]:
    """Logged searches asked again of both sides, with their tenants and filters."""
    with database.connection() as connection:
        logged = store.sample_logged_searches(connection, SHADOWS)
    if not logged:
        return []
    sides: list[list[Outcome]] = []
    with track("logged searches", 2 * len(logged), "queries") as advance:
        for number in (generation.id, baseline.id):
            vectors = searcher.embed_queries([query for _, _, query, _ in logged], number)
            outcomes = []
            for (_, tenant, query, filters), vector in zip(logged, vectors, strict=True):
                with rest_after(True):
                    result = searcher.search(
                        query, k=20, tenant=tenant, where=filters, generation=number, vector=vector
                    )
                documents = list(dict.fromkeys(hit.document_id for hit in result.hits))
                outcomes.append(Outcome(documents, milliseconds=result.milliseconds["retrieve"]))
                advance(1)
            sides.append(outcomes)
    return [
        ComparedQuery("shadow", str(number), query, candidate, served)
        for (number, _, query, _), candidate, served in zip(logged, *sides, strict=True)
    ]


def _record(
    database: Database,
    generation: Generation,
    baseline: Generation | None,
    verdict: Verdict,
    metrics: dict[str, Any],
    queries: Sequence[ComparedQuery],
) -> Evaluation:
    with database.transaction() as connection:
        number = store.insert_evaluation(
            connection,
            generation.id,
            baseline.id if baseline else None,
            verdict.name,
            verdict.allows,
            verdict.reason,
            metrics,
        )
        store.insert_evaluation_queries(connection, number, queries)
        evaluation = store.latest_evaluation(connection, generation.id)
    if evaluation is None:
        raise MissingError(f"the evaluation of generation {generation.id} vanished while it was written")
    return evaluation
