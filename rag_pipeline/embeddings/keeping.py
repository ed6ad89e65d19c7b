"""What is slow to make of a model and is kept by a process: made once however many threads ask, and forgotten."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
FOREVER = float("inf")


class Kept(Generic[T]):
    """The last `most` results of `make`, by its argument tuple. A failure is not kept.

    Threads that ask for the same one wait for the first of them; `lasts` says for how many seconds a result is good.
    """

    def __init__(
        self, make: Callable[..., T], most: int, lasts: Callable[..., float] = lambda *_: float("inf")
    ) -> None:
        self._make, self._most, self._lasts = make, most, lasts
        self._found: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, *key: Hashable) -> T:
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._found and time.monotonic() - self._found[key][0] < self._lasts(*key):
                    self._found.move_to_end(key)
                    return self._found[key][1]
            value = self._make(*key)
            with self._lock:
                self._found[key] = (time.monotonic(), value)
                self._found.move_to_end(key)
                while len(self._found) > self._most:
                    self._found.popitem(last=False)
            return value

    def forget(self, *key: Hashable) -> None:
        """Let go of one result."""
        with self._lock:
            self._found.pop(key, None)

    def cache_clear(self) -> None:
        """Let go of all results."""
        with self._lock:
            self._found.clear()
