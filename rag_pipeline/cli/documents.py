"""Commands on documents: ingest, history, diff."""

from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.cli.shell import connect, json_option, print_json, print_table, say, show_progress, tenant_option
from rag_pipeline.errors import ExpectedError

if TYPE_CHECKING:
    from rag_pipeline.documents.store import DocumentRecord


@click.command()
@click.argument("paths", nargs=-1, required=True)
@tenant_option
@click.option("--source", help="Name of the source; default: the folder's path.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only files that match; may be repeated.")
@click.option("--prune", is_flag=True, help="Delete documents that are gone from the given paths.")
@json_option
def ingest(
    paths: tuple[str, ...], tenant: str, source: str | None, include: tuple[str, ...], prune: bool, as_json: bool
) -> None:
    """Read folders, files and JSON lines; embed and index what changed. A Dagster run, in process."""
    from rag_pipeline.documents.locations import resolve_location

    locations = [resolve_location(path, tenant, source, include) for path in paths]
    from rag_pipeline.automation.runs import run_ingest  # Dagster: after the paths are known to be good
    from rag_pipeline.settings import load_settings

    with show_progress():
        result = run_ingest(load_settings(), locations, prune=prune)
    failures = result["failures"]
    for failure in failures[:20]:
        say(f"not read: {failure['uri']} ({failure['code']}): {failure['reason']}")
    if len(failures) > 20:
        say(f"… and {len(failures) - 20} more: rag status")
    if as_json:
        print_json({name: value for name, value in result.items() if name != "failures"})
        return
    documents, chunks, embeddings = result["documents"], result["chunks"], result["embeddings"]
    say(
        f"documents: {documents['added']:,} added, {documents['changed']:,} changed, {documents['removed']:,} removed, "
        f"{documents['unchanged']:,} unchanged, {documents['failed']:,} failed\n"
        f"chunks:    {chunks['new']:,} new, {chunks['reused']:,} reused\n"
        f"embedded:  {embeddings['new']:,} chunks, {result['characters']['embedded']:,} characters\n"
        f"serving:   generation {result['generation']}    "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["seconds"].items())
    )


@click.command()
@click.argument("document")
def history(document: str) -> None:
    """The versions of a document (its URI, its id, or its number)."""
    from rag_pipeline.versions.store import read_history

    with connect() as (_, database), database.connection() as connection:
        for found in _find_documents(connection, document):
            rows = [
                [
                    v.ordinal,
                    v.title,
                    v.characters,
                    v.parser,
                    v.content_sha256[:12],
                    f"{v.valid_from:%Y-%m-%d %H:%M:%S}",
                    f"{v.valid_to:%Y-%m-%d %H:%M:%S}" if v.valid_to else "now" if not found.deleted_at else "deleted",
                ]
                for v in read_history(connection, found.id)
            ]
            columns = ["version", "title", "characters", "parser", "sha256", "from", "to"]
            print_table(f"{found.uri}  (source {found.source}, tenant {found.tenant})", columns, rows)


@click.command()
@click.argument("document")
@click.argument("versions", nargs=-1, type=int)
def diff(document: str, versions: tuple[int, ...]) -> None:
    """What changed between two versions of a document; default: the last two."""
    from rag_pipeline.versions.comparison import compare_texts
    from rag_pipeline.versions.store import read_history, read_version

    if len(versions) not in (0, 2):
        raise click.UsageError("Give two version numbers, or none for the last two")
    with connect() as (_, database), database.connection() as connection:
        found = _find_documents(connection, document)[0]
        known = [v.ordinal for v in read_history(connection, found.id)]
        if len(known) < 2 and not versions:
            raise ExpectedError(f"{found.uri} has one version; there is nothing to compare it with")
        left, right = versions or (known[-2], known[-1])
        old, new = read_version(connection, found.id, left), read_version(connection, found.id, right)
    if old is None or new is None:
        raise click.UsageError(f"{found.uri} has the versions {known}")
    names = (f"{found.uri} version {left}", f"{found.uri} version {right}")
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in compare_texts(old.text, new.text, *names):
        bold = line.startswith(("+++", "---"))
        click.secho(line, fg=None if bold else colours.get(line[:1]), bold=bold)
    if old.metadata != new.metadata:
        click.secho(f"metadata: {old.metadata} -> {new.metadata}", fg="yellow")


def _find_documents(connection: Any, name: str) -> "list[DocumentRecord]":
    from rag_pipeline.documents.store import find_documents

    found = find_documents(connection, name)
    if not found:
        raise click.UsageError(f"No document has the URI, id or number {name!r}. Look them up with: rag search")
    return found
