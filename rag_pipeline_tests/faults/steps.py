"""The named steps of the pipeline, found by looking: every function of a store, and every commit.

A step is killed at when its function has returned: inside the transaction it runs in, before the commit. A
commit is killed at when the server has it, before the process does anything with that.
"""

import functools
import importlib
import inspect
import os
import pkgutil
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

import rag_pipeline
from rag_pipeline.database.engine import Database

Reach = Callable[[str], None]


def list_store_functions() -> dict[str, Callable[..., Any]]:
    """Every public function of a module named `store` or `*_store` that works on a connection, by its name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.walk_packages(rag_pipeline.__path__, "rag_pipeline."):
        if module.name.endswith("store"):
            for name, function in vars(importlib.import_module(module.name)).items():
                if (
                    inspect.isfunction(function)
                    and function.__module__ == module.name
                    and not name.startswith("_")
                    and next(iter(inspect.signature(function).parameters), None) == "connection"
                ):
                    found[f"{module.name.removeprefix('rag_pipeline.')}.{name}"] = function
    return found


def watch_steps(reach: Reach) -> None:
    """From now on call `reach` with the name of every step this process comes to, wherever it was imported to."""
    replaced = {id(function): _wrap(function, name, reach) for name, function in list_store_functions().items()}
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("rag_pipeline."):
            for name, value in list(vars(module).items()):
                if id(value) in replaced:
                    setattr(module, name, replaced[id(value)])
    _watch_commits(reach)


def _wrap(function: Callable[..., Any], step: str, reach: Reach) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        reach(step)
        return result

    return call


def _watch_commits(reach: Reach) -> None:
    original = Database.transaction

    @contextmanager
    def transaction(self: Database) -> Iterator[psycopg.Connection]:
        name = _name_caller(sys._getframe(2))
        with original(self) as connection:
            yield connection
        reach(f"commit of {name}")

    Database.transaction = transaction  # type: ignore[method-assign]


def _name_caller(frame: FrameType | None) -> str:
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("rag_pipeline.") and module != "rag_pipeline.database.engine":
            return f"{module.removeprefix('rag_pipeline.')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "the test"


class Recorder:
    """Writes down every step that is reached for the first time."""

    def __init__(self, file: Path) -> None:
        self.file, self.seen = file, set[str]()

    def __call__(self, step: str) -> None:
        if step not in self.seen:
            self.seen.add(step)
            _append(self.file, step)


class Killer:
    """Kills its own process at one of the wanted steps, and writes down at which.

    With a chance below 1, a step that is reached often is killed at any of its occasions and not always the first.
    """

    def __init__(self, file: Path, wanted: set[str], chance: float, seed: str) -> None:
        self.file, self.wanted, self.chance, self.chosen = file, wanted, chance, random.Random(seed)

    def __call__(self, step: str) -> None:
        if step in self.wanted and self.chosen.random() < self.chance:
            _append(self.file, step)
            os.kill(os.getpid(), signal.SIGKILL)


def _append(file: Path, line: str) -> None:
    """One write to the file itself: nothing is in a buffer when the process dies."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)
