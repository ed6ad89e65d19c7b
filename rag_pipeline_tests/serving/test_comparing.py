"""Both sides of every query, summed up."""

from rag_pipeline.serving.comparing import (
    ComparedQuery,
    Kind,
    Outcome,
    describe_comparison,
    describe_shadow,
    find_difference,
    list_figures,
)


def compared(
    name: str, candidate: list[str], baseline: list[str], figures: tuple[float, float] | None, kind: Kind = "golden"
) -> ComparedQuery:
    now, was = figures or (None, None)
    return ComparedQuery(
        kind, name, f"text of {name}", Outcome(candidate, now, now, now, 2.0), Outcome(baseline, was, was, was, 1.0)
    )


QUERIES = [
    compared("q1", ["x"], ["a"], (0.5, 1.0)),
    compared("q2", ["x"], ["a"], (0.1, 1.0)),
    compared("q3", ["a"], ["b"], (1.0, 0.0)),
]


def test_the_queries_that_got_worse_come_worst_first_with_both_lists() -> None:
    found = describe_comparison(QUERIES)
    assert (found["queries_worse"], found["queries_better"], found["overlap_at_10"]) == (2, 1, 0.0)
    assert [row["query"] for row in found["worst"]] == ["text of q2", "text of q1"]
    assert found["worst"][0]["ndcg_at_10"] == [0.1, 1.0]
    assert (found["worst"][0]["candidate"], found["worst"][0]["baseline"]) == (["x"], ["a"])


def test_every_figure_has_its_interval() -> None:
    found = describe_comparison(QUERIES)
    for name in ("ndcg_at_10", "recall_at_10", "mrr"):
        assert found["candidate"][name] == (0.5 + 0.1 + 1) / 3
        difference = found["differences"][name]
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert abs(difference["mean"] - (1.6 - 2) / 3) < 1e-9


def test_a_query_that_is_not_judged_takes_no_part_in_the_difference() -> None:
    shadow = compared("log", ["z"], ["a"], None, "shadow")
    assert find_difference([*QUERIES, shadow]) == find_difference(QUERIES)
    assert shadow.change == 0


def test_replayed_searches_are_described_by_what_they_return() -> None:
    found = describe_shadow(
        [
            compared("1", ["a", "b"], ["a", "c"], None, "shadow"),
            compared("2", ["a"], ["a"], None, "shadow"),
            compared("3", [], ["b"], None, "shadow"),
        ]
    )
    assert (found["queries"], found["without_result"]) == (3, [1, 0])
    assert found["overlap_at_10"] == (0.5 + 1 + 0) / 3
    assert found["same_first"] == 2 / 3
    assert [row["query"] for row in found["least_alike"]] == ["text of 3", "text of 1"]
    assert found["p95_ms"] == [2.0, 1.0]


def test_the_table_of_figures_names_every_difference() -> None:
    metrics = {**describe_comparison(QUERIES), "vector_ndcg_at_10": [0.4, 0.5]}
    metrics["hnsw"] = {"candidate": {"recall_at_10": 0.97, "ef_search": 80}}
    rows = {row[0]: row[1:] for row in list_figures(metrics)}
    assert rows["nDCG@10"][:2] == ("0.533", "0.667")
    assert rows["nDCG@10"][2].startswith("-0.133 (")
    assert rows["nDCG@10, vectors alone"] == ("0.400", "0.500", "-0.100")
    assert rows["HNSW recall@10, at ef_search"] == ("0.970 at 80", "", "")
    assert rows["queries"] == ("3", "3", "1 better, 2 worse")
    assert rows["search p95"] == ("2.0 ms", "1.0 ms", "2.00 times")
    assert list_figures({"embedded": 3}) == []
