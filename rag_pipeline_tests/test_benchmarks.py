"""The benchmarks judge rightly, write what they say, and every script of them runs on something small."""

import gzip
import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks import chunk_reuse, corpora, embedding, ingest, load_build, retrieval, run_all, search, swap
from benchmarks.measuring import Spread, alternate, percentile, spread, spread_ratios
from benchmarks.prefilling import fit_map
from benchmarks.provenance import Served, Space, judge_provenance, normalise, verify_answers
from benchmarks.reporting import (
    Curve,
    Figure,
    Goal,
    Report,
    Table,
    format_report,
    format_spread,
    format_table,
    plot_curves,
    read_report,
    run_benchmark,
)
from benchmarks.swap_run import Phase
from benchmarks.traffic import Answer
from rag_pipeline.index.store import Generation
from rag_pipeline_tests.tiny_model import make_text

# --- judging and reporting -------------------------------------------------------------------------------

GOALS = [
    (Goal(1.5), Spread(2, 1, 3), Spread(1.5, 1.4, 9), True, "the median decides, and the limit itself will do"),
    (Goal(1.5), Spread(0.1, 0, 1), Spread(1.51, 0, 2), False, "our own figure is not what is judged"),
    (Goal(60, of="ours"), Spread(61, 1, 99), Spread(0.5, 0.5, 0.5), False, "an absolute goal ignores the ratio"),
    (Goal(0.97, "at least", "ours"), Spread(0.97, 0, 1), None, True, "no baseline is needed"),
    (None, Spread(1, 1, 1), Spread(99, 99, 99), None, "without a goal nothing is met or missed"),
]


@pytest.mark.parametrize(("goal", "ours", "ratio", "met", "reason"), GOALS, ids=[row[4] for row in GOALS])
def test_a_goal_is_judged_by_the_median(
    goal: Goal | None, ours: Spread, ratio: Spread | None, met: bool | None, reason: str
) -> None:
    assert Figure("x", ours, ratio=ratio, goal=goal).met is met, reason


def test_a_goal_about_a_ratio_without_a_baseline_is_an_error() -> None:
    with pytest.raises(ValueError, match="no baseline"):
        _ = Figure("x", spread(1), goal=Goal(1)).met


def test_ratios_are_taken_pair_by_pair() -> None:
    assert spread_ratios([2, 20, 6], [1, 20, 2]) == Spread(2, 1, 3, 3)


def test_the_two_sides_take_turns_at_going_first() -> None:
    calls: list[str] = []

    def work(name: str) -> float:
        calls.append(name)
        return len(calls)

    ours, bare = alternate(lambda: work("a"), lambda: work("b"), 3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert (ours, bare) == ([1, 4, 5], [2, 3, 6])
    assert percentile([1, 2, 3, 4], 50) == 2.5


REPORT = Report(
    "example",
    [
        Figure("fast", spread([1.0, 2.0, 3.0]), "ms", spread(2.0), spread([0.5, 1.0, 1.6]), Goal(1.5)),
        Figure("exact", spread(0.9999), goal=Goal(0.99991, "at least", "ours")),
        Figure("known", spread(12_345)),
    ],
    ["a note"],
    [Curve("c", "x", "y", {"ours": [(1.0, 2.0), (2.0, 3.0)]}, logarithmic=True, spans={"quiet": (1.0, 1.5)})],
    {"seed": 1},
    [Table(["phase", "queries"], [["quiet", "12"]])],
)


def test_the_table_says_what_was_measured_and_what_was_missed() -> None:
    lines = format_table(REPORT.figures).splitlines()
    assert lines[2] == "| fast | 2 [1-3] ms | 2 ms | 1 [0.5-1.6] | ≤ 1.5 x baseline | yes |"
    assert lines[3] == "| exact | 0.9999 |  |  | ≥ 0.9999 | **no** |"
    assert lines[4] == "| known | 12,345 |  |  |  |  |"
    assert REPORT.missed == ["exact"]
    assert format_spread(None) == ""


def test_a_report_survives_json() -> None:
    again = read_report(json.loads(json.dumps(REPORT.to_json())))
    assert again == REPORT


def test_tables_stand_behind_the_figures() -> None:
    assert "| phase | queries |\n| --- | ---: |\n| quiet | 12 |" in format_report(REPORT)


def test_the_summary_names_what_was_missed_and_what_broke() -> None:
    summary = run_all.summarise([REPORT], ["search failed with exit code 1:\nTraceback"])
    assert "1 of 2 goals met" in summary
    assert "- example: exact" in summary
    assert "- search failed with exit code 1:" in summary


def test_every_curve_becomes_a_picture(tmp_path: Path) -> None:
    [picture] = plot_curves(REPORT.curves, tmp_path, "example")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--strict"], 1)])
def test_a_missed_goal_fails_only_when_asked_to(
    flags: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = Report("example", [REPORT.figures[1]])
    assert run_benchmark("example", "", lambda _parser: None, lambda _options: missed, ["--json", *flags]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["missed"] == ["exact"]
    assert document["facts"]["cores"] >= 1


def test_made_up_passages_are_the_same_for_a_seed_and_have_a_topic() -> None:
    first, again, other = (list(corpora.make_passages(20, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(set(row["title"].split()) & set(row["text"].rstrip(".").split()) for row in first)


def test_shards_select_what_they_say() -> None:
    rows = corpora.add_shards([{"id": str(n), "title": "", "text": "x"} for n in range(20_000)], seed=1)
    for key, share in corpora.SELECTIVITIES.items():
        selected = sum(row["metadata"][key] == 0 for row in rows) / len(rows)
        assert selected == pytest.approx(share, rel=0.4), key


# --- what a swap's benchmark judges by --------------------------------------------------------------------


def make_space(number: int, model: str, seed: int) -> Space:
    """Three chunks and two queries in a random space of eight dimensions."""
    chosen = np.random.default_rng(seed)
    generation = Generation(number, number, model, number, 8, 1, {}, "ready", f"i{number}", None, {}, datetime.now(UTC))
    return Space(generation, dict(enumerate(normalise(chosen.normal(size=(3, 8))))), normalise(
        chosen.normal(size=(2, 8))))  # fmt: skip


SPACES = {1: make_space(1, "old", 1), 2: make_space(2, "new", 2)}
SERVED = [Served(1, 0, 100), Served(2, 99, 200), Served(1, 199, float("inf"))]


def make_answer(space: Space, query: np.ndarray, at: float, **changes: Any) -> Answer:
    number = space.generation.id
    hits = [(chunk, float(query @ vector), number) for chunk, vector in space.vectors.items()]
    made = Answer(0, "vector", at, at, at + 0.1, generation=number, model=space.generation.model, hits=hits)
    return replace(made, **changes)


OLD, NEW = SPACES[1], SPACES[2]
TRUE = make_answer(OLD, OLD.queries[0], 50)
PROVENANCE = [
    (TRUE, "", "its own query, its own ledger, while it served"),
    (make_answer(NEW, NEW.queries[0], 150), "", "the same of the other one"),
    (make_answer(OLD, OLD.queries[0], 99.5), "", "while the pointer moves either is right"),
    (make_answer(OLD, NEW.queries[0], 50), "cosines", "one model's query against the other's vectors"),
    (replace(make_answer(NEW, NEW.queries[0], 50), generation=1, model="old"), "hits of [2]", "the other's index"),
    (replace(TRUE, hits=[(c, s, 1) for c, s, _ in make_answer(NEW, NEW.queries[0], 50).hits]), "cosines", "unsaid"),
    (replace(TRUE, model="new"), "is of old", "a name that is not the generation's"),
    (replace(TRUE, embedded_by="new"), "embedded by new", "a query of another model"),
    (make_answer(OLD, OLD.queries[0], 150), "did not serve", "an answer from what served before"),
    (replace(TRUE, generation=7), "unknown", "a generation that is not there"),
    (replace(TRUE, hits=[(9, 0.5, 1)]), "cosines", "a chunk that the ledger has no vector of"),
    (replace(TRUE, hits=[(0, None, 1)]), "no cosine", "nothing to go by"),
    (replace(TRUE, hits=[(0, None, 1)], degraded="the model is away"), "", "words alone, and it says so"),
    (replace(TRUE, error="TimeoutError"), "", "a failure is counted elsewhere"),
]


@pytest.mark.parametrize(("answer", "expected", "reason"), PROVENANCE, ids=[row[2] for row in PROVENANCE])
def test_an_answer_is_of_one_model_and_one_generation(answer: Answer, expected: str, reason: str) -> None:
    found = judge_provenance(answer, SPACES, SERVED)
    assert bool(found) == bool(expected), reason
    assert expected in found


def test_a_check_that_could_not_have_told_says_so() -> None:
    alike = {1: OLD, 2: replace(NEW, queries=OLD.queries)}
    assert verify_answers([TRUE], SPACES, SERVED).blind == 0
    assert verify_answers([TRUE], alike, SERVED).blind == 1


def test_a_map_between_spaces_is_found() -> None:
    chosen = np.random.default_rng(3)
    turned = np.linalg.qr(chosen.normal(size=(8, 8)))[0]
    source = normalise(chosen.normal(size=(500, 8)))
    assert np.allclose(fit_map(source, source @ turned), turned, atol=0.01)


def test_a_slow_phase_is_a_missed_goal_but_for_the_index_build_and_for_few_queries() -> None:
    phases = [Phase("quiet", 0, 100), Phase("index build", 100, 200), Phase("soak", 200, 300), Phase("load", 300, 305)]
    answers = [Answer(0, "vector", due, due, due + (0.010 if due < 100 else 0.016)) for due in map(float, range(305))]
    figures, table = swap.describe_phases(phases, answers, [""] * 304 + ["mixed"])
    assert [figure.met for figure in figures] == [None, None, False, None]
    assert [row[1:5] for row in table.rows] == [
        ["100.0", "100", "0", "0"],
        ["100.0", "100", "0", "0"],
        ["100.0", "100", "0", "0"],
        ["5.0", "5", "0", "1"],
    ]


# --- every script, on something small --------------------------------------------------------------------


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    """A document of three revisions: as it was, with a link moved, with a sentence changed."""
    sections = [f"## Part {n}\n\n" + f"Sentence {n} of [the guide](https://a.b/{n}). " * 8 for n in range(6)]
    moved = [section.replace("https://a.b/", "https://c.d/") for section in sections]
    edited = [*moved[:3], moved[3] + "One more.", *moved[4:]]
    rows = []
    for number, body in enumerate((sections, moved, edited)):
        path = tmp_path / "doc" / f"{number}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("# Guide\n\n" + "\n\n".join(body) + "\n", encoding="utf-8")
        rows.append(json.dumps({"doc": "doc", "file": f"doc/{number}.md"}))
    (tmp_path / "versions.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def test_chunk_reuse_counts_a_moved_link_as_nothing_and_an_edit_as_one_chunk(
    histories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(histories), "--short", "--json"]
    assert run_benchmark("chunk_reuse", "", chunk_reuse.add_arguments, chunk_reuse.measure, flags) == 0
    report = read_report(json.loads(capsys.readouterr().out))
    ours = {figure.what.partition(": ")[2]: figure for figure in report.figures}
    shares = ours[f"new chunks per revision, against {chunk_reuse.PLAIN}"]
    count_tokens = chunk_reuse.open_token_counter()
    chunks = len(chunk_reuse.find_chunkers(500, count_tokens)[chunk_reuse.OURS]("Guide", (
        histories / "doc/2.md").read_text(encoding="utf-8")))  # fmt: skip
    # nothing of the second revision, one chunk of the third: half of one in so many on average
    assert shares.ours.median == pytest.approx(100 / chunks / 2)
    assert shares.baseline is not None
    assert shares.baseline.median > 50
    assert report.curves[0].series[chunk_reuse.OURS][0][1] == report.curves[0].series[chunk_reuse.OURS][1][1]


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Six hundred passages of words the tiny model knows, where the benchmarks look for the shared data."""
    chosen = random.Random(5)
    folder = tmp_path / "load-cppdocs-en"
    rows = [{"id": f"r{n}", "title": f"Row {n}", "text": make_text(chosen, 40)} for n in range(600)]
    corpora.write_rows(folder / "corpus.jsonl", rows)
    with gzip.open(folder / "corpus.jsonl.gz", "wb") as packed:
        packed.write((folder / "corpus.jsonl").read_bytes())
    asked = rows[:40]
    queries = [{"id": f"q{n}", "text": " ".join(row["text"].split()[4:12])} for n, row in enumerate(asked)]
    corpora.write_rows(folder / "queries.jsonl", queries)
    judged = "".join(f"q{n}\t{row['id']}\t1\n" for n, row in enumerate(asked))
    (folder / "qrels.tsv").write_text(judged, encoding="utf-8")
    monkeypatch.setenv("RAG_TEST_DATA", str(tmp_path))
    # what a user has set must not reach a benchmark
    monkeypatch.setenv("RAG_DATABASE_URL", "postgresql://nobody@localhost:1/nowhere")
    return folder


def measure_small(name: str, module: ModuleType, flags: list[str], capsys: pytest.CaptureFixture[str]) -> Report:
    assert run_benchmark(name, "", module.add_arguments, module.measure, ["--short", "--json", *flags]) == 0
    return read_report(json.loads(capsys.readouterr().out))


def medians(report: Report) -> dict[str, float]:
    return {figure.what: figure.ours.median for figure in report.figures}


@pytest.mark.usefixtures("small_data")
def test_search_is_compared_with_the_bare_query_and_with_exact_results(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", f"model2vec:{tiny_model}", "--passages", "600", "--queries", "20"]
    report = measure_small("search", search, flags, capsys)
    found = medians(report)
    assert found["filter 50 %: full LIMIT"] == found["filter 1 %: full LIMIT"] == 100
    assert found["no filter: recall@10"] > 0.9
    assert {figure.ratio.count for figure in report.figures if figure.ratio} == {search.ROUNDS}
    assert report.facts["passages"] == 600


@pytest.mark.usefixtures("small_data")
def test_ingest_finds_every_change_it_times(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", f"model2vec:{tiny_model}", "--passages", "600", "--repeats", "2"]
    report = measure_small("ingest", ingest, flags, capsys)
    assert report.facts["rows"] == 600
    assert 50 < medians(report)["peak memory, all rows against a tenth"] < 1536


@pytest.mark.usefixtures("small_data")
def test_load_and_build_is_timed_with_the_words_and_without(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", f"model2vec:{tiny_model}", "--passages", "600", "--repeats", "2"]
    report = measure_small("load_build", load_build, flags, capsys)
    found = medians(report)
    assert found["load, with the words"] > found["load, words there"] > 0
    assert found["load and build, words there"] == pytest.approx(found["load, words there"] + found["build"], rel=0.5)


@pytest.mark.usefixtures("small_data")
def test_the_embedding_stage_gives_the_librarys_vectors_and_embeds_nothing_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = medians(measure_small("embedding", embedding, ["--texts", "6", "--repeats", "2"], capsys))
    assert found["texts embedded by a second run"] == 0
    assert found["least cosine to the library's vector"] > 0.9999


@pytest.mark.usefixtures("small_data")
def test_a_swap_under_traffic_fails_no_query_mixes_no_models_and_loses_no_document(
    tiny_model: Path, other_tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--model", f"model2vec:{tiny_model}", "--candidate", f"model2vec:{other_tiny_model}"]
    report = measure_small("swap", swap, [*models, "--passages", "600", "--sample", "0", "--seconds", "4"], capsys)
    assert report.missed == []
    rows = {row[0]: row for row in report.tables[0].rows}
    assert [*rows] == list(report.curves[0].spans)
    assert int(rows["soak"][2]) == pytest.approx(40, abs=5)
    found = medians(report)
    assert found["queries failed"] == found["answers that mix models or generations"] == 0
    assert found["found after the rollback by their vector: documents written during the soak"] == 100


def test_retrieval_measures_both_legs_and_their_fusion(
    small_data: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(small_data.parent / small_data.name), "--model", f"model2vec:{tiny_model}"]
    (small_data / "corpus.jsonl.gz").unlink()
    report = measure_small("retrieval", retrieval, flags, capsys)
    found = medians(report)
    assert found[f"{small_data.name}: nDCG@10 lexical"] > 0.9, "eight words in a row name their passage"
    assert len(report.figures) == 3


def test_one_table_is_written_and_a_broken_benchmark_is_an_error(histories: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert run_all.main(["--only", "chunk_reuse", "--results", str(results)]) == 0
    assert "chunk_reuse" in (results / "report.md").read_text(encoding="utf-8")
    assert json.loads((results / "report.json").read_text(encoding="utf-8"))["broken"] == []
    reason = run_all.run_script("chunk_reuse", ["--data", str(histories), "--size", "1"])
    assert isinstance(reason, str)
    assert "chunk size of 1" in reason
