"""The `rag` command as a user meets it: output, exit codes, errors, and what it must not load."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.database.engine import driver_url
from rag_pipeline_tests.conftest import Server

HIT_FIELDS = {
    *("rank", "score", "document_id", "uri", "title", "version", "chunk_id", "text", "start", "end"),
    *("heading_path", "metadata", "generation", "scores"),
}
TEXTS = {
    "valve.md": "# Valve\n\nThe red valve is old. Pressure of the steam boiler opens it.",
    "pump.md": "# Pump\n\nThe blue pump is new. Water and steam leak from it in winter.",
    "cat.md": "# Cat\n\nThe small cat is in a tree by the river. Snow and rain in winter.",
}


@dataclass(frozen=True)
class Rag:
    """Runs the command in a folder of its own against one database."""

    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "rag_pipeline.cli", *arguments],
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, f"rag {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)


def make_rag(server: Server, tiny_model: Path, folder: Path) -> Rag:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "DAGSTER_"))}
    url = server.create()
    more = {
        "RAG_DATABASE_URL": driver_url(url),
        "RAG_HOME": str(folder / "home"),
        "RAG_MODEL": f"model2vec:{tiny_model}",
        "RAG_MODEL_SLUG": "tiny",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "NO_COLOR": "1",
    }
    return Rag(folder, {**clean, **more})


@pytest.fixture(scope="module")
def empty(server: Server, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Rag:
    """A command with an empty database."""
    return make_rag(server, tiny_model, tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def rag(server: Server, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Rag:
    """A command whose database holds three documents and five rows."""
    rag = make_rag(server, tiny_model, tmp_path_factory.mktemp("cli"))
    documents = rag.folder / "documents"
    documents.mkdir()
    for name, text in TEXTS.items():
        (documents / name).write_text(text)
    rows = [{"id": f"n{n}", "title": f"Note {n}", "text": f"note {n} about a pump", "year": 2020 + n} for n in range(5)]
    (rag.folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    result = rag.json("ingest", "documents", "notes.jsonl", "--source", "mine")
    assert result["documents"] == {"added": 8, "changed": 0, "removed": 0, "unchanged": 0, "failed": 1}
    assert result["embeddings"] == {"new": 8, "reused": 0}
    return rag


# documents -------------------------------------------------------------------------------------------------


def test_a_second_ingest_does_nothing_and_says_so(rag: Rag) -> None:
    done = rag.run("ingest", "documents", "notes.jsonl", "--source", "mine", "--json")
    result = json.loads(done.stdout)
    assert result["documents"] == {"added": 0, "changed": 0, "removed": 0, "unchanged": 8, "failed": 1}
    assert result["embeddings"]["new"] == result["chunks"]["new"] == result["characters"]["embedded"] == 0
    assert result["generation"] == 1
    assert set(result) == {"documents", "chunks", "embeddings", "characters", "generation", "seconds"}
    assert "notes.jsonl#line 6" in done.stderr
    assert "is not JSON" in done.stderr


def test_an_edit_is_served_with_the_next_ingest_and_shows_in_history_and_diff(rag: Rag) -> None:
    path = rag.folder / "documents/cat.md"
    path.write_text(TEXTS["cat.md"].replace("small cat", "large dog"))
    result = rag.json("ingest", "documents", "--source", "mine")
    assert (result["documents"]["changed"], result["documents"]["unchanged"]) == (1, 2)
    (hit,) = rag.json("search", "large dog in a tree", "-k", "1")["hits"]
    assert (hit["document_id"], hit["version"]) == ("cat.md", 2)
    assert "large dog" in hit["text"]
    history = rag.run("history", "cat.md").stdout
    assert "now" in history
    difference = rag.run("diff", "cat.md").stdout
    assert "-The small cat is" in difference
    assert "+The large dog is" in difference
    rag.run("diff", "cat.md", "2", "1")
    assert "versions [1, 2]" in rag.run("diff", "cat.md", "1", "9", code=2).stderr
    assert "one version" in rag.run("diff", "pump.md", code=1).stderr
    path.write_text(TEXTS["cat.md"])
    rag.json("ingest", "documents", "--source", "mine")


def test_prune_deletes_what_is_gone_and_an_empty_folder_is_refused(rag: Rag) -> None:
    folder = rag.folder / "some"
    folder.mkdir()
    for name in ("one.md", "two.md"):
        (folder / name).write_text(f"# {name}\n\nold bread")
    rag.json("ingest", "some")
    (folder / "two.md").unlink()
    assert rag.json("ingest", "some", "--prune")["documents"]["removed"] == 1
    (folder / "one.md").unlink()
    refused = rag.run("ingest", "some", "--prune", code=3)
    assert "is empty" in refused.stderr
    assert refused.stdout == ""
    assert [h["uri"] for h in rag.json("search", "old bread", "-k", "1")["hits"]] == ["one.md"]


# serving ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "vector", "lexical"])
def test_search_prints_hits_with_all_their_fields(rag: Rag, mode: str) -> None:
    result = rag.json("search", "old red valve", "--mode", mode, "-k", "2")
    assert result["mode"] == mode
    assert result["generation"] == 1
    assert result["hits"][0]["uri"] == "valve.md"
    for hit in result["hits"]:
        assert set(hit) == HIT_FIELDS
        assert set(hit["scores"]) == {"vector", "lexical"}


def test_search_filters_by_metadata_tenant_and_time(rag: Rag) -> None:
    found = rag.json("search", "pump", "--where", "year=2021")["hits"]
    assert [(h["document_id"], h["uri"], h["metadata"]) for h in found] == [("n1", "notes.jsonl#n1", {"year": 2021})]
    assert rag.json("search", "pump", "--tenant", "other")["hits"] == []
    assert rag.json("search", "pump", "--as-of", "2001-01-01")["hits"] == []


def test_a_search_for_people_names_document_version_and_place(rag: Rag) -> None:
    done = rag.run("search", "old red valve", "-k", "1")
    assert "valve.md, version 1, characters" in done.stdout
    assert "1 hits, hybrid, generation 1 (tiny)" in done.stderr


def test_eval_measures_judged_queries(rag: Rag) -> None:
    (rag.folder / "q.jsonl").write_text('{"id": "q1", "text": "old red valve"}\n{"id": "q2", "text": "note 3"}\n')
    (rag.folder / "qrels.tsv").write_text("q1\tvalve.md\t1\nq2\tn3\t1\n")
    files = ("--queries", "q.jsonl", "--qrels", "qrels.tsv")
    measured = rag.json("eval", *files, "--mode", "lexical", "--run", "run.txt")
    assert {"ndcg_at_10", "recall_at_100", "mrr", "queries", "mode", "generation"} <= set(measured)
    assert (measured["mrr"], measured["queries"], measured["mode"]) == (1.0, 2, "lexical")
    assert (rag.folder / "run.txt").read_text().startswith("q1 Q0 valve.md 1 ")
    assert set(rag.json("eval", *files)) == {"vector", "lexical", "hybrid"}


def test_status_and_doctor_tell_that_all_is_well(rag: Rag) -> None:
    rag.json("ingest", "documents", "notes.jsonl", "--source", "mine")
    status = rag.json("status")
    assert status["serving"]["generation_id"] == 1
    assert status["models"][0]["slug"] == "tiny"
    assert status["generations"][0]["index_valid"] is True
    assert any(f["uri"] == "notes.jsonl#line 6" for f in status["failures"])
    assert all(finding["good"] for finding in rag.json("doctor"))
    assert "BAD" not in rag.run("doctor").stdout


def test_doctor_finds_damage_exits_1_and_repairs_it(rag: Rag) -> None:
    import psycopg

    with psycopg.connect(rag.environment["RAG_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("delete from rag.index_1 where chunk_id = (select min(chunk_id) from rag.index_1)")
    found = rag.json("doctor", code=1)
    assert [f["detail"] for f in found if not f["good"]] == ["1 missing"]
    rag.run("doctor", "--repair")
    rag.run("doctor")


# models ----------------------------------------------------------------------------------------------------


def test_a_model_is_added_planned_swapped_promoted_and_rolled_back(rag: Rag, other_tiny_model: Path) -> None:
    rag.run("model", "add", "second", f"model2vec:{other_tiny_model}")
    plan = rag.json("model", "plan", "second")
    assert plan["to_embed"] == plan["chunks"] > 0
    assert "money" in rag.run("model", "plan", "second", "--price-per-million", "2").stdout
    paused = rag.run("model", "swap", "second", "--yes", "--max-tokens", "20", code=3).stderr
    assert "The budget is spent after" in paused
    assert 0 < rag.json("model", "plan", "second")["to_embed"] < plan["to_embed"]
    assert "--price-per-million" in rag.run("model", "swap", "second", "--max-cost", "1", code=2).stderr
    done = rag.run("model", "swap", "second", "--yes")
    assert "generation 2: verdict" in done.stderr
    refused = rag.run("model", "promote", "second", code=3)  # eight chunks are too few to prove anything
    assert "cannot_tell" in refused.stderr
    assert rag.json("search", "valve")["generation"] == 1
    assert "--reason" in rag.run("model", "promote", "second", "--force", code=2).stderr
    rag.run("model", "promote", "second", "--force", "--reason", "a test")
    assert rag.json("search", "valve")["generation"] == 2
    promotion = rag.json("status")["promotions"][-1]
    assert (promotion["forced"], promotion["reason"]) == (True, "a test")
    assert rag.json("model", "plan", "second")["to_embed"] == 0
    assert "generation 1 serves again" in rag.run("model", "rollback").stderr
    assert rag.json("search", "valve")["generation"] == 1
    assert [m["slug"] for m in rag.json("model", "list")] == ["tiny", "second"]
    assert "serves; promote another one first" in rag.run("model", "retire", "--generation", "1", code=3).stderr
    assert "generation 2 (second, was soaking): retired" in rag.run("model", "retire", "second").stderr
    assert "generation 2 (second) is retired" in rag.run("model", "rollback", code=3).stderr


# errors ----------------------------------------------------------------------------------------------------

USAGE = [
    (["search"], "Missing argument 'QUERY'"),
    (["nope"], "No such command 'nope'"),
    (["search", "x", "-k", "0"], "is not in the range"),
    (["search", "x", "--where", "novalue"], "write key=value"),
    (["search", "x", "--as-of", "yesterday"], "is not a time; write it as 2026-11-21"),
    (["ingest", "missing-folder"], "missing-folder does not exist. Nothing was read or deleted; check the path."),
    (["model", "plan", "nope"], "No model is called 'nope'"),
    (["model", "add", "bad slug", "x"], "letters, digits"),
    (["history", "nope"], "No document has the URI, id or number 'nope'"),
    (["eval", "--queries", "nope.jsonl", "--qrels", "nope.tsv"], "does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(u[0]) for u in USAGE])
def test_wrong_usage_exits_2_and_names_what_is_wrong(empty: Rag, arguments: list[str], message: str) -> None:
    done = empty.run(*arguments, code=2)
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


FAILURES: list[tuple[list[str], dict[str, str], str]] = [
    (["search", "x"], {}, "Nothing serves yet: no generation was promoted. Run `rag ingest PATH` first"),
    (["search", "x", "--generation", "9"], {}, "Generation 9 cannot be searched: see `rag status`"),
    (["status"], {"RAG_DATABASE_URL": "postgresql://a:secret@127.0.0.1:1/x"}, "Check RAG_DATABASE_URL; unset it"),
    (["status"], {"RAG_CHUNK_SIZE": "many"}, "RAG_CHUNK_SIZE (rag.toml: chunk_size): Input should be a valid integer"),
    (["status"], {"RAG_BUCKETS": "8"}, "RAG_BUCKETS is 8, but this database was set up with 16"),
    (["model", "add", "gone", "model2vec:/nonexistent/model"], {}, "no directory /nonexistent/model"),
    (["model", "add", "odd", "nonsense"], {}, "is no directory and no known form"),
]


@pytest.mark.parametrize(("arguments", "environment", "message"), FAILURES, ids=[f[2][:40] for f in FAILURES])
def test_a_failure_exits_1_with_cause_and_next_step_and_no_secret(
    empty: Rag, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    done = empty.run(*arguments, code=1, **environment)
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "secret" not in done.stderr


def test_a_gate_that_refuses_exits_3(empty: Rag) -> None:
    assert "nothing to roll back to" in empty.run("model", "rollback", code=3).stderr


def test_settings_are_shown_with_their_origin_and_secrets_masked(empty: Rag) -> None:
    done = empty.run("settings", "--json", RAG_LLM_API_KEY="sk-hidden", RAG_CHUNK_SIZE="700")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["chunk_size"]["value"] == "700"
    assert rows["chunk_size"]["origin"] == "environment RAG_CHUNK_SIZE"
    assert rows["pool_size"]["origin"] == "default"
    assert "sk-hidden" not in done.stdout


# what is not loaded ----------------------------------------------------------------------------------------


def test_help_is_there_at_once(empty: Rag) -> None:
    def measure() -> float:
        began = time.monotonic()
        empty.run("--help")
        return time.monotonic() - began

    assert min(measure() for _ in range(5)) < 0.4


LOADED = """
import sys
from rag_pipeline.cli import main
main(sys.argv[1:], standalone_mode=False)
heavy = ("dagster", "torch", "transformers", "sentence_transformers", "pandas", "matplotlib", "xberg", "fastapi")
print("LOADED", *[name for name in heavy if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "red valve"],
        ["search", "red valve", "--mode", "lexical"],
        ["status"],
        ["history", "pump.md"],
        ["settings"],
    ],
    ids=lambda a: " ".join(a),
)
def test_commands_that_read_load_neither_dagster_nor_torch(rag: Rag, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=rag.environment,
        cwd=rag.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "LOADED\n" in done.stderr
