import pytest

from rag_pipeline.serving.recall import (
    FilterShare,
    RecallFigure,
    choose_filters,
    choose_tenants,
    choose_width,
    judge_recall,
    list_widths,
    score_recall,
    summarise_recall,
)


def figure(width: int, recall: float, low: float, high: float, queries: int = 100, scope: str = "all") -> RecallFigure:
    return RecallFigure(scope, "", width, queries, recall, low, high, 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "exact", "expected"),
    [
        ([0.9, 0.8, 0.7], [0.9, 0.8, 0.7], 1.0),
        ([0.9, 0.7, 0.6], [0.9, 0.8, 0.7], 2 / 3),  # the second was missed
        ([0.9, 0.8, 0.8], [0.9, 0.8, 0.8], 1.0),  # another copy of the same passage is as good
        ([0.9], [0.9, 0.8, 0.7], 1 / 3),  # a result that is not full lost the rest
        ([], [0.9], 0.0),
        ([0.9, 0.8, 0.8, 0.8], [0.9, 0.8], 1.0),  # more than was asked for is no more than all
    ],
)
def test_recall_is_the_share_of_the_exact_result_that_was_matched_by_score(found, exact, expected):
    assert score_recall(found, exact) == pytest.approx(expected)


def test_the_bounds_close_in_with_more_queries_and_say_nothing_of_none():
    few, many = (summarise_recall("all", "", 40, [1.0, 0.8] * n, [1.0] * 2 * n) for n in (5, 50))
    assert few.recall_at_10 == many.recall_at_10 == pytest.approx(0.9)
    assert few.low < many.low < 0.9 < many.high < few.high
    assert many.high - many.low == pytest.approx(2 * 1.645 * 0.1005 / 10, rel=0.01)
    nothing = summarise_recall("all", "", 40, [], [])
    assert (nothing.queries, nothing.low, nothing.high) == (0, 0.0, 1.0)


def test_the_ladder_starts_at_the_setting_and_never_below():
    assert list_widths(40)[:3] == [40, 60, 80]
    assert list_widths(100)[:2] == [100, 120]
    assert list_widths(1000) == [1000]


@pytest.mark.parametrize(
    ("tried", "width", "holds", "lost"),
    [
        ([figure(40, 0.97, 0.96, 0.98)], 40, True, False),
        ([figure(40, 0.95, 0.93, 0.97), figure(60, 0.97, 0.955, 0.98)], 60, True, False),  # the mean is not enough
        ([figure(800, 0.9, 0.88, 0.92), figure(1000, 0.94, 0.92, 0.96)], 1000, False, False),  # may be luck
        ([figure(800, 0.6, 0.55, 0.65), figure(1000, 0.7, 0.65, 0.75)], 1000, False, True),
        ([figure(40, 0.5, 0.2, 0.8, queries=5)], 40, True, False),  # too few to move anything
    ],
)
def test_the_narrowest_list_whose_bound_holds_the_target_is_chosen(tried, width, holds, lost):
    choice = choose_width(tried, 0.95)
    assert (choice.ef_search, choice.holds, choice.lost) == (width, holds, lost)
    assert choice.reason


def test_filters_nearest_a_tenth_and_a_hundredth_are_chosen_and_what_does_not_exist_is_skipped():
    def share(key: str, value: float) -> FilterShare:
        return FilterShare("default", key, "x", value)

    values = [share("half", 0.5), share("tenth", 0.11), share("tenth2", 0.2), share("hundredth", 0.008)]
    assert [v.key for v in choose_filters(values)] == ["tenth", "hundredth"]
    assert choose_filters([share("half", 0.5), share("thousandth", 0.001)]) == []
    assert [v.key for v in choose_filters([share("between", 0.032)])] == []
    assert [v.key for v in choose_filters([share("both", 0.0305)])] == []


def test_small_tenants_count_only_beside_others_and_with_a_whole_page():
    assert choose_tenants([("only", 500)]) == choose_tenants([]) == []
    assert choose_tenants([("big", 5000), ("tiny", 9), ("small", 10), ("mid", 50)]) == ["small", "mid"]


def test_a_loss_within_noise_is_no_loss_and_a_large_one_is_far():
    assert judge_recall([figure(40, 0.93, 0.9, 0.96)], 0.95).holds
    slight = judge_recall([figure(40, 0.93, 0.92, 0.94)], 0.95)
    assert (slight.holds, slight.far) == (False, False)
    bad = judge_recall([figure(40, 0.97, 0.96, 0.98), figure(400, 0.8, 0.7, 0.9, scope="filtered")], 0.95)
    assert (bad.holds, bad.far) == (False, True)
    assert "filtered 0.800 at ef_search 400" in bad.reason
    assert "no query" in judge_recall([], 0.95).reason
