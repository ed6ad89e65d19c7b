"""The default model for tests where meaning matters."""

import pytest

from rag_pipeline.embeddings.models import EmbeddingModel, ModelSpec, load_model


@pytest.fixture(scope="session")
def minilm_of_serving() -> EmbeddingModel:
    return load_model(ModelSpec("minilm", "packaged:all-MiniLM-L6-v2"))
