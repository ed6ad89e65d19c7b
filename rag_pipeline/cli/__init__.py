"""The `rag` command: parses, calls, prints. Decides nothing.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a gate. JSON goes to standard output, all else to
standard error, so that output can be piped.
"""

import click

from rag_pipeline.cli import care, documents, models, serving, swaps
from rag_pipeline.cli.shell import ExpectedErrors

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=ExpectedErrors, context_settings=CONTEXT)
@click.version_option(package_name="rag_pipeline", prog_name="rag")
def main() -> None:
    """Keep a retrieval index on PostgreSQL + pgvector true: to documents as they change, to the model as it is
    swapped, proven before anyone is served from it."""


@click.group()
def model() -> None:
    """Embedding models: add, plan, swap, compare, roll back."""


@click.group()
def golden() -> None:
    """Judged queries that candidates are compared on."""


for command in (models.add, models.distil, models.list_):
    model.add_command(command)
for command in (swaps.plan, swaps.swap, swaps.compare, swaps.promote, swaps.rollback, swaps.retire):
    model.add_command(command)
golden.add_command(care.golden_add)
for command in (documents.ingest, documents.history, documents.diff, serving.search, serving.ask, serving.evaluate):
    main.add_command(command)
for command in (model, golden, care.status, care.doctor, care.recall, care.settings, care.up):
    main.add_command(command)

__all__ = ["main"]
