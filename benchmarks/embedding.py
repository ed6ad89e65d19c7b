"""The embedding stage against bare SentenceTransformer.encode(batch_size=8) on the same texts.

Ours is `embed_missing` with the model already loaded, as the baseline's is: finding what is missing, leasing,
reading the texts, embedding, checking the vectors, landing them in the ledger. Both run in this process with
the same threads, on the same strings, and take turns.

    python -m benchmarks.embedding --short
"""

import argparse
import sys

import numpy as np

from benchmarks import corpora, scratch
from benchmarks.measuring import alternate, measure_seconds, spread, spread_ratios
from benchmarks.reporting import Figure, Goal, Report, run_benchmark
from rag_pipeline.chunks.embedded_text import embedded_text
from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.filling import embed_missing
from rag_pipeline.embeddings.models import parse_source
from rag_pipeline.embeddings.packaged import find_packaged_model
from rag_pipeline.embeddings.registry import open_checked_model
from rag_pipeline.index.building import cut_for, ensure_generation

BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, help="chunks per repeat, about (400; short: 64)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="packaged:all-MiniLM-L6-v2", help="a packaged model or a directory")


def read_chunks(database: Database, space_id: int) -> tuple[list[str], list[np.ndarray]]:
    """All embedded texts and their vectors, in the order in which they are embedded."""
    with database.connection() as connection:
        rows = connection.execute(
            "select c.title, c.heading_path, c.text, e.vector from rag.chunk c"
            " join rag.embedding e on e.chunk_id = c.id and e.space_id = %s order by c.id",
            (space_id,),
        ).fetchall()
    return [embedded_text(*row[:3]) for row in rows], [row[3].to_numpy() for row in rows]


def measure(options: argparse.Namespace) -> Report:
    from sentence_transformers import SentenceTransformer

    rows, _, origin = corpora.read_passages(options.texts or (64 if options.short else 400), options.seed)
    kind, name = parse_source(options.model)
    directory = find_packaged_model(name)[0] if kind == "packaged" else name
    with scratch.open_scratch(model=options.model, model_slug="bench") as (settings, database):
        scratch.ingest_file(database, settings, corpora.write_rows(settings.home / "corpus.jsonl", rows))
        record = scratch.add_settings_model(database, settings)
        generation = ensure_generation(database, settings, record)
        cut_for(database, settings, generation.chunker_id, only_pending=False)
        open_checked_model(record)
        library = SentenceTransformer(str(directory), device="cpu", local_files_only=True)

        def embed() -> int:
            return embed_missing(database, record, generation.chunker_id, only_pending=False).embedded

        count = embed()
        texts, vectors = read_chunks(database, record.space)
        again = embed()
        rerun_seconds = measure_seconds(embed)
        reference = library.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)

        def embed_anew() -> float:
            with database.transaction() as connection:
                connection.execute("delete from rag.embedding where space_id = %s", (record.space,))
            return count / measure_seconds(embed)

        def encode() -> float:
            return count / measure_seconds(
                lambda: library.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
            )

        ours, bare = alternate(embed_anew, encode, options.repeats)
        facts = scratch.read_server_version(database)
    similarity = np.sum(np.stack(vectors) * reference, axis=1)
    import torch

    return Report(
        "embedding",
        [
            Figure("texts embedded and landed per second", spread(ours), "/s", spread(bare),
                   spread_ratios(ours, bare), Goal(0.97, "at least")),
            Figure("texts embedded by a second run", spread(float(again)), goal=Goal(0, of="ours")),
            Figure("a second run", spread(1000 * rerun_seconds), "ms"),
            Figure("least cosine to the library's vector", spread(float(similarity.min())),
                   goal=Goal(0.9999, "at least", "ours")),
        ],
        facts={**facts, "corpus": origin, "texts": f"{count} x {options.repeats}", "threads": torch.get_num_threads()},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_benchmark("embedding", __doc__, add_arguments, measure))
