from datetime import UTC, datetime

import pytest

from rag_pipeline.embeddings.backpressure import RetryPolicy, decide_retry, parse_retry_after

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
POLICY = RetryPolicy(total=100, first=1, longest=20)


@pytest.mark.parametrize(
    ("headers", "seconds", "reason"),
    [
        ({"Retry-After": "7"}, 7.0, "a number of seconds"),
        ({"retry-after": "0"}, 0.0, "at once"),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25, "the finer one"),
        ({"Retry-After": "Sat, 21 Nov 2026 12:00:30 GMT"}, 30.0, "a date"),
        ({"Retry-After": "Sat, 21 Nov 2026 11:00:00 GMT"}, 0.0, "a date gone by"),
        ({"Retry-After": "soon"}, None, "nonsense is no header"),
        ({}, None, "none"),
    ],
)
def test_retry_after_is_read_in_every_form(headers, seconds, reason):
    assert parse_retry_after(headers, NOW) == seconds, reason


@pytest.mark.parametrize(
    ("attempt", "elapsed", "retry_after", "jitter", "wait", "reason"),
    [
        (0, 0, None, 0.0, 0.5, "half of the first wait at least"),
        (0, 0, None, 1.0, 1.0, "the whole of it at most"),
        (3, 0, None, 1.0, 8.0, "doubling"),
        (40, 0, None, 1.0, 20.0, "up to the longest"),
        (0, 0, 30.0, 0.0, 30.0, "the server's wait is never shortened"),
        (0, 0, 30.0, 1.0, 33.0, "but spread"),
        (0, 90, 30.0, 0.0, None, "nothing beyond the total"),
        (9, 99.9, None, 0.0, None, "nothing beyond the total"),
    ],
)
def test_a_wait_grows_keeps_to_the_server_and_ends(attempt, elapsed, retry_after, jitter, wait, reason):
    decision = decide_retry(attempt=attempt, elapsed=elapsed, retry_after=retry_after, jitter=jitter, policy=POLICY)
    assert decision.wait == (None if wait is None else pytest.approx(wait)), reason
