"""The same life by the real commands: `rag ingest`, `rag model swap` and so on, killed and simply given again.

Here Dagster is in it: a run whose process was killed must be seen as failed by the next command, and hold nothing.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from rag_pipeline.database.engine import DAGSTER_DATABASE_NAME, driver_url, open_database
from rag_pipeline_tests.faults.corpus import make_questions, make_states, write_state
from rag_pipeline_tests.faults.driver import (
    STARTER,
    BreachError,
    Outcome,
    check_orphans,
    find_url,
    stop_server,
)
from rag_pipeline_tests.faults.ends import Rows, read_end
from rag_pipeline_tests.faults.life import Place
from rag_pipeline_tests.faults.observer import observe, read_counts

COMMAND_SECONDS = 180
# Nothing of ours happens in the first part of a command: Python imports.
FIRST_MOMENT, LAST_MOMENT = 0.3, 0.95
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}


@dataclass(frozen=True)
class Command:
    """One command line; `state`: the documents are edited first; `until`: done when this model serves, if it is
    not a command that may be given twice."""

    words: tuple[str, ...]
    state: int | None = None
    until: str | None = None


def list_commands(place: Place) -> list[Command]:
    """A life in commands."""
    folder = place.folder
    ingest = ("ingest", str(folder / "own"), "--prune", "--source", "own")
    return [
        Command(ingest, state=0),
        Command(("golden", "add", "--queries", str(folder / "queries.jsonl"), "--qrels", str(folder / "qrels.tsv"))),
        Command(("model", "add", "good", place.source("good"))),
        Command(ingest, state=1),
        Command(("model", "swap", "good", "--yes", "--auto-promote")),
        Command(ingest, state=2),
        Command(("model", "rollback"), until="poor"),
        Command(ingest, state=3),
        Command(("model", "promote", "good")),
        Command(("model", "retire", "poor")),
        Command(ingest, state=4),
        Command(("doctor",)),
    ]


def live_by_commands(
    folder: Path, models: Path, seed: int, kills: int, durations: dict[int, float] | None = None
) -> tuple[Outcome, dict[int, float]]:
    """Play the life; with `kills`, so many commands are killed at random moments of their calm `durations` and given
    again. Returns what was done, and how long each command took. Raises `BreachError`."""
    folder.mkdir(parents=True)
    place = Place(folder, models, seed)
    life = _Commands(place, random.Random(f"{seed} commands {kills}"))
    began = time.monotonic()
    try:
        life.play(kills, durations or {})
    except Exception as error:
        raise BreachError(f"life {folder.name}: {error}\nState kept in {folder}/ (log, home/postgres)") from error
    finally:
        life.end()
    life.outcome.seconds = time.monotonic() - began
    shutil.rmtree(folder)
    return life.outcome, life.durations


class _Commands:
    def __init__(self, place: Place, chosen: random.Random) -> None:
        self.place, self.chosen = place, chosen
        self.outcome = Outcome()
        self.durations: dict[int, float] = {}
        self.sessions: list[int] = []
        self.observer = STARTER.Process(target=observe, args=(place, None, STARTER.RawValue("L", 0)), daemon=True)
        self.states = make_states("own", place.seed)

    def play(self, kills: int, durations: dict[int, float]) -> None:
        self._write_questions()
        commands = list_commands(self.place)
        long = sorted(durations, key=lambda n: -durations[n])[: max(1, len(commands) // 2)]
        # one that goes on where a killed one was is faster, and may end before its moment: aim at more than are wanted
        aimed = self.chosen.choices(long, k=2 * kills) if kills else []
        for number, command in enumerate(commands):
            if command.state is not None:
                write_state(self.place.folder / "own", self.states[command.state])
            for _ in range(aimed.count(number)):
                if self.outcome.kills == kills:
                    break
                self._kill(command, self.chosen.uniform(FIRST_MOMENT, LAST_MOMENT) * durations[number])
            self.durations[number] = self._give(command)
            if number == 0:
                self.url = find_url(self.place)
                self.observer.start()
            if (breach := self.place.folder / "breach").exists():
                raise BreachError(f"seen by the observer: {breach.read_text()}")
        self._check_end()

    def end(self) -> None:
        (self.place.folder / "stop").touch()
        if self.observer.pid is not None:
            self.observer.join(60)
        stop_server(self.place.home, "fast")

    def _check_end(self) -> None:
        self.outcome.end = self._read_end()
        (self.place.folder / "stop").touch()
        self.observer.join(60)
        if (breach := self.place.folder / "breach").exists():
            raise BreachError(f"seen by the observer: {breach.read_text()}")
        self.outcome.looks = read_counts(self.place.folder)
        unfinished = self._count_runs().keys() - FINISHED
        if unfinished:
            raise BreachError(f"runs are left {unfinished}: {self._count_runs()}")
        check_orphans(self.sessions)

    def _read_end(self) -> Rows:
        database = open_database(self.place.settings(database_url=self.url))
        try:
            return read_end(database)
        finally:
            database.close()

    def _count_runs(self) -> dict[str, int]:
        """Dagster's runs by their status, from its own table."""
        url = make_url(self.url).set(database=DAGSTER_DATABASE_NAME)
        with psycopg.connect(driver_url(url)) as connection:
            return dict(connection.execute("select status, count(*) from runs group by status").fetchall())

    # one command -----------------------------------------------------------------------------------

    def _give(self, command: Command) -> float:
        """Give a command and wait for its end. Returns seconds."""
        began = time.monotonic()
        if command.until is None or self._read_serving() != command.until:
            code = self._start(command).wait(timeout=COMMAND_SECONDS)
            if code:
                log = "\n".join((self.place.folder / "log").read_text().splitlines()[-15:])
                raise BreachError(f"rag {' '.join(command.words)} failed with exit code {code}: {log}")
        return time.monotonic() - began

    def _kill(self, command: Command, seconds: float) -> None:
        if command.until is not None and self._read_serving() == command.until:
            return
        process = self._start(command)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.outcome.kills += 1
            self.outcome.restarts += 1
            self.outcome.killed[
                f"rag {' '.join(command.words[:2] if command.words[0] == 'model' else command.words[:1])}"
            ] += 1

    def _start(self, command: Command) -> subprocess.Popen[bytes]:
        settings = self.place.settings()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "DAGSTER"))}
        environment |= {
            "RAG_HOME": str(self.place.home),
            "RAG_MODEL": settings.model,
            "RAG_MODEL_SLUG": settings.model_slug,
            "RAG_NOT_WORSE_MARGIN": str(settings.not_worse_margin),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        with (self.place.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rag_pipeline.cli", *command.words],
                env=environment,
                cwd=self.place.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.sessions.append(process.pid)
        return process

    def _read_serving(self) -> str | None:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(
                "select m.slug from rag.serving s join rag.generation g on g.id = s.generation_id"
                " join rag.embedding_model m on m.id = g.model_id"
            ).fetchone()
        return row[0] if row else None

    def _write_questions(self) -> None:
        questions = make_questions(self.place.seed)
        rows = [json.dumps({"id": number, "text": text}) for number, (text, _) in questions.items()]
        (self.place.folder / "queries.jsonl").write_text("\n".join(rows) + "\n")
        grades = [f"{number}\t{uri}\t1" for number, (_, uri) in questions.items()]
        (self.place.folder / "qrels.tsv").write_text("\n".join(grades) + "\n")
