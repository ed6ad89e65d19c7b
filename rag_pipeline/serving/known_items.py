"""Judging retrieval without judgements: take a sentence out of a chunk and ask for the chunk that lost it.

The chunk competes as it is without the sentence (its vector and its words are computed anew), so that a model
is measured on meaning and not on finding the same words again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg

from rag_pipeline.chunks.chunking import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.aside import give_way
from rag_pipeline.embeddings.models import EmbeddingModel, PartialEmbeddingError
from rag_pipeline.index.analysis import open_analyzer
from rag_pipeline.index.store import Generation
from rag_pipeline.progress import track
from rag_pipeline.serving import search_store, store
from rag_pipeline.serving.fusion import fuse
from rag_pipeline.serving.legs import complete_legs, read_query_terms, score_text
from rag_pipeline.serving.questions import pick_sentence

ITEMS = 250
FEWEST = 20
DEPTH = 100
WEIGHTS = tuple(step / 10 for step in range(11))
SHORTEST_REST = 80
# What two ways of computing the same cosine may differ by: an item must be nearer than that to be found, or a model to
# which all texts are alike would find every one.
ROUNDING = 1e-6


@dataclass(frozen=True)
class KnownItem:
    """A chunk, the sentence taken out of it, and what is left of it as it would be embedded."""

    chunk_id: int
    query: str
    rest: str


@dataclass(frozen=True)
class Legs:
    """What both legs return for an item's query, with the item as it is without its sentence.

    `document_of` names one document of each chunk; of a chunk that several hold, the item's where it is one.
    """

    chunk_id: int
    vector: Mapping[int, float]
    lexical: Mapping[int, float]
    document_of: Mapping[int, int]

    def rank(self, weight: float) -> int | None:
        """The place of the item's document after fusion, from 1; None where neither leg returned it.

        Documents and not chunks are ranked, each at its best chunk, as the judged measures do.
        """
        wanted = self.document_of.get(self.chunk_id)
        passed: set[int] = set()
        for fused in fuse(self.vector, self.lexical, weight):
            document = self.document_of.get(fused.chunk_id)
            if document is None or document in passed:
                continue
            passed.add(document)
            if document == wanted:
                return len(passed)
        return None


@dataclass(frozen=True)
class WeightChoice:
    """A fusion weight, and the mean reciprocal rank of the items at each weight tried."""

    weight: float
    mrr: dict[float, float]
    items: int
    reason: str


def choose_weight(reciprocal_ranks: np.ndarray, default: float) -> WeightChoice:
    """The weight nearest the default on the plateau around the best one: the mixtures within one standard error.

    reciprocal_ranks: (items, len(WEIGHTS)). The error is that of the paired difference to the best weight. An
    item's query has its document's own words, so the measure leans to the words: what it cannot tell apart is
    left to the default.
    Where no mixture beats the better leg, that leg serves alone. Few items: the default.
    """
    items = len(reciprocal_ranks)
    means = reciprocal_ranks.mean(axis=0) if items else np.zeros(len(WEIGHTS))
    mrr = {weight: round(float(mean), 4) for weight, mean in zip(WEIGHTS, means, strict=True)}
    if items < FEWEST:
        return WeightChoice(default, mrr, items, f"only {items} items: the default is kept")
    best = int(means.argmax())
    errors = (reciprocal_ranks - reciprocal_ranks[:, [best]]).std(axis=0, ddof=1) / np.sqrt(items)
    near = means + errors >= means[best]
    leg = 0 if means[0] >= means[-1] else len(WEIGHTS) - 1
    if best == leg:
        return WeightChoice(WEIGHTS[leg], mrr, items, "no mixture beats the better leg")
    plateau = {best}
    for step, end in ((-1, 0), (1, len(WEIGHTS) - 1)):
        index = best + step
        while index != end and near[index]:
            plateau.add(index)
            index += step
    weight = min((WEIGHTS[index] for index in plateau), key=lambda w: abs(w - default))
    span = f"{WEIGHTS[min(plateau)]} to {WEIGHTS[max(plateau)]}"
    return WeightChoice(weight, mrr, items, f"the weight nearest {default} among {span}, which cannot be told apart")


def make_items(connection: psycopg.Connection, generation: Generation, most: int = ITEMS) -> list[KnownItem]:
    """Items from a repeatable random sample of what a generation serves."""
    items = []
    for chunk_id, title, heading_path, text in store.sample_chunks(connection, generation, "known-item", 2 * most):
        sentence = pick_sentence(text)
        if sentence is None:
            continue
        rest = text.replace(sentence, " ")
        if len(rest.strip().encode()) >= SHORTEST_REST:
            items.append(KnownItem(chunk_id, sentence, embedded_text(title, heading_path, rest)))
    return items[:most]


def search_items(
    database: Database,
    generation: Generation,
    model: EmbeddingModel,
    items: Sequence[KnownItem],
    ef_search: int,
    *,
    resting: bool = False,
) -> list[Legs]:
    """Both legs for every item, in one generation. `resting`: idle as long as it worked, as others search too."""
    if not items:
        return []
    with give_way(model) as aside:
        queries = aside.embed_queries([item.query for item in items])
        rests = _embed(aside, [item.rest for item in items])
    analyzer = open_analyzer(generation.stemmer)
    found = []
    with track("known items", len(items), "queries") as advance, database.connection() as connection:
        search_store.set_search_width(connection, max(ef_search, 2 * DEPTH), iterative=False)
        for item, query, rest in zip(items, queries, rests, strict=True):
            began = time.monotonic()
            near = search_store.search_vectors(connection, generation, query, DEPTH)
            query_terms = read_query_terms(connection, generation, analyzer.count_terms(item.query))
            words = search_store.search_words(
                connection, generation, query_terms.terms, query_terms.average_length, DEPTH
            )
            near, words = complete_legs(connection, generation, query, near, words, query_terms)
            near[item.chunk_id] = cosine(stored(query, generation), stored(rest, generation)) - ROUNDING
            words[item.chunk_id] = score_text(query_terms, analyzer.count_terms(item.rest))
            holders = store.list_holders(connection, generation, [item.chunk_id, *near, *words])
            found.append(Legs(item.chunk_id, near, words, choose_documents(item.chunk_id, holders)))
            advance(1)
            if resting:
                time.sleep(time.monotonic() - began)
    return found


def choose_documents(chunk_id: int, holders: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """One document for each chunk: the item's own where it holds the chunk too, else the first."""
    own = min(holders.get(chunk_id, ()), default=None)
    return {chunk: own if own in held else min(held) for chunk, held in holders.items() if own is not None}


def _embed(model: EmbeddingModel, texts: Sequence[str]) -> np.ndarray:
    try:
        return model.embed_documents(texts)
    except PartialEmbeddingError as error:
        return np.asarray(np.nan_to_num(error.vectors), dtype=np.float32)


def stored(vector: np.ndarray, generation: Generation) -> np.ndarray:
    """The vector with the precision of the index, so that an item competes with its neighbours on equal terms."""
    return vector.astype(np.float16 if generation.index_recipe.vector_type == "halfvec" else np.float32).astype(float)


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Cosine of two vectors (dimension,), 0 where one has no direction."""
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else 0.0


def score_weights(legs: Sequence[Legs]) -> np.ndarray:
    """Reciprocal rank of each item at each weight: (items, len(WEIGHTS))."""
    return np.array([[1 / (leg.rank(weight) or np.inf) for weight in WEIGHTS] for leg in legs]).reshape(
        len(legs), len(WEIGHTS)
    )
