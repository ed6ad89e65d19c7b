"""A model behind a real endpoint that a test can break, replace and mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_pipeline.embeddings.models import EmbeddingModel, ModelSpec, load_model
from rag_pipeline_tests.embeddings.scripted_endpoint import Answer, Endpoint, serve


@dataclass
class RemoteModel:
    """`broken`: the endpoint refuses everything, after `delay` seconds. `model` computes its answers."""

    model: EmbeddingModel
    broken: bool = False
    delay: float = 0.0
    endpoint: Endpoint | None = None

    @property
    def spec(self) -> ModelSpec:
        assert self.endpoint is not None
        return ModelSpec("remote", "openai:remote", base_url=self.endpoint.base_url)

    @property
    def asked(self) -> int:
        assert self.endpoint is not None
        return len(self.endpoint.requests)

    def answer(self, _number: int, asked: dict[str, Any]) -> Answer:
        if self.broken:
            return Answer({"error": {"message": "out of order"}}, 401, delay=self.delay)
        vectors = self.model.embed_documents(asked["input"])
        return Answer({"data": [{"index": row, "embedding": v.tolist()} for row, v in enumerate(vectors)]})


@contextmanager
def serve_model(directory: Path) -> Iterator[RemoteModel]:
    """The static model of a folder behind an endpoint, until the block ends."""
    remote = RemoteModel(load_model(ModelSpec("behind", f"model2vec:{directory}")))
    with serve(remote.answer) as remote.endpoint:
        yield remote
