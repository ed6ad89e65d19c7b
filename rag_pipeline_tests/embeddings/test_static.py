import subprocess
import sys

import numpy as np

from rag_pipeline.embeddings.models import ModelSpec, load_model
from rag_pipeline.embeddings.static import distil_static_model


def test_a_distilled_model_finds_what_a_question_is_about(static_model):
    documents = static_model.embed_documents(
        ["The relief valve leaks steam.", "Cats sleep most of the day.", "Backups run at night."]
    )
    query = static_model.embed_queries(["Which valve is leaking?"])[0]
    assert int(np.argmax(documents @ query)) == 0
    assert (documents.shape, documents.dtype) == ((3, 256), np.float32)
    assert np.allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-5)


def test_a_text_without_known_tokens_is_a_zero_vector(static_model):
    assert not static_model.embed_documents([""]).any()


def test_prompts_are_put_in_front(static_spec, static_model):
    prompted = load_model(ModelSpec("m", static_spec.source, document_prompt="steam "))
    assert np.allclose(prompted.embed_documents(["valve"]), static_model.embed_documents(["steam valve"]))
    assert static_model.embed_queries([]).shape == (0, 256)


def test_an_existing_distilled_model_is_kept(static_directory):
    before = (static_directory / "model.safetensors").stat().st_mtime_ns
    assert distil_static_model(static_directory, 256) == static_directory
    assert (static_directory / "model.safetensors").stat().st_mtime_ns == before


def test_embedding_needs_no_torch(static_directory):
    program = (
        "import sys; from rag_pipeline.embeddings.models import ModelSpec, load_model;"
        "load_model(ModelSpec('m', 'model2vec:' + sys.argv[1])).embed_queries(['hello']);"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(static_directory)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
