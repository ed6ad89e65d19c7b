"""A fault run: one undisturbed life, then disturbed ones until everything that was asked for has been done."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rag_pipeline_tests.faults.commands import live_by_commands
from rag_pipeline_tests.faults.driver import BreachError, Outcome, Plan, live, make_models
from rag_pipeline_tests.faults.ends import Rows, check_substance, compare_ends
from rag_pipeline_tests.faults.steps import list_store_functions

# In the first life a step is killed at by chance at any of its occasions, in the next at the first one.
FIRST_CHANCE = 0.4
# What one life has room for: it ends in the middle of the rest otherwise.
KILLS_A_LIFE, STOPS_A_LIFE = 25, 8


@dataclass(frozen=True)
class Wanted:
    """What a fault run must do before it is over. `most_steps`: only so many of the steps, drawn by the
    seed, in one life with all the rest."""

    steps: bool
    kills: int
    stops: int
    commands: int
    most_steps: int | None = None

    def describe(self) -> str:
        """As options of the program."""
        return f"--kills {self.kills} --stops {self.stops} --commands {self.commands}" + (
            "" if self.steps else " --no-steps"
        )


class FaultRun:
    """Plays the lives and keeps count. Raises `BreachError` at the first broken promise."""

    def __init__(self, folder: Path, seed: int, wanted: Wanted, deadline: float, say: Callable[[str], None]) -> None:
        self.folder, self.seed, self.wanted, self.deadline, self.say = folder, seed, wanted, deadline, say
        self.total = Outcome()
        self.by_command: Counter[str] = Counter()
        self.lives = 0
        self.steps: set[str] = set()
        self.steps_left: set[str] = set()
        self.unspent = ""
        self.ends = 0
        self.breaches = 0

    def go(self) -> None:
        """The whole run, up to the first broken promise."""
        try:
            self._go()
        except BreachError:
            self.breaches += 1
            raise

    def _go(self) -> None:
        models = make_models(self.folder / "models", self.seed)
        calm = live(self.folder / "calm", models, self.seed, Plan())
        check_substance(calm.end)
        self.steps = choose_steps(calm.reached, self.wanted, self.seed)
        self.steps_left = set(self.steps)
        self.say(
            f"undisturbed: {calm.seconds:.0f} s, {sum(calm.looks.values()):,} checks, "
            f"{len(self.steps)} steps to kill at"
        )
        kills, stops = self.wanted.kills, self.wanted.stops
        while (self.steps_left or kills > 0 or stops > 0) and time.monotonic() < self.deadline:
            plan = self._plan(kills, stops)
            outcome = live(self.folder / f"life{self.lives + 1}", models, self.seed, plan)
            self._add(outcome, calm.end)
            kills, stops = kills - outcome.kills, stops - outcome.stops
        if self.wanted.commands and time.monotonic() < self.deadline:
            self._go_by_commands(models)
        elif self.wanted.commands:
            self.unspent = f"{self.wanted.commands} kills of commands; "
        if self.steps_left or kills > 0 or stops > 0:
            self.unspent += f"{kills} kills, {stops} stops, steps {sorted(self.steps_left)}"

    def _plan(self, kills: int, stops: int) -> Plan:
        if self.wanted.most_steps is not None:
            return Plan(set(self.steps_left), min(kills, KILLS_A_LIFE), min(stops, STOPS_A_LIFE))
        if self.steps_left:
            first = self.lives == 0
            return Plan(steps=set(self.steps_left), chance=FIRST_CHANCE if first else 1.0)
        return Plan(kills=min(kills, KILLS_A_LIFE), stops=min(stops, STOPS_A_LIFE))

    def _add(self, outcome: Outcome, calm_end: Rows) -> None:
        self.lives += 1
        if differences := compare_ends(calm_end, outcome.end):
            raise BreachError(
                f"life {self.lives} came to another end than an undisturbed one:\n" + "\n".join(differences)
            )
        self.ends += 1
        self.steps_left -= set(outcome.killed)
        self.total.killed += outcome.killed
        self.total.kills += outcome.kills
        self.total.stops += outcome.stops
        self.total.restarts += outcome.restarts
        self.total.looks += outcome.looks
        self.say(
            f"life {self.lives}: {outcome.seconds:.0f} s, {sum(outcome.killed.values())} kills at steps, "
            f"{outcome.kills} at random moments, {outcome.stops} stops; the same end"
        )

    def _go_by_commands(self, models: Path) -> None:
        calm, durations = live_by_commands(self.folder / "calm_commands", models, self.seed, 0)
        left = self.wanted.commands
        killed, _ = live_by_commands(self.folder / "commands", models, self.seed, left, durations)
        if differences := compare_ends(calm.end, killed.end):
            raise BreachError("killed commands came to another end than calm ones:\n" + "\n".join(differences))
        self.ends += 1
        self.by_command = killed.killed
        if killed.kills < left:
            self.unspent = f"{left - killed.kills} kills of commands; "
        self.total.looks += killed.looks
        self.say(f"commands: {killed.seconds:.0f} s, {killed.kills} of {left} killed before they ended; the same end")

    def report(self) -> str:
        """What was done, as lines for a person."""
        at_steps = sum(self.total.killed.values())
        lines = ["", "kills by step"]
        lines += [f"  {count:4}  {step}" for step, count in sorted(self.total.killed.items())]
        lines += [f"  {count:4}  {command}" for command, count in sorted(self.by_command.items())]
        never = sorted(list_store_functions().keys() - self.steps)
        lines += [f"not reached by a swap: {', '.join(never)}", ""]
        lines += [
            f"lives                  {self.lives}",
            f"kills at named steps   {at_steps} at {len(self.total.killed)} of {len(self.steps)} steps",
            f"kills at random        {self.total.kills}",
            f"kills of commands      {sum(self.by_command.values())}",
            f"stops of PostgreSQL    {self.total.stops}",
            f"restarts of workers    {self.total.restarts}",
            f"ends equal to the undisturbed one, row by row: {self.ends}",
            f"breaches               {self.breaches}",
        ]
        lines += [f"checks: {name:<24} {count:,}" for name, count in sorted(self.total.looks.items())]
        return "\n".join(lines)

    def clean(self) -> None:
        """Give the disk back."""
        shutil.rmtree(self.folder, ignore_errors=True)


def choose_steps(reached: set[str], wanted: Wanted, seed: int) -> set[str]:
    """The steps to be killed at: all that a calm life came to, or some of them."""
    steps = sorted(step for step in reached if not step.endswith("the test")) if wanted.steps else []
    if wanted.most_steps is None:
        return set(steps)
    return set(random.Random(seed).sample(steps, wanted.most_steps))
