"""A real static model, small enough to be made in a test: words, a table of seeded random vectors.

Equal texts have equal vectors and texts that share words are near each other; that is all it knows.
"""

import random
import re
from pathlib import Path

import numpy as np

from rag_pipeline.embeddings.fingerprint import CANARIES, QUERY_CANARY

DIMENSION = 32
WORD = re.compile(r"\w+|[^\w\s]")
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te")
# Words of the hand-written texts in the tests, so that they are not all unknown.
PLAIN = WORD.findall(
    "the a of and is in on to for with was are by it old new red blue green small large first second third "
    "valve pump pressure steam boiler leak repair manual page version document chapter section part north south "
    "cat dog bird fish tree river stone cloud rain snow winter summer apple bread water salt sugar title text "
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda one two three four five six seven eight "
    "nine ten probe about notes note owner name price open closed question answer words word line "
    ". , : ; ! ? # * - >"
)


def make_words(count: int) -> list[str]:
    """`count` words that no stemmer maps onto each other often: three to four syllables, in a fixed order."""
    chosen = random.Random(7)
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(chosen.choices(SYLLABLES, k=chosen.randint(3, 4)))] = None
    return list(words)


WORDS = make_words(400)


def save_tiny_model(directory: Path, *, seed: int = 1, dimension: int = DIMENSION) -> Path:
    """Save a model2vec model whose vectors follow from the seed: another seed is another space."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace

    canaries = [word.lower() for text in (*CANARIES, QUERY_CANARY) for word in WORD.findall(text)]
    known = ["[UNK]", *WORDS, *PLAIN, *canaries]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.random.default_rng(seed).normal(size=(len(vocabulary), dimension)).astype(np.float32)
    StaticModel(vectors=vectors, tokenizer=tokenizer).save_pretrained(directory)
    return directory


def make_text(chosen: random.Random, words: int) -> str:
    """Sentences of eight seeded words, with a heading now and then."""
    parts = []
    for position in range(0, words, 8):
        sentence = " ".join(chosen.choices(WORDS, k=min(8, words - position))).capitalize() + "."
        if position % 64 == 0 and position:
            sentence = f"\n\n## {' '.join(chosen.choices(WORDS, k=2))}\n\n{sentence}"
        parts.append(sentence)
    return " ".join(parts).strip()
