"""What the benchmarks read: the shared data where it is there, else text made up from a seed; and a static model."""

import gzip
import json
import os
import random
import string
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

SHARDS = 1000
# Metadata key -> share of the rows that one of its values selects.
SELECTIVITIES = {"half": 0.5, "tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}


def find_shared_data() -> Path:
    """The folder of the shared data: $RAG_TEST_DATA, or `shared/data` beside the repository."""
    return Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[1].parent / "shared/data")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, gzipped or not."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_passages(count: int, seed: int) -> tuple[list[dict[str, Any]], list[str], str]:
    """(rows with id, title and text; queries; where they come from): real passages, made-up ones beyond them."""
    folder = find_shared_data() / "load-cppdocs-en"
    if not (folder / "corpus.jsonl.gz").exists():
        return [*make_passages(count, seed)], make_queries(300, seed), "made-up text"
    rows = list(islice(read_lines(folder / "corpus.jsonl.gz"), count))
    queries = [row["text"] for row in islice(read_lines(folder / "queries.jsonl"), 300)]
    return [*rows, *make_passages(count - len(rows), seed)], queries, folder.name


def make_vocabulary(seed: int) -> list[str]:
    """Words that can be pronounced badly, the first ones much more frequent than the last when drawn by rank."""
    source = random.Random(seed)
    return ["".join(source.choices(string.ascii_lowercase, k=source.randint(3, 9))) for _ in range(8000)]


def make_passages(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of about sixty words whose frequencies fall as in language (Zipf); each has a topic of its own words."""
    words = make_vocabulary(seed)
    source = random.Random(seed + 1)
    weights = [1 / (rank + 10) for rank in range(len(words))]
    for number in range(count):
        topic = source.choices(words[200:], k=6)
        text = source.choices(words, weights, k=45) + source.choices(topic, k=15)
        source.shuffle(text)
        yield {"id": f"made-{number}", "title": " ".join(topic[:3]), "text": " ".join(text) + "."}


def make_queries(count: int, seed: int) -> list[str]:
    words = make_vocabulary(seed)
    source = random.Random(seed + 2)
    return [" ".join(source.choices(words[:4000], k=6)) for _ in range(count)]


def add_shards(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows with a random shard in their metadata, and with the keys of SELECTIVITIES made of it."""
    source = random.Random(seed + 3)
    sharded = []
    for row in rows:
        shard = source.randrange(SHARDS)
        metadata = {"half": shard % 2, "tenth": shard % 10, "hundredth": shard % 100, "thousandth": shard}
        sharded.append({**row, "metadata": metadata})
    return sharded


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows as a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def find_static_model(dimension: int = 384) -> str:
    """The source of a static model distilled from the packaged MiniLM, made once (half a minute) and kept.

    In $RAG_BENCH_CACHE or ~/.cache/rag_pipeline_bench. It makes a hundred thousand vectors in seconds, so that
    what is measured is the database.
    """
    from rag_pipeline.embeddings.static import distil_static_model

    cache = Path(os.environ.get("RAG_BENCH_CACHE") or Path.home() / ".cache/rag_pipeline_bench")
    return f"model2vec:{distil_static_model(cache / f'static-{dimension}', dimension)}"
