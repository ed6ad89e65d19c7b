"""`make demo`: the whole product on the example corpus, step by step, with what each step did.

Uses the `rag` command only, with RAG_HOME=.demo, which is deleted first. Exits 1 at the first step that fails.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).parent
HOME = Path(".demo").resolve()
CORPUS = HOME / "corpus"
STATIC = HOME / "static-model"
JUDGED = ("--queries", str(EXAMPLES / "queries.jsonl"), "--qrels", str(EXAMPLES / "qrels.tsv"))
BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"\n\033[1m[{time.monotonic() - BEGAN:5.1f} s] {text}\033[0m", flush=True)


def rag(*arguments: str, expect: int = 0, quiet: bool = False) -> str:
    """Run `rag`, show what it prints, and stop the demo if it does not end as expected."""
    print(f"$ rag {' '.join(arguments)}", flush=True)
    command = [str(Path(sys.executable).with_name("rag")), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not quiet:
        print(done.stdout, end="", flush=True)
    if done.returncode != expect:
        sys.exit(f"`rag {arguments[0]}` ended with exit code {done.returncode}, not {expect}")
    return done.stdout


def main() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    os.environ["RAG_HOME"] = str(HOME)

    say("A small, fast model to begin with: distilled from all-MiniLM-L6-v2, no network needed")
    rag("model", "distil", str(STATIC))
    os.environ |= {"RAG_MODEL": f"model2vec:{STATIC}", "RAG_MODEL_SLUG": "static"}

    say("Documents in: Markdown, HTML, PDF, DOCX, XLSX and JSON lines; English, Japanese, Korean")
    shutil.copytree(EXAMPLES / "corpus", CORPUS)
    shutil.copytree(EXAMPLES / "bad", CORPUS / "bad")
    rag("ingest", str(CORPUS), "--prune")

    say("The files that could not be read are recorded with their reasons, and cost nobody else")
    rag("status")

    say("Search by meaning and words, with a filter, in three languages")
    rag("search", "station shows error 41, what now?", "-k", "3")
    rag("search", "冬に電池が減る", "-k", "2")
    rag("search", "battery drains", "-k", "2", "--where", "year=2024")
    rag("ask", "How long is the warranty?")

    say("Retrieval measured on judged questions; the same questions will judge every candidate model")
    rag("golden", "add", *JUDGED)
    rag("eval", *JUDGED)

    say("Six documents edited: only the chunks that changed are embedded")
    for path in (EXAMPLES / "revisions").rglob("*"):
        if path.is_file():
            shutil.copy(path, CORPUS / path.relative_to(EXAMPLES / "revisions"))
    rag("ingest", str(CORPUS), "--prune")
    rag("history", "handbook/radio-eu.md")
    rag("diff", "handbook/radio-eu.md")

    say("A better model: register, plan, fill and build beside what serves, prove, and let it serve")
    rag("model", "add", "minilm", "packaged:all-MiniLM-L6-v2")
    rag("model", "plan", "minilm")
    rag("model", "swap", "minilm", "--yes", "--auto-promote")
    rag("eval", *JUDGED)

    say("Written after the swap…")
    (CORPUS / "handbook" / "late-news.md").write_text(
        "# Late news\n\nThe harbour office lends spare wind vanes to anyone whose station lost one in a storm.\n",
        encoding="utf-8",
    )
    rag("ingest", str(CORPUS), "--prune")

    say("…and found after the rollback: both generations took every change")
    rag("model", "rollback", "--reason", "demonstration")
    found = json.loads(rag("search", "who lends spare wind vanes", "-k", "1", "--json", quiet=True))
    print(f"generation {found['generation']} ({found['model']}): {found['hits'][0]['document_id']}")
    if found["hits"][0]["document_id"] != "handbook/late-news.md":
        sys.exit("The document written since the swap was not found after the rollback")

    say("Documents, ledger and index compared whole")
    rag("doctor")

    say(f"Done in {time.monotonic() - BEGAN:.0f} s. Where to look next:")
    print(
        f"  export RAG_HOME={HOME}\n"
        "  rag status                      every stage at a glance\n"
        "  rag search 'firmware update'    search what was just built\n"
        "  rag up                          Dagster's lineage graph, and the search API\n"
        "  rag ingest YOUR_FOLDER          with another RAG_HOME, or RAG_DATABASE_URL for your own PostgreSQL"
    )


if __name__ == "__main__":
    main()
