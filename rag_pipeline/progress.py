"""Progress of long work: who works calls `track`, who watches installs a reporter."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import TaskID

Advance = Callable[[int], None]


class Reporter(Protocol):
    """Shows the progress of work; pieces may lie inside one another."""

    def start(self, name: str, total: int | None, unit: str) -> Advance:
        """Begin a bar; the returned function moves it by n units."""

    def stop(self) -> None:
        """End the bar begun last."""


class SilentReporter:
    """Shows nothing."""

    def start(self, name: str, total: int | None, unit: str) -> Advance:  # noqa: ARG002
        return lambda _n: None

    def stop(self) -> None:
        return


class LogReporter:
    """Writes a line at most every `seconds`: for Dagster's event log, where a bar cannot be."""

    def __init__(self, log: Callable[[str], None], seconds: float = 10) -> None:
        self.log, self.seconds = log, seconds

    def start(self, name: str, total: int | None, unit: str) -> Advance:
        began = last = time.monotonic()
        done = 0

        def advance(n: int) -> None:
            nonlocal last, done
            done += n
            now = time.monotonic()
            if now - last < self.seconds:
                return
            last, rate = now, done / (now - began)
            left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
            self.log(f"{name}: {done:,}{f' of {total:,}' if total else ''} {unit}, {rate:,.0f}/s{left}")

        return advance

    def stop(self) -> None:
        return


class BarReporter:
    """A bar with rate and time left on standard error; silent where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TaskProgressColumn as Share

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            Share(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.tasks: list[TaskID] = []

    def start(self, name: str, total: int | None, unit: str) -> Advance:
        self.progress.start()
        task = self.progress.add_task(name, total=total, rate="")
        self.tasks.append(task)
        began, done = time.monotonic(), 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            rate = done / max(time.monotonic() - began, 1e-6)
            self.progress.update(task, advance=n, rate=f"{rate:,.0f} {unit}/s")

        return advance

    def stop(self) -> None:
        self.progress.remove_task(self.tasks.pop())
        if not self.tasks:
            self.progress.stop()


_reporter: ContextVar[Reporter] = ContextVar("reporter", default=SilentReporter())  # noqa: B039 - has no state


@contextmanager
def report_to(reporter: Reporter) -> Iterator[None]:
    """Show the progress of everything called inside."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def track(name: str, total: int | None, unit: str) -> Iterator[Advance]:
    """One piece of work; the yielded function moves its bar."""
    reporter = _reporter.get()
    advance = reporter.start(name, total, unit)
    try:
        yield advance
    finally:
        reporter.stop()
