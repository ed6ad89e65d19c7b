"""A whole life of an index, played by processes that may die at any moment and are started again.

The worker ingests, registers, builds, compares, promotes, rolls back, mends and retires; the writer edits other
documents at the same time and brings the generations up to date too. Every act can be repeated, as a person would
who finds it unfinished; a finished one is noted in a journal, which is all that a process knows of its past.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from rag_pipeline.database.embedded import EmbeddedServerError
from rag_pipeline.database.engine import Database, DatabaseError, open_database
from rag_pipeline.documents.locations import resolve_location
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.applying import RetiredGenerationError
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation, refresh_generation
from rag_pipeline.index.reconciliation import find_discrepancies, repair
from rag_pipeline.index.store import Generation, count_pending, list_generations
from rag_pipeline.serving import evaluation, known_items
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.promotion import GateRefusedError, promote, rollback
from rag_pipeline.serving.retirement import retire_model, retire_soaked
from rag_pipeline.serving.store import read_serving, upsert_golden_query
from rag_pipeline.settings import Settings, load_settings
from rag_pipeline.versions.ingestion import ingest_locations
from rag_pipeline_tests.faults import damage
from rag_pipeline_tests.faults.corpus import OWN_STATES, make_questions, make_states, write_state
from rag_pipeline_tests.faults.steps import Killer, Recorder, watch_steps
from rag_pipeline_tests.whole_run import use_small_batches

# Up to date again after an ingest: what `index_deltas` looks after.
KEPT_CURRENT = ("ready", "serving", "soaking")
DIMENSIONS = {"poor": 12, "good": 64, "bad": 3}
AWAY = 75  # exit code where the database went away under the process (sysexits.h: EX_TEMPFAIL)


@dataclass(frozen=True)
class Place:
    """Where a life happens: `home` has the database, `models` the three models, `folder` all the rest."""

    folder: Path
    models: Path
    seed: int

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def settings(self, **more: object) -> Settings:
        """Settings with the embedded server of this life, which every process starts that finds it down."""
        # a wide margin: the good model must pass and the bad one fail in every life, whatever was written meanwhile
        fixed = {"model_slug": "poor", "model": self.source("poor"), "soak_hours": 0, "not_worse_margin": 0.1}
        return load_settings(home=self.home, **fixed, **more)

    def source(self, slug: str) -> str:
        return f"model2vec:{self.models / slug}"

    def spec(self, slug: str) -> ModelSpec:
        return ModelSpec(slug, self.source(slug))

    def journal(self, who: str) -> list[str]:
        """The acts that `who` has finished."""
        file = self.folder / f"{who}.journal"
        return file.read_text().splitlines() if file.exists() else []

    def note(self, who: str, act: str) -> None:
        with (self.folder / f"{who}.journal").open("a") as file:
            file.write(f"{act}\n")


class Life:
    """One process's share of a life."""

    def __init__(self, place: Place, who: str) -> None:
        self.place, self.who = place, who
        self.settings = place.settings()
        self.states = make_states(who, place.seed)
        self.database: Database = open_database(self.settings)

    def list_acts(self) -> dict[str, Callable[[], object]]:
        """What is to be done, in order."""
        if self.who == "live":
            return {f"state {n}": partial(self.edit, n) for n in range(len(self.states))}
        edits = iter(range(OWN_STATES))
        acts: list[tuple[str, Callable[[], object]]] = [
            ("first documents", partial(self.edit, next(edits))),
            ("questions", self.ask_questions),
            ("first model", partial(self.build, "poor")),
            ("first promotion", partial(self.promote, "poor")),
            ("edits", partial(self.edit, next(edits))),
            ("candidate", partial(self.register, "good")),
            ("edits before its build", partial(self.edit, next(edits))),
            ("build", partial(self.build, "good")),
            ("edits before its promotion", partial(self.edit, next(edits))),
            ("promotion", partial(self.promote, "good")),
            ("edits in the soak", partial(self.edit, next(edits))),
            ("damage", partial(self.damage_and_mend, "poor")),
            ("rollback", partial(self.roll_back_to, "poor")),
            ("edits after the rollback", partial(self.edit, next(edits))),
            ("second promotion", partial(self.promote, "good")),
            ("bad candidate", partial(self.build, "bad")),
            ("refusal", partial(self.be_refused, "bad")),
            ("edits beside three", partial(self.edit, next(edits))),
            ("retirement of the bad one", partial(self.retire, "bad")),
            ("retirement of the first", self.retire_soaked),
            ("last edits", partial(self.edit, next(edits))),
        ]
        assert next(edits, None) is None, "every state of the corpus is written"
        return dict(acts)

    def play(self) -> None:
        """Do what the journal does not have yet."""
        done = self.place.journal(self.who)
        for name, act in self.list_acts().items():
            if name not in done:
                act()
                self.place.note(self.who, name)

    # acts ------------------------------------------------------------------------------------------

    def edit(self, number: int) -> None:
        """Write a state, read it, and bring every generation up to date that may serve."""
        if self.who == "live":
            self._wait_for_worker(number)
        folder = self.place.folder / self.who
        write_state(folder, self.states[number])
        ingest_locations(self.database, self.settings, [resolve_location(str(folder), "default", self.who)], prune=True)
        self.refresh()

    def ask_questions(self) -> None:
        with self.database.transaction() as connection:
            for number, (text, uri) in make_questions(self.place.seed).items():
                upsert_golden_query(connection, "default", number, text, {uri: 1.0})

    def refresh(self) -> None:
        for generation in self._list(*KEPT_CURRENT):
            try:
                refresh_generation(self.database, self.settings, generation)
            except RetiredGenerationError:
                assert self._find_by_id(generation.id).state == "retired"

    def register(self, slug: str) -> Generation:
        settings = self._settings_of(slug)
        return ensure_generation(self.database, settings, add_model(self.database, self.place.spec(slug)))

    def build(self, slug: str) -> None:
        generation = self.register(slug)
        fill_generation(self.database, self._settings_of(slug), generation)
        build_generation(self.database, self._settings_of(slug), generation)

    def promote(self, slug: str) -> None:
        """Promote, and where the gate asks for it compare first; what came in since the filling is filled again."""
        generation = self._find(slug)
        while not self._serves(generation):
            try:
                promote(self.database, generation.id, actor="life", reason="test")
            except GateRefusedError:
                self.refresh()
                found = evaluate_candidate(self.database, self.settings, generation)
                assert found.allows or found.verdict == "broken", f"{slug} must be allowed: {found.reason}"

    def be_refused(self, slug: str) -> None:
        generation = self._find(slug)
        verdict = "broken"
        while verdict == "broken":
            self.refresh()
            verdict = evaluate_candidate(self.database, self.settings, generation).verdict
        try:
            promote(self.database, generation.id, actor="life", reason="must not happen")
        except GateRefusedError:
            return
        raise AssertionError(f"the gate let {slug} serve, with verdict {verdict}")

    def roll_back_to(self, slug: str) -> None:
        generation = self._find(slug)
        if not self._serves(generation):
            assert rollback(self.database, actor="life", reason="test") == generation.id

    def damage_and_mend(self, slug: str) -> None:
        """Tear holes into a generation that does not serve, and let the doctor mend them."""
        generation = self._find(slug)
        damage.tear(self.database, generation)
        found = find_discrepancies(self.database, generation)
        assert found.missing, "the damage is not seen"
        assert found.orphaned, "the damage is not seen"
        repair(self.database, generation)
        self.refresh()
        mended = find_discrepancies(self.database, generation)
        assert mended.clean, mended.describe()

    def retire(self, slug: str) -> None:
        retire_model(self.database, slug)

    def retire_soaked(self) -> None:
        retire_soaked(self.database, self.settings.soak_hours)

    def settle(self) -> None:
        """The queue to its end: nothing is written any more."""
        self.refresh()
        with self.database.connection() as connection:
            assert count_pending(connection) == {}, "changes that nobody applies are left in the queue"

    # looking ---------------------------------------------------------------------------------------

    def _settings_of(self, slug: str) -> Settings:
        # the bad one has another chunker and another index too: any part of a recipe goes the same way
        return self.place.settings(chunk_size=900, hnsw_m=8) if slug == "bad" else self.settings

    def _list(self, *states: str) -> list[Generation]:
        with self.database.connection() as connection:
            return list_generations(connection, states) if states else list_generations(connection)

    def _find(self, slug: str) -> Generation:
        return next(g for g in self._list() if g.model == slug)

    def _find_by_id(self, number: int) -> Generation:
        return next(g for g in self._list() if g.id == number)

    def _serves(self, generation: Generation) -> bool:
        with self.database.connection() as connection:
            serving = read_serving(connection)
        return serving is not None and serving.generation_id == generation.id

    def _wait_for_worker(self, number: int) -> None:
        """Spread the live edits over the whole life: one for each act that the worker has finished."""
        while len(self.place.journal("own")) <= number:
            time.sleep(0.02)


def play(place: Place, who: str, wanted: set[str] | None, chance: float, start: int, *, settle: bool = False) -> None:
    """The main function of a worker process; `wanted` are steps to die at, None: write down those reached."""
    os.setsid()
    redirect_output(place.folder / f"{who}.log")
    use_small_batches()
    # too few to learn a fusion weight from: these texts have no sentence that says what the rest says
    evaluation.pick_sentences = partial(known_items.pick_sentences, most=10)  # type: ignore[attr-defined]
    seed = f"{place.seed} {who} {start}"
    watch_steps(
        Recorder(place.folder / "reached")
        if wanted is None
        else Killer(place.folder / f"{who}.killed", wanted, chance, seed)
    )
    try:
        life = Life(place, who)
        life.settle() if settle else life.play()
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(AWAY if is_away(error) else 1)
    os._exit(0)


def is_away(error: BaseException | None) -> bool:
    """Whether an error is that the server went away: a deadlock or a lock that is not to be had is not."""
    lost = (psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown, psycopg.errors.CannotConnectNow)
    while error is not None:
        if isinstance(error, lost) or type(error) is psycopg.OperationalError:
            return True
        if isinstance(error, EmbeddedServerError):  # stopped while it was being started
            return True
        if isinstance(error, DatabaseError) and "Cannot connect" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def redirect_output(file: Path) -> None:
    """Send this process's output to a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(descriptor, number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
