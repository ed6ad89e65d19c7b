"""Answer without an LLM: the sentences of the hits that answer the question best, word for word.

Pure: vectors, where there are any, come in as values (`embed_sentences` makes them with any model).
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag_pipeline.embeddings.models import EmbeddingModel, normalise_rows
from rag_pipeline.serving.hits import Passage
from rag_pipeline.serving.sentences import split_sentences

# BM25 as in Robertson and Zaragoza (2009); sentences are short, so length counts for less than in documents.
_K1, _B = 1.2, 0.5
# Shares of meaning and words in the score where vectors are given.
_MEANING = 0.5
# What each further hit loses: search already ranked them, and ties should go to the better one.
_RANK_LOSS = 0.03
# A second or third sentence must come this close to the first and repeat it no more than this.
_CLOSE_ENOUGH, _TOO_ALIKE = 0.6, 0.6
_SHORTEST = 2
# Headings name an answer and never give one; nor do a table's rules and a code fence's line.
_NO_STATEMENT = re.compile(r"\s*(?:#{1,6}\s|[|:\s-]+$|```)")
# Kana, ideographs, hangul: words carry particles or have no spaces, so pairs of characters match better.
_PAIRED = r"\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORDS = re.compile(rf"[{_PAIRED}]+|[^\W_{_PAIRED}]+(?:[-'._][^\W_{_PAIRED}]+)*")
_UNSPACED = re.compile(f"[{_PAIRED}]")
_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been by can could did do does for from had has have how i in is it its of on "
        "or should that the their there these this to was we were what when where which who whom whose why "
        "will with would you your",
    )
)


@dataclass(frozen=True)
class Sentence:
    """A candidate: hits[citation - 1].text[start:end] is `text`."""

    text: str
    citation: int
    start: int
    end: int


@dataclass(frozen=True)
class Quote(Sentence):
    """A chosen sentence and its score (comparable within one answer only)."""

    score: float


@dataclass(frozen=True)
class SentenceVectors:
    """`question` (dimension,) and `sentences` (n, dimension), rows in the order of `list_sentences`."""

    question: np.ndarray
    sentences: np.ndarray


@dataclass(frozen=True)
class ExtractiveAnswer:
    """`text` is the quotes in reading order, each with its [n]; empty where no sentence fits the question."""

    text: str
    quotes: tuple[Quote, ...]
    extractive: bool = True


def list_sentences(hits: Sequence[Passage]) -> list[Sentence]:
    """Every sentence of every hit that has at least two terms; a sentence two hits share is kept once."""
    seen: set[str] = set()
    found: list[Sentence] = []
    for number, hit in enumerate(hits, start=1):
        for span in split_sentences(hit.text):
            text = hit.text[span.start : span.end]
            key = " ".join(text.split())
            if not _NO_STATEMENT.match(text) and key not in seen and len(list_terms(text)) >= _SHORTEST:
                seen.add(key)
                found.append(Sentence(text, number, span.start, span.end))
    return found


def embed_sentences(question: str, sentences: Sequence[Sentence], model: EmbeddingModel) -> SentenceVectors:
    """Vectors for `answer_from_hits`, by the model that serves. Raises what the model raises."""
    documents = model.embed_documents([sentence.text for sentence in sentences])
    return SentenceVectors(model.embed_queries([question])[0], documents)


def answer_from_hits(
    question: str,
    hits: Sequence[Passage],
    *,
    vectors: SentenceVectors | None = None,
    most_sentences: int = 3,
) -> ExtractiveAnswer:
    """Quote one to `most_sentences` sentences. Vectors must belong to `list_sentences(hits)`."""
    sentences = list_sentences(hits)
    words = score_words(question, [sentence.text for sentence in sentences])
    meaning = None if vectors is None else _score_meaning(vectors, len(sentences))
    scores = _combine(words, meaning, sentences)
    chosen = _choose(sentences, scores, most_sentences)
    quotes = sorted(chosen, key=lambda quote: (quote.citation, quote.start))
    text = " ".join(f"{' '.join(quote.text.split())} [{quote.citation}]" for quote in quotes)
    return ExtractiveAnswer(text, tuple(quotes))


def score_words(question: str, sentences: Sequence[str]) -> np.ndarray:
    """BM25 of each sentence for the question, over these sentences; (n,) float64, 0: no word shared."""
    terms = [Counter(list_terms(sentence)) for sentence in sentences]
    wanted = set(list_terms(question))
    lengths = np.array([sum(counts.values()) for counts in terms], dtype=np.float64)
    mean = lengths.mean() if len(lengths) else 1.0
    scores = np.zeros(len(sentences))
    for term in wanted:
        found = sum(term in counts for counts in terms)
        if not found:
            continue
        weight = math.log(1 + (len(terms) - found + 0.5) / (found + 0.5))
        for row, counts in enumerate(terms):
            if frequency := counts[term]:
                scale = frequency + _K1 * (1 - _B + _B * lengths[row] / mean)
                scores[row] += weight * frequency * (_K1 + 1) / scale
    return scores


def list_terms(text: str) -> list[str]:
    """Words without case, stop words and plural endings; scripts of syllables or ideographs as pairs."""
    terms: list[str] = []
    for word in _WORDS.findall(unicodedata.normalize("NFKC", text).lower()):
        if _UNSPACED.match(word):
            terms += [word[place : place + 2] for place in range(max(1, len(word) - 1))]
        elif word not in _STOPWORDS:
            terms.append(_cut_ending(word))
    return terms


def _cut_ending(word: str) -> str:
    """Enough to match "valves" with "valve" and "leaking" with "leaked"; not a stemmer."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending).removesuffix("e")
    return word.removesuffix("e") if len(word) >= 5 else word


def _score_meaning(vectors: SentenceVectors, sentences: int) -> np.ndarray:
    if vectors.sentences.shape[0] != sentences:
        raise ValueError(f"{vectors.sentences.shape[0]} sentence vectors for {sentences} sentences")
    question = normalise_rows(vectors.question[None, :])[0]
    return np.asarray(np.maximum(0.0, normalise_rows(vectors.sentences) @ question), dtype=np.float64)


def _combine(words: np.ndarray, meaning: np.ndarray | None, sentences: Sequence[Sentence]) -> np.ndarray:
    """Each part divided by its best, mixed, less a little per rank."""
    scores = words / words.max() if len(words) and words.max() > 0 else np.zeros(len(words))
    if meaning is not None and len(meaning) and meaning.max() > 0:
        scores = (1 - _MEANING) * scores + _MEANING * meaning / meaning.max()
    loss = np.array([1 - min(0.5, _RANK_LOSS * (sentence.citation - 1)) for sentence in sentences])
    return np.asarray(scores * loss)


def _choose(sentences: Sequence[Sentence], scores: np.ndarray, most: int) -> list[Quote]:
    """The best one, then others that are close to it and say something else."""
    chosen: list[Quote] = []
    for row in np.argsort(-scores, kind="stable"):
        score, sentence = float(scores[row]), sentences[row]
        if score <= 0 or len(chosen) == most or (chosen and score < _CLOSE_ENOUGH * chosen[0].score):
            break
        if all(_overlap(sentence.text, quote.text) < _TOO_ALIKE for quote in chosen):
            chosen.append(Quote(sentence.text, sentence.citation, sentence.start, sentence.end, score))
    return chosen


def _overlap(left: str, right: str) -> float:
    """Shared terms as a part of the smaller set."""
    one, other = set(list_terms(left)), set(list_terms(right))
    return len(one & other) / max(1, min(len(one), len(other)))
