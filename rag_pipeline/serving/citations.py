"""Check an answer's [n] marks against the passages it was given."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rag_pipeline.serving.hits import Passage
from rag_pipeline.serving.sentences import split_sentences

# [1], [1, 2], [1-3], [1][2] and full-width forms; [1](link) is a link. Code, where x[1] is an index, is cut.
_MARK = re.compile(r"(?:[\[［【]\s*\d{1,3}(?:\s*[,，、;–-]\s*\d{1,3})*\s*[\]］】])+(?!\()")
_GROUP = re.compile(r"[\[［【]([^\]］】]+)[\]］】]")
_RANGE = re.compile(r"(\d+)\s*[–-]\s*(\d+)")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_WORD = re.compile(r"\w")
# What is put before the stop, so that a mark after it ("… tight. [1]") counts for the sentence it follows.
_MARK_AFTER_STOP = re.compile(r"([.!?。！？]+)\s*(" + _MARK.pattern + ")")


@dataclass(frozen=True)
class CitationReport:
    """`cited`: passages cited, in order of first mention; `unknown`: numbers that name no passage.

    `uncited_sentences` counts sentences with a word in them and no mark of a known passage.
    """

    cited: list[int]
    unknown: list[int]
    uncited_sentences: int

    @property
    def sound(self) -> bool:
        """Something is cited, and nothing that is not there."""
        return bool(self.cited) and not self.unknown


def check_citations(answer_text: str, hits: Sequence[Passage]) -> CitationReport:
    """Which of the passages 1..len(hits) an answer cites. Marks in code are not read."""
    text = _MARK_AFTER_STOP.sub(r"\2\1", _CODE.sub("code", answer_text))
    cited: list[int] = []
    unknown: list[int] = []
    uncited = 0
    for span in split_sentences(text):
        sentence = text[span.start : span.end]
        numbers = read_marks(sentence)
        known = [number for number in numbers if 1 <= number <= len(hits)]
        cited += [number for number in known if number not in cited]
        unknown += [number for number in numbers if number not in known and number not in unknown]
        without_marks = _MARK.sub("", sentence)
        if not known and _WORD.search(without_marks):
            uncited += 1
    return CitationReport(list(dict.fromkeys(cited)), list(dict.fromkeys(unknown)), uncited)


def read_marks(sentence: str) -> list[int]:
    """Every number cited in a sentence, ranges written out, in order and without repeats."""
    numbers: list[int] = []
    for mark in _MARK.finditer(sentence):
        for group in _GROUP.findall(mark.group()):
            for part in re.split(r"\s*[,，、;]\s*", group.strip()):
                found = _RANGE.fullmatch(part)
                if found is None:
                    numbers.append(int(part))
                else:
                    numbers.extend(range(int(found[1]), int(found[2]) + 1))
    return list(dict.fromkeys(numbers))
