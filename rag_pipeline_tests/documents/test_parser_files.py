"""Real and deliberately broken files from the test suites of other parsers."""

import os
from collections import Counter
from pathlib import Path

import pytest

from rag_pipeline.documents.parser_pool import ParserPool
from rag_pipeline.documents.parsing import Parsed, ParseFailure, ParseRequest

DATA = Path(os.environ.get("RAG_TEST_DATA", Path(__file__).parents[2].parent / "shared/data"))
FILES = DATA / "parser-files"
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="the parser-files data set is not here")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Parsed | ParseFailure]:
    paths = [path for path in sorted(FILES.rglob("*")) if path.is_file()]
    requests = (ParseRequest(str(path.relative_to(FILES)), path.name, path.read_bytes()) for path in paths)
    with ParserPool(workers=2, timeout_seconds=30) as pool:
        found = list(pool.parse(requests))
    assert sorted(outcome.key for outcome in found) == sorted(str(path.relative_to(FILES)) for path in paths)
    return {outcome.key: outcome for outcome in found}


def count_codes(outcomes: dict[str, Parsed | ParseFailure], folder: str) -> Counter[str]:
    chosen = [outcome for key, outcome in outcomes.items() if key.startswith(folder + "/")]
    if not chosen:
        pytest.skip(f"no files under {folder}")
    return Counter(getattr(outcome, "code", "text") for outcome in chosen)


@pytest.mark.timeout(180)
def test_every_file_ends_as_storable_text_or_as_a_reason(outcomes):
    print(Counter(getattr(outcome, "code", "text") for outcome in outcomes.values()))
    for key, outcome in outcomes.items():
        if isinstance(outcome, Parsed):
            assert outcome.text.strip(), key
            assert outcome.title, key
            assert "\0" not in outcome.text, key
            outcome.text.encode("utf-8")
        else:
            assert outcome.reason.startswith(Path(key).name + ": "), key
            assert outcome.code not in ("crash", "timeout", "memory"), outcome.reason


@pytest.mark.parametrize("folder", ["pdf-en", "pdf-ja", "pdf-ko", "pdf-zh", "pdf-other-lang", "other-office"])
def test_nearly_every_healthy_file_gives_text(outcomes, folder):
    codes = count_codes(outcomes, folder)
    assert codes["text"] >= 0.95 * codes.total(), codes


def test_encrypted_files_give_text_with_the_empty_password_or_say_that_they_are_encrypted(outcomes):
    codes = count_codes(outcomes, "pdf-encrypted")
    assert codes["text"] > 0
    assert codes["encrypted"] > 0
    assert codes.keys() <= {"text", "encrypted", "no_text", "malformed"}, codes


def test_scans_ask_for_ocr(outcomes):
    scans = [outcome for key, outcome in outcomes.items() if key.startswith("pdf-scanned-no-text/")]
    assert scans
    without = [outcome for outcome in scans if isinstance(outcome, ParseFailure)]
    assert without
    for outcome in without:
        assert outcome.code == "no_text"
        assert "OCR" in outcome.reason
