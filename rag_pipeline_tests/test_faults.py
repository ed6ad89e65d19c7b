"""Killed anywhere and run again, the pipeline ends where an undisturbed one ends: compared row by row.

RAG_FAULTS sets the number of kills at random moments (more than 12 for a longer proof), RAG_FAULT_SEED the seed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.models import ModelSpec
from rag_pipeline.embeddings.registry import add_model
from rag_pipeline.index.applying import load_generation
from rag_pipeline.index.building import build_generation, ensure_generation, fill_generation
from rag_pipeline.index.reconciliation import find_discrepancies
from rag_pipeline.index.store import list_generations, read_index_state
from rag_pipeline.settings import Settings
from rag_pipeline_tests.tiny_model import make_text
from rag_pipeline_tests.whole_run import ROWS, STEPS, dump_rows, read_folder

FAULTS = int(os.environ.get("RAG_FAULTS", "12"))
SEED = int(os.environ.get("RAG_FAULT_SEED", "1"))
FILES, LINES, KILLS_PER_EDIT = 90, 110, 3
# A step is reached in the first run, in every run, or in those that change something.
FIRST_RUN_ONLY = {"probing", "creating", "loading", "building", "promoting"}
EDITS_ONLY = {"pruning", "finishing"}
# Reached several times in the first run.
MANY_BATCHES = {"reading", "chunking", "embedding", "wording"}

MakeDatabase = Callable[..., tuple[Settings, Database]]


class Corpus:
    """A folder with Markdown files and a JSONL file that changes in seeded steps."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chosen = folder, random.Random(seed)
        self.files = {f"part{n % 5}/file{n}.md": self._text() for n in range(FILES)}
        self.lines = {f"row{n}": self._text() for n in range(LINES)}
        self.gone: dict[str, str] = {}

    def _text(self) -> str:
        return make_text(self.chosen, self.chosen.randint(20, 250))

    def edit(self) -> None:
        """Change, delete and add a tenth each; bring something deleted back as it was."""
        for kept in (self.files, self.lines):
            for name in self.chosen.sample(sorted(kept), len(kept) // 10):
                self.gone[name] = kept.pop(name)
            for name in self.chosen.sample(sorted(kept), len(kept) // 10):
                kept[name] += " " + make_text(self.chosen, 12)
        for name in self.chosen.sample(sorted(self.gone), 5):
            (self.files if name.endswith(".md") else self.lines)[name] = self.gone.pop(name)
        for number in range(10):
            self.files[f"new/{self.chosen.randrange(10**6)}-{number}.md"] = self._text()
        # an empty document, and one the model knows no word of: it is refused, and found by its words only
        self.files["empty.md"] = ""
        self.files["unknown.md"] = f"qqqq{self.chosen.randrange(10**6)} xxxx"

    def write(self) -> None:
        for path in self.folder.rglob("*.md"):
            if path.relative_to(self.folder).as_posix() not in self.files:
                path.unlink()
        for name, text in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        rows = [json.dumps({"id": name, "title": name, "text": text}) for name, text in self.lines.items()]
        (self.folder / "rows.jsonl").write_text("\n".join(rows) + "\n")


def start_run(settings: Settings, folder: Path, *step: str) -> subprocess.Popen[bytes]:
    return start_process(settings, "-m", "rag_pipeline_tests.whole_run", str(folder), *step)


def start_process(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    assert settings.database_url is not None
    environment = {
        **os.environ,
        "RAG_DATABASE_URL": settings.database_url.get_secret_value(),
        "RAG_HOME": str(settings.home),
        "RAG_MODEL": settings.model,
        "RAG_MODEL_SLUG": "tiny",
        "RAG_HNSW_M": str(settings.hnsw_m),
        "RAG_HNSW_EF_CONSTRUCTION": str(settings.hnsw_ef_construction),
    }
    return subprocess.Popen([sys.executable, *arguments], env=environment, cwd=Path(__file__).parents[1])


def run_to_the_end(settings: Settings, folder: Path) -> float:
    began = time.monotonic()
    assert start_run(settings, folder).wait(timeout=120) == 0
    return time.monotonic() - began


def run_and_kill(settings: Settings, folder: Path, seconds: float) -> bool:
    """Start a run and kill it after some time; whether it was still running."""
    process = start_run(settings, folder)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def assert_equal_ends(calm: Database, killed: Database) -> None:
    ends = []
    for database in (calm, killed):
        with database.connection() as connection:
            (generation,) = list_generations(connection)
        assert find_discrepancies(database, generation).clean
        ends.append(dump_rows(database, generation))
    for name in ROWS:
        assert ends[0][name] == ends[1][name], f"{name} differs"
    assert ends[0]["queue"] == []
    assert len(ends[0]["index"]) > 300
    assert ends[0]["refused"], "the corpus has a text the model refuses"


def test_a_pipeline_killed_at_random_moments_ends_like_an_undisturbed_one(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    chosen = random.Random(SEED)
    calm_settings, calm = make_database()
    killed_settings, killed = make_database()
    corpus = Corpus(tmp_path, SEED)
    kills = 0
    for edit in range(max(2, FAULTS // KILLS_PER_EDIT)):
        if edit:
            corpus.edit()
        corpus.write()
        seconds = run_to_the_end(calm_settings, tmp_path)
        for _ in range(KILLS_PER_EDIT):
            # the first part of a run only imports: nothing to be broken there
            kills += run_and_kill(killed_settings, tmp_path, chosen.uniform(0.3, 0.85) * seconds)
        run_to_the_end(killed_settings, tmp_path)
        if edit:
            assert_equal_ends(calm, killed)
    print(f"\nRAG_FAULTS={FAULTS} RAG_FAULT_SEED={SEED}: {kills} runs killed at random moments", file=sys.stderr)
    assert kills >= FAULTS // 4, "most runs ended before they were killed: the moments are chosen badly"


def test_a_pipeline_killed_in_the_middle_of_every_step_ends_like_an_undisturbed_one(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    chosen = random.Random(SEED)
    calm_settings, calm = make_database()
    killed_settings, killed = make_database()
    corpus = Corpus(tmp_path, SEED + 1)
    reached = []
    for edit in range(2):
        if edit:
            corpus.edit()
        corpus.write()
        run_to_the_end(calm_settings, tmp_path)
        for step in STEPS:
            if step not in (FIRST_RUN_ONLY if edit else EDITS_ONLY):
                # a step that is not reached that often lets the run end: nothing is left for the steps behind it
                number = str(chosen.randint(1, 3) if step in MANY_BATCHES and not edit else 1)
                process = start_run(killed_settings, tmp_path, step, number)
                code = process.wait(timeout=120)
                assert code in (0, -signal.SIGKILL)
                if code:
                    reached.append((step, edit))
                    assert_nothing_is_half_done(killed)
        run_to_the_end(killed_settings, tmp_path)
    assert_equal_ends(calm, killed)
    print(f"\nRAG_FAULT_SEED={SEED}: killed in {reached}", file=sys.stderr)
    wanted = {(s, e) for s in STEPS for e in (0, 1) if s not in (FIRST_RUN_ONLY if e else EDITS_ONLY)}
    assert set(reached) == wanted, f"never reached: {wanted - set(reached)}"


def assert_nothing_is_half_done(database: Database) -> None:
    """What must hold in every committed state, not only at the end."""
    broken = {
        "documents without their current version": """
            select 1 from rag.document d where deleted_at is null and current_version_id is null""",
        "deleted documents with an open version": """
            select 1 from rag.document d join rag.document_version v on v.document_id = d.id
            where d.deleted_at is not null and v.valid_to is null""",
        "versions with fewer chunks than recorded": """
            select 1 from rag.version_chunking n
            where n.chunk_count <> (select count(*) from rag.version_chunk c
                                    where c.version_id = n.version_id and c.chunker_id = n.chunker_id)""",
        "terms whose count is not their postings'": """
            select 1 from rag.lexical_term t
            where t.chunk_count <> (select count(*) from rag.posting p where p.term_id = t.term_id)""",
    }
    with database.connection() as connection:
        for what, query in broken.items():
            assert connection.execute(sql.SQL(query)).fetchall() == [], what


BUILD = """
import sys
from rag_pipeline.settings import load_settings
from rag_pipeline.database.engine import open_database
from rag_pipeline.index.building import build_generation
from rag_pipeline.index.store import list_generations
settings = load_settings()
database = open_database(settings)
with database.connection() as connection:
    generation = list_generations(connection)[0]
build_generation(database, settings, generation)
"""


def test_a_build_whose_process_was_killed_is_waited_for_and_not_done_twice(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    settings, database = make_database(hnsw_m=48, hnsw_ef_construction=600)
    (tmp_path / "one.md").write_text("red valve")
    read_folder(database, settings, tmp_path)
    generation = ensure_generation(database, settings, add_model(database, ModelSpec("tiny", settings.model)))
    fill_generation(database, settings, generation)
    load_generation(database, generation)
    with database.connection() as connection:
        connection.execute(
            sql.SQL(
                "insert into rag.{} select -n, 'default', array(select random() + 0 * n from generate_series(1, 32))"
                "::vector::halfvec from generate_series(1, 4000) n"
            ).format(sql.Identifier(generation.table_name))
        )
        process = start_process(settings, "-c", BUILD)
        while not connection.execute("select 1 from pg_stat_progress_create_index").fetchone():
            assert process.poll() is None, "the build ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
    # the server goes on with the statement of the process that is gone
    build_generation(database, settings, generation)
    with database.connection() as connection:
        state = read_index_state(connection, generation)
        assert state is not None
        assert state.valid
        assert connection.execute("select state from rag.generation").fetchall() == [("ready",)]
