import pytest

from rag_pipeline.serving.citations import check_citations
from rag_pipeline_tests.serving.passages import make_hits

HITS = make_hits("one", "two", "three")


@pytest.mark.parametrize(
    ("answer", "cited", "unknown", "uncited", "reason"),
    [
        ("It leaks [2]. It is old [1][3].", [2, 1, 3], [], 0, "in order of mention"),
        ("It leaks. [2] It is old.", [2], [], 1, "a mark after the stop belongs to the sentence before"),
        ("It leaks [1, 3].", [1, 3], [], 0, "a list"),
        ("It leaks [1-3].", [1, 2, 3], [], 0, "a range"),
        ("It leaks [4]. So [0].", [], [4, 0], 2, "numbers that name no passage"),
        ("弁が漏れている[2]。古い。", [2], [], 1, "Japanese, without spaces"),
        ("밸브가 샌다 ［１］.", [1], [], 0, "full-width forms"),
        ("Take `x[2]` and ```\ny[3]\n``` [1].", [1], [], 0, "code is not read"),
        ("See [1](https://example.org).", [], [], 1, "a link is no citation"),
        ("", [], [], 0, "nothing"),
        ("I do not know.", [], [], 1, "no mark at all"),
        ("It leaks [a] [note].", [], [], 1, "other brackets"),
    ],
)
def test_citations_are_checked_against_the_passages(answer, cited, unknown, uncited, reason):
    report = check_citations(answer, HITS)
    assert (report.cited, report.unknown, report.uncited_sentences) == (cited, unknown, uncited), reason


def test_an_answer_is_sound_when_it_cites_and_only_what_is_there():
    assert check_citations("It leaks [1].", HITS).sound
    assert not check_citations("It leaks [1] [9].", HITS).sound
    assert not check_citations("It leaks.", HITS).sound
