"""BM25: scoring constants, which query terms to read, and how chunks become postings. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009); Lucene's defaults.
K1 = 1.2
B = 0.75
LARGEST_FREQUENCY = 32_767
# A term in over a tenth of the chunks says little and costs most; in a small index it costs nothing.
FREQUENT_SHARE = 0.1
ALWAYS_READ = 2_000
MOST_POSTINGS = 60_000


@dataclass(frozen=True)
class WeightedTerm:
    """A query term to read, with what multiplies its frequency part: idf times its count in the query."""

    term_id: int
    weight: float


def inverse_document_frequency(chunk_count: int, containing: int) -> float:
    """ln(1 + (N - n + 0.5) / (n + 0.5)): Lucene's form, never negative."""
    return math.log(1 + (chunk_count - containing + 0.5) / (containing + 0.5))


def score_terms(frequencies: Sequence[tuple[float, int]], length: int, average_length: float) -> float:
    """The BM25 score of one text from (term weight, frequency in the text); the formula of the SQL search."""
    share = 1 - B + B * length / average_length
    return sum(weight * n * (K1 + 1) / (n + K1 * share) for weight, n in frequencies if n)


def choose_terms(query: Counter[str], known: Sequence[tuple[str, int, int]], chunk_count: int) -> list[WeightedTerm]:
    """Which of the query's terms to read, rarest first. `known` is (term, id, chunks containing it).

    The rarest term is always read. Others are left out when they stand in over a tenth of a large index, or
    when the postings to read would exceed a fixed budget: the cost of a query is bounded at any size.
    """
    chosen: list[WeightedTerm] = []
    postings = 0
    for term, term_id, containing in sorted(known, key=lambda item: (item[2], item[1])):
        frequent = containing > max(ALWAYS_READ, FREQUENT_SHARE * chunk_count)
        if chosen and (frequent or postings + containing > MOST_POSTINGS):
            break
        postings += containing
        chosen.append(WeightedTerm(term_id, inverse_document_frequency(chunk_count, containing) * query[term]))
    return chosen
