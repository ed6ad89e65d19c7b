import subprocess
import sys

import dagster as dg

from rag_pipeline.definitions import defs

# Written out, so that a changed edge shows in review.
EDGES = {
    "documents": set(),
    "document_versions": {"documents"},
    "chunks": {"document_versions"},
    "index_deltas": {"chunks"},
    "embeddings": {"chunks"},
    "hnsw_index": {"embeddings"},
    "retrieval_evaluation": {"hnsw_index"},
    "serving_index": {"retrieval_evaluation"},
}
CHECKS = {
    "documents:everything_was_read",
    "documents:sources_were_found",
    "index_deltas:nothing_waits_for_long",
    "embeddings:every_chunk_has_a_vector",
    "embeddings:vectors_are_sound",
    "hnsw_index:index_is_valid",
    "hnsw_index:index_is_used",
    "hnsw_index:recall_holds",
    "serving_index:index_matches_documents",
}
JOBS = {
    "ingest": {"documents", "document_versions", "chunks", "index_deltas"},
    "embed_model": {"embeddings"},
    "build_index": {"hnsw_index", "retrieval_evaluation"},
    "evaluate": {"retrieval_evaluation"},
    "promote": {"serving_index"},
    "swap_model": {"hnsw_index", "retrieval_evaluation", "serving_index"},
    "reconcile": set(),
    "answer_queries": set(),
    "retire_generations": set(),
    "register_model": set(),
    "roll_back": set(),
    "watch_recall": set(),
}


def test_the_asset_graph_has_exactly_these_edges():
    graph = defs.resolve_asset_graph()
    assert {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    } == EDGES


def test_every_stage_has_its_checks():
    keys = defs.resolve_asset_graph().asset_check_keys
    assert {f"{key.asset_key.to_user_string()}:{key.name}" for key in keys} == CHECKS


def test_each_job_runs_exactly_these_assets():
    found = {
        job.name: {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
        for job in defs.resolve_all_job_defs()
        if not job.name.startswith("__")
    }
    assert found == JOBS


def test_the_code_location_loads_as_a_server_would_load_it():
    dg.Definitions.validate_loadable(defs)


def test_partitions_are_models_by_buckets_and_then_models():
    graph = defs.resolve_asset_graph()
    names = {key.to_user_string(): graph.get(key).partitions_def for key in graph.get_all_asset_keys()}
    assert isinstance(names["embeddings"], dg.MultiPartitionsDefinition)
    assert [d.name for d in names["embeddings"].partitions_defs] == ["bucket", "embedding_model"]
    assert all(names[a] is None for a in ("documents", "document_versions", "chunks", "index_deltas"))
    models = {names[a].name for a in ("hnsw_index", "retrieval_evaluation", "serving_index")}
    assert models == {"embedding_model"}


def test_importing_the_definitions_opens_nothing_and_loads_no_model_library(tmp_path):
    code = (
        "import sys, rag_pipeline.definitions; "
        "print([m for m in ('torch', 'sentence_transformers', 'model2vec', 'pandas', 'matplotlib', 'openai')"
        " if m in sys.modules])"
    )
    environment = {"RAG_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "home").exists()
