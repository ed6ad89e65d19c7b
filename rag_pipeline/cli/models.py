"""Commands on embedding models: add, distil, list."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click

from rag_pipeline.cli.shell import connect, json_option, print_json, print_records, say

MODEL_COLUMNS = ("slug", "source", "state", "dimension", "max_tokens", "vectors", "drift")


@click.command("add")
@click.argument("slug")
@click.argument("source")
@click.option("--query-prompt", help="Put in front of every query; default: what the model declares.")
@click.option("--document-prompt", help="Put in front of every document; default: what the model declares.")
@click.option("--base-url", help="Endpoint of an openai:MODEL source.")
@click.option("--sha256", help="The weights must have this hash.")
@click.option("--no-normalise", is_flag=True, help="Keep vector lengths as the model gives them.")
def add(
    slug: str,
    source: str,
    query_prompt: str | None,
    document_prompt: str | None,
    base_url: str | None,
    sha256: str | None,
    no_normalise: bool,
) -> None:
    """Register a model under SLUG and probe it once.

    SOURCE is packaged:all-MiniLM-L6-v2, a directory, a Hugging Face name, model2vec:DIRECTORY_OR_NAME, or
    openai:MODEL with --base-url.
    """
    from rag_pipeline.embeddings.models import ModelError, ModelSpec
    from rag_pipeline.embeddings.registry import add_model
    from rag_pipeline.embeddings.weights import read_declared_prompts

    spec = ModelSpec(slug, source, query_prompt or "", document_prompt or "", not no_normalise, base_url, sha256)
    if query_prompt is None and document_prompt is None:
        with suppress(ModelError):  # registering says what is wrong, and records it
            query, document = read_declared_prompts(spec)
            if query or document:
                say(f"its own prompts: {query!r} before queries, {document!r} before documents")
                spec = replace(spec, query_prompt=query, document_prompt=document)
    with connect() as (_, database):
        record = add_model(database, spec)
    same = f", the same space as model {record.space_id}: nothing to embed" if record.space_id != record.id else ""
    say(f"{slug}: {record.dimension} dimensions, {record.max_tokens or 'any number of'} tokens{same}")


@click.command("distil")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dimension", default=256, show_default=True, type=click.IntRange(32, 384))
def distil(directory: Path, dimension: int) -> None:
    """Distil a static model (model2vec) from the packaged all-MiniLM-L6-v2: hundreds of times faster, less exact.

    Takes about half a minute and no network. Register it with: rag model add SLUG model2vec:DIRECTORY
    """
    from rag_pipeline.embeddings.static import distil_static_model

    say(f"distilled into {distil_static_model(directory, dimension)}")


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The registered models, those of rag.toml included."""
    from rag_pipeline.embeddings.registry import register_configured_models
    from rag_pipeline.serving.status import read_status

    with connect() as (settings, database):
        for reason in register_configured_models(database, settings.models).values():
            say(reason)
        models = read_status(database).models
    if as_json:
        print_json(models)
        return
    print_records("Models", MODEL_COLUMNS, models)
