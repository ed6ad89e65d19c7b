"""Slow things are made once, kept for a while, and let go."""

import threading
import time

import pytest

from rag_pipeline.embeddings.keeping import Kept


def test_threads_that_ask_at_once_wait_for_one_making() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        time.sleep(0.1)
        made.append(name)
        return name.upper()

    kept, found = Kept(make, 4), []
    threads = [threading.Thread(target=lambda: found.append(kept("a"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, made) == (["A"] * 5, ["a"])


def test_the_one_not_used_for_longest_goes_first_and_forget_lets_go_of_one() -> None:
    made: list[str] = []
    kept = Kept(lambda name: made.append(name) or name, 2)
    for name in ("a", "b", "a", "c", "a", "b"):
        kept(name)
    assert made == ["a", "b", "c", "b"]
    kept.forget("b")
    kept("a")
    kept("b")
    assert made == ["a", "b", "c", "b", "b"]


def test_a_result_is_made_again_after_its_time_and_a_failure_at_once() -> None:
    made: list[str] = []

    def make(name: str) -> int:
        made.append(name)
        if len(made) == 1:
            raise ValueError("not yet")
        return len(made)

    kept = Kept(make, 2, lambda _name: 0.2)
    with pytest.raises(ValueError, match="not yet"):
        kept("a")
    assert [kept("a"), kept("a")] == [2, 2]
    time.sleep(0.25)
    assert kept("a") == 3
