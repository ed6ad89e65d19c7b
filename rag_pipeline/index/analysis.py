"""From text to BM25 terms: words stemmed, scripts without spaces as character bigrams. Pure."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Protocol

from rag_pipeline.errors import ExpectedError

LONGEST_TERM = 64
LARGEST_CACHE = 500_000
# Scripts written without spaces, and Hangul, whose words carry endings: bigrams find both (Lucene's
# CJKAnalyzer does the same). Thai, Lao, Khmer and Myanmar are cut alike for want of a dictionary.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff々〆ー"
)
WORD = re.compile(r"\w+")
PIECE = re.compile(f"[{UNSPACED}]+|[^{UNSPACED}]+")
FIRST_UNSPACED = re.compile(f"[{UNSPACED}]")


class Stemmer(Protocol):
    """What reduces a word to its stem."""

    def stemWord(self, word: str) -> str: ...


class UnknownStemmerError(ExpectedError, ValueError):
    """No such stemmer; the message lists those there are."""


class Analyzer:
    """Turns text into terms the same way for chunks and for queries. `name` records how."""

    def __init__(self, stemmer: str) -> None:
        self.name = f"{stemmer}+bigrams@1"
        self._stemmer = _open_stemmer(stemmer)
        self._terms_of: dict[str, tuple[str, ...]] = {}

    def count_terms(self, text: str) -> Counter[str]:
        """Each term of the text with how often it occurs."""
        terms: Counter[str] = Counter()
        for word, count in Counter(WORD.findall(fold_text(text))).items():
            for term in self._analyze_word(word):
                terms[term] += count
        return terms

    def _analyze_word(self, word: str) -> tuple[str, ...]:
        found = self._terms_of.get(word)
        if found is None:
            found = tuple(self._cut_word(word))
            if len(word) <= LONGEST_TERM:
                if len(self._terms_of) >= LARGEST_CACHE:
                    self._terms_of.clear()
                self._terms_of[word] = found
        return found

    def _cut_word(self, word: str) -> list[str]:
        if word.isascii() or not FIRST_UNSPACED.search(word):
            return [self._stem(word)]
        terms: list[str] = []
        for piece in PIECE.findall(word):
            if not FIRST_UNSPACED.match(piece):
                terms.append(self._stem(piece))
            elif len(piece) == 1:
                terms.append(piece)
            else:
                terms += [piece[i : i + 2] for i in range(len(piece) - 1)]
        return terms

    def _stem(self, word: str) -> str:
        return (self._stemmer.stemWord(word) if self._stemmer else word)[:LONGEST_TERM]


def fold_text(text: str) -> str:
    """Compatibility forms unified (full-width letters, half-width kana) and case folded."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=4)
def open_analyzer(stemmer: str) -> Analyzer:
    """The analyzer of a stemmer's name ('none' for no stemming). Raises `UnknownStemmerError`."""
    return Analyzer(stemmer)


def _open_stemmer(name: str) -> Stemmer | None:
    if name == "none":
        return None
    import Stemmer as snowball

    try:
        return snowball.Stemmer(name)  # type: ignore[no-any-return]
    except KeyError as error:
        raise UnknownStemmerError(
            f"No stemmer is called {name!r}; there are: none, {', '.join(snowball.algorithms())}"
        ) from error
