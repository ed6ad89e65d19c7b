from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rag_pipeline.automation.decisions import (
    Attempts,
    BuildState,
    Candidate,
    ModelState,
    RebuildState,
    Request,
    SourceLook,
    decide_again,
    decide_builds,
    decide_comparisons,
    decide_ingests,
    decide_new_models,
    decide_promotion,
    decide_rebuild,
    is_covered,
    list_gaps,
    list_refusals,
)


@pytest.mark.parametrize(
    ("stored", "seen", "asked", "expected"),
    [
        ("a", "a", {}, False),  # nothing changed
        ("a", "b", {}, True),  # changed
        ("a", "b", {"s": ("b", 1)}, False),  # asked for already: running, or failed and left to the schedule
        ("a", "c", {"s": ("b", 1)}, True),  # changed again before it was read
        ("a", None, {}, False),  # not mounted: nothing to read
        (None, "a", {}, True),  # registered, never read whole
    ],
)
def test_a_source_is_asked_for_once_per_look_that_differs_from_what_was_read(stored, seen, asked, expected):
    requests, _ = decide_ingests([SourceLook("s", stored, seen)], asked)
    assert bool(requests) is expected


def test_a_look_that_comes_back_gets_a_new_run_key():
    asked: dict[str, tuple[str, int]] = {}
    keys = []
    for stored, seen in [("a", "b"), ("b", "b"), ("b", "a"), ("a", "a"), ("a", "b")]:
        requests, asked = decide_ingests([SourceLook("s", stored, seen)], asked)
        keys += [request.run_key for request in requests]
    assert len(keys) == 3
    assert len(set(keys)) == 3


def test_two_sources_with_the_same_content_have_different_run_keys():
    requests, _ = decide_ingests([SourceLook("s", None, "a"), SourceLook("t", None, "a")], {})
    assert len({request.run_key for request in requests}) == 2


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ModelState("m", "probed", "ab" * 16, False), True),
        (ModelState("m", "registered", "", False), True),  # the run probes it
        (ModelState("m", "probed", "ab" * 16, True), False),  # has its partition: was asked for
        (ModelState("m", "refused", "", False), False),
        (ModelState("m", "retired", "ab" * 16, False), False),
        (ModelState("a|b", "probed", "ab" * 16, False), False),  # would break the partition key
        (ModelState("a,b", "probed", "ab" * 16, False), False),  # would break a list of keys
    ],
)
def test_a_usable_model_without_a_partition_is_asked_for(model, expected):
    assert bool(decide_new_models([model], {})[0]) is expected


def test_a_model_that_cannot_be_used_is_named_with_the_reason():
    _, left_out = decide_new_models([ModelState("bad", "refused", "", False)], {})
    assert left_out == {"bad": "it was refused"}


def test_a_model_whose_partition_was_deleted_by_hand_is_a_new_request():
    model = ModelState("m", "probed", "ab" * 16, False)
    first, second = decide_new_models([model], {})[0][0], decide_new_models([model], {"m": 1})[0][0]
    assert first.run_key != second.run_key


def test_a_changed_fingerprint_is_another_run_key():
    keys = {decide_new_models([ModelState("m", "probed", f, False)], {})[0][0].run_key for f in ("aa" * 16, "bb" * 16)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("state", "busy", "expected"),
    [
        (BuildState("m", "ab", (10, 0), False), False, True),
        (BuildState("m", "ab", (10, 1), False), False, False),  # a chunk has no vector yet
        (BuildState("m", "ab", (0, 0), False), False, False),  # nothing to index
        (BuildState("m", "ab", (10, 0), True), False, False),  # built, or given up, before
        (BuildState("m", "ab", (10, 0), False), True, False),  # one builds at a time
    ],
)
def test_an_index_is_built_when_its_vectors_are_complete_and_nobody_builds(state, busy, expected):
    assert bool(decide_builds([state], {"index": {}}, busy)) is expected


def test_two_models_are_built_one_after_the_other():
    states = [BuildState(slug, "ab", (10, 0), False) for slug in ("m", "n")]
    assert [request.subject for request in decide_builds(states, {}, False)] == ["m"]


def test_another_recipe_is_another_build():
    state = BuildState("m", "ab", (10, 0), False)
    keys = {decide_builds([state], {"m": m}, False)[0].run_key for m in (16, 32)}
    assert len(keys) == 2


MB = 1 << 20
SOUND = RebuildState(7, "m", 100_000, 1_000, 1_000, 100 * MB, 100 * MB)


@pytest.mark.parametrize(
    ("changes", "limit", "why"),
    [
        ({}, 0.5, None),  # nothing drifted far
        ({"inserted": 30_000, "deleted": 20_000}, 0.5, "50,000 rows came or went"),
        ({"inserted": 30_000, "deleted": 19_999}, 0.5, None),
        ({"inserted": 90_000, "deleted": 90_000}, 0, None),  # switched off
        ({"inserted": 90_000, "newer": True}, 0.5, None),  # one stands beside it already
        ({"rows_at_build": 80, "inserted": 500, "deleted": 499}, 0.5, None),  # too small to matter
        ({"rows_at_build": 0, "inserted": 1_000, "deleted": 0}, 0.5, "1,000 rows came"),  # built empty, filled since
        ({"index_bytes": 151 * MB}, 0.5, "51 MB larger than its rows need"),
        ({"index_bytes": 12 * MB, "planned_bytes": 5 * MB}, 0.5, None),  # a few pages
        ({"index_bytes": 151 * MB, "deleted": 0, "inserted": 10}, 0.5, None),  # nothing died: the plan is off
        ({"recall_lost": "recall is lost", "inserted": 9_000}, 0.5, "recall is lost"),
        ({"recall_lost": "recall is lost"}, 0.5, None),  # the same graph would come out again
    ],
)
def test_a_fresh_index_is_asked_for_where_the_one_that_serves_has_drifted(changes, limit, why):
    requests = decide_rebuild(replace(SOUND, **changes), limit, False)
    assert bool(requests) is (why is not None)
    assert all(why in request.reason and request.subject == "m" for request in requests)


def test_no_fresh_index_is_asked_for_while_one_builds_or_nothing_serves():
    drifted = replace(SOUND, inserted=90_000)
    assert decide_rebuild(drifted, 0.5, True) == []
    assert decide_rebuild(None, 0.5, False) == []


def test_a_rebuild_that_came_to_nothing_is_asked_for_again_only_after_as_much_drift_again():
    keys = [decide_rebuild(replace(SOUND, inserted=n, deleted=0), 0.5, False)[0].run_key
            for n in (50_000, 99_999, 100_000)]  # fmt: skip
    assert keys == ["rebuild-7-1", "rebuild-7-1", "rebuild-7-2"]
    assert decide_rebuild(replace(SOUND, generation=8, inserted=50_000), 0.5, False)[0].run_key == "rebuild-8-1"


READY = Candidate(2, "m", "ready", 7, True, 1)


@pytest.mark.parametrize(
    ("candidate", "serving", "policy", "expected"),
    [
        (READY, 1, "auto", True),
        (READY, 1, "manual", False),  # a person decides
        (Candidate(1, "m", "ready", 7, True, None), None, "manual", True),  # the first one: nobody is served yet
        (Candidate(1, "m", "ready", 7, False, None), None, "auto", False),  # the verdict says no
        (Candidate(2, "m", "ready", None, False, None), 1, "auto", False),  # not compared yet
        (Candidate(2, "m", "soaking", 7, True, 1), 1, "auto", False),  # rolled back on purpose
        (Candidate(2, "m", "ready", 7, True, 9), 1, "auto", False),  # compared with what does not serve any more
    ],
)
def test_a_candidate_serves_by_itself_only_where_policy_and_verdict_allow(candidate, serving, policy, expected):
    assert bool(decide_promotion([candidate], serving, policy)) is expected


def test_of_two_good_candidates_the_newer_serves():
    newer = Candidate(3, "n", "ready", 8, True, 1)
    assert [r.subject for r in decide_promotion([READY, newer], 1, "auto")] == ["n"]


def test_the_sweep_asks_only_for_models_with_gaps_and_from_the_first_to_the_last():
    gaps = list_gaps({"b": [7, 3], "a": [], "c": [0]}, "20260101")
    assert [(request.subject, first, last) for request, first, last in gaps] == [("b", 3, 7), ("c", 0, 0)]
    assert len({request.run_key for request, _, _ in gaps}) == 2


NOW = datetime(2026, 1, 2, tzinfo=UTC)
REQUEST = Request("build-m", "m", "why")


@pytest.mark.parametrize(
    ("attempts", "key"),
    [
        (Attempts(), "build-m"),  # never started
        (Attempts(settled=True), None),  # under way, done, or cancelled by a person
        (Attempts(False, 1, NOW - timedelta(minutes=9)), None),  # just failed
        (Attempts(False, 1, NOW - timedelta(minutes=10)), "build-m-again-1"),
        (Attempts(False, 2, NOW - timedelta(minutes=19)), None),  # twice as long the second time
        (Attempts(False, 2, NOW - timedelta(minutes=20)), "build-m-again-2"),
        (Attempts(False, 40, NOW - timedelta(days=1)), "build-m-again-40"),  # at least once a day
        (Attempts(True, 3, NOW - timedelta(days=9)), None),  # the fourth is under way, or went well
    ],
)
def test_what_failed_is_asked_for_again_later_and_later_under_a_new_key(attempts, key):
    again = decide_again(REQUEST, attempts, NOW)
    assert (again and again.run_key) == key
    assert again is None or again.key == "build-m"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ModelState("m", "probed", "ab" * 16, True, None, True), "embed-m-abababababab-1"),  # begun, not ended
        (ModelState("m", "probed", "ab" * 16, True, None, False), None),
        (ModelState("m", "probed", "ab" * 16, False, "it drifted", False), None),
        (ModelState("m", "probed", "ab" * 16, True, "it drifted", True), None),
    ],
)
def test_what_was_begun_is_the_same_request_and_a_model_that_is_wrong_is_none(model, expected):
    requests, left_out = decide_new_models([model], {"m": 1} if model.partitioned else {})
    assert [r.run_key for r in requests] == ([expected] if expected else [])
    assert left_out == ({"m": "it drifted"} if model.wrong else {})


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (ModelState("m", "refused", "", True, "a pickle"), {"m": "a pickle"}),
        (ModelState("m", "refused", "", False, "a pickle"), {}),  # told already, or told the person who added it
        (ModelState("a|b", "registered", "", False), {"a|b": "its slug cannot be a partition key"}),
        (ModelState("m", "probed", "ab", True), {}),
    ],
)
def test_a_refused_model_is_told_of_once_when_its_partition_goes(model, told):
    found = list_refusals([model])
    assert found.keys() == told.keys()
    assert all(found[slug].startswith(reason) for slug, reason in told.items())


@pytest.mark.parametrize(
    ("chunks", "missing", "expected"),
    [(100, 0, True), (100, 5, True), (100, 6, False), (10, 1, False), (0, 0, False)],
)
def test_an_index_is_built_with_the_little_that_came_in_since(chunks, missing, expected):
    assert is_covered(chunks, missing) is expected


def test_a_build_that_was_begun_comes_before_a_new_one():
    new = BuildState("a", "ab", (10, 0), False)
    begun = BuildState("m", "ab", (0, 0), True, begun=7)
    requests = decide_builds([new, begun], {"m": 16}, False)
    assert [(r.subject, r.run_key) for r in requests] == [("m", "finish-7")]


@pytest.mark.parametrize(
    ("candidate", "serving", "policy", "expected"),
    [
        (Candidate(2, "m", "ready", None, False, None), 1, "manual", True),  # its comparison failed
        (Candidate(2, "m", "ready", 7, True, 9), 1, "auto", True),  # compared with what was replaced
        (Candidate(2, "m", "ready", 7, True, 9), 1, "manual", False),  # a person decides, and may ask
        (Candidate(2, "m", "ready", 7, False, 9), 1, "auto", False),  # it was not good enough
        (Candidate(2, "m", "ready", 7, True, 1), 1, "auto", False),  # up to date
        (Candidate(2, "m", "soaking", None, False, None), 1, "auto", False),
    ],
)
def test_a_candidate_without_a_valid_verdict_is_compared_again(candidate, serving, policy, expected):
    assert bool(decide_comparisons([candidate], serving, policy)) is expected
