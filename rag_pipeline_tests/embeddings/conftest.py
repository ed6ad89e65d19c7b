"""Real models for the tests, loaded once a session."""

import os
import tempfile
from pathlib import Path

import pytest

from rag_pipeline.embeddings.models import EmbeddingModel, ModelSpec, load_model
from rag_pipeline.embeddings.static import distil_static_model

MINILM = ModelSpec("minilm", "packaged:all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def minilm() -> EmbeddingModel:
    return load_model(MINILM)


@pytest.fixture(scope="session")
def static_directory() -> Path:
    """A static model distilled from the packaged one; half a minute the first time, then reused."""
    pytest.importorskip("skeletoken", reason="distilling needs skeletoken (the extra `distil`)")
    home = os.environ.get("RAG_HOME")
    base = Path(home) if home else Path(tempfile.gettempdir()) / "rag-pipeline-tests"
    return distil_static_model(base / "models" / "static-minilm-256", 256)


@pytest.fixture(scope="session")
def static_spec(static_directory: Path) -> ModelSpec:
    return ModelSpec("static", f"model2vec:{static_directory}")


@pytest.fixture(scope="session")
def static_model(static_spec: ModelSpec) -> EmbeddingModel:
    return load_model(static_spec)
