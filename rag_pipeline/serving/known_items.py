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
from rag_pipeline.embeddings.aside import rest_after
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
    """A document, a sentence taken out of it, and what is left of each chunk that held it, as it would be embedded.

    A chunker with overlap may have the sentence in two chunks; `rests` is by chunk id.
    """

    document: int
    query: str
    rests: Mapping[int, str]


@dataclass(frozen=True)
class Legs:
    """What both legs return for an item's query, with the item's chunks as they are without the sentence.

    `document_of` names one document of each chunk; of a chunk that several hold, the item's where it is one.
    `query` (dimension,) is the sentence embedded; `likeness` its cosine with its own chunk, `stranger` that with
    another item's.
    """

    document: int
    vector: Mapping[int, float]
    lexical: Mapping[int, float]
    document_of: Mapping[int, int]
    query: np.ndarray
    likeness: float = 0.0
    stranger: float = 0.0
    milliseconds: float = 0.0

    def list_documents(self, weight: float) -> list[int]:
        """Documents after fusion, best first, each at its best chunk, as the judged measures rank them."""
        fused = fuse(self.vector, self.lexical, weight)
        return list(dict.fromkeys(self.document_of[f.chunk_id] for f in fused if f.chunk_id in self.document_of))

    def rank(self, weight: float) -> int | None:
        """The place of the item's document, from 1; None where neither leg returned it."""
        documents = self.list_documents(weight)
        return documents.index(self.document) + 1 if self.document in documents else None


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


def pick_sentences(connection: psycopg.Connection, generation: Generation, most: int = ITEMS) -> list[tuple[int, str]]:
    """(document number, sentence) from a repeatable random sample of what a generation serves."""
    found = []
    for text, document in store.sample_chunks(connection, generation, "known-item", 2 * most):
        sentence = pick_sentence(text)
        if sentence is not None and document is not None and is_enough_left(text, sentence):
            found.append((document, sentence))
    return found[:most]


def is_enough_left(text: str, sentence: str) -> bool:
    """Whether a chunk says something without the sentence."""
    return len(text.replace(sentence, " ").strip().encode()) >= SHORTEST_REST


def place_items(
    connection: psycopg.Connection, generation: Generation, sentences: Sequence[tuple[int, str]]
) -> dict[int, KnownItem]:
    """Items by their place in `sentences`, as this generation cuts the documents.

    A sentence that no chunk holds whole, or that is most of its chunk, makes no item.
    """
    rests: dict[int, dict[int, str]] = {}
    for place, chunk_id, title, heading_path, text in store.locate_sentences(connection, generation, sentences):
        rest = text.replace(sentences[place][1], " ")
        # '': too little is left, and the sentence is of no use whatever its other chunks are
        kept = embedded_text(title, heading_path, rest) if is_enough_left(text, sentences[place][1]) else ""
        rests.setdefault(place, {})[chunk_id] = kept
    return {place: KnownItem(*sentences[place], found) for place, found in sorted(rests.items()) if all(found.values())}


def search_items(
    database: Database,
    generation: Generation,
    model: EmbeddingModel,
    items: Sequence[KnownItem],
    ef_search: int,
    *,
    resting: bool = False,
) -> list[Legs]:
    """Both legs for every item, in one generation. `resting`: give way to others who search."""
    if not items:
        return []
    queries = model.embed_queries([item.query for item in items])
    rests = _embed_rests(model, items)
    found = []
    with track("known items", len(items), "queries") as advance, database.connection() as connection:
        search_store.set_search_width(connection, max(ef_search, 2 * DEPTH), iterative=False)
        for place, (item, query) in enumerate(zip(items, queries, strict=True)):
            stranger = next(iter(rests[place - 1].values()))
            with rest_after(resting):
                found.append(_search_item(connection, generation, item, query, rests[place], stranger))
            advance(1)
    return found


def _search_item(
    connection: psycopg.Connection,
    generation: Generation,
    item: KnownItem,
    query: np.ndarray,
    rests: Mapping[int, np.ndarray],
    stranger: np.ndarray,
) -> Legs:
    analyzer = open_analyzer(generation.stemmer)
    began = time.perf_counter()
    near = search_store.search_vectors(connection, generation, query, DEPTH)
    query_terms = read_query_terms(connection, generation, analyzer.count_terms(item.query))
    words = search_store.search_words(connection, generation, query_terms.terms, query_terms.average_length, DEPTH)
    near, words = complete_legs(connection, generation, query, near, words, query_terms)
    milliseconds = (time.perf_counter() - began) * 1000
    own = {chunk: cosine(stored(query, generation), stored(rest, generation)) for chunk, rest in rests.items()}
    near |= {chunk: likeness - ROUNDING for chunk, likeness in own.items()}
    words |= {chunk: score_text(query_terms, analyzer.count_terms(rest)) for chunk, rest in item.rests.items()}
    holders = store.list_holders(connection, generation, [*near, *words])
    documents = choose_documents(item.document, holders)
    likeness = max(own.values())
    return Legs(item.document, near, words, documents, query, likeness, cosine(query, stranger), milliseconds)


def choose_documents(document: int, holders: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """One document for each chunk: the item's own where it holds the chunk too, else the first."""
    return {chunk: document if document in held else min(held) for chunk, held in holders.items()}


def _embed_rests(model: EmbeddingModel, items: Sequence[KnownItem]) -> list[dict[int, np.ndarray]]:
    vectors = iter(_embed(model, [rest for item in items for rest in item.rests.values()]))
    return [{chunk: next(vectors) for chunk in item.rests} for item in items]


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


@dataclass(frozen=True)
class Floor:
    """The cosine below which a hit is usually beside the point. `strangers_above`: how often chance passes it."""

    similarity: float
    strangers_above: float
    items: int


def fit_floor(legs: Sequence[Legs]) -> Floor | None:
    """The cosine that 95 % of the items' queries have with their own chunk; None where there are few items.

    Every model spreads its cosines differently: a threshold kept through a swap finds nothing, or everything.
    """
    if len(legs) < FEWEST:
        return None
    similarity = float(np.percentile([leg.likeness for leg in legs], 5))
    above = float(np.mean([leg.stranger >= similarity for leg in legs]))
    return Floor(round(similarity, 4), round(above, 4), len(legs))
