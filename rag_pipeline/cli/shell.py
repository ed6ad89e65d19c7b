"""What every command shares: expected errors as one sentence, the open database, options, and ways to print."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.errors import ExpectedError

if TYPE_CHECKING:
    from rag_pipeline.database.engine import Database
    from rag_pipeline.settings import Settings

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose documents.")


class ExpectedErrors(click.Group):
    """Turns the errors that users can do something about into one sentence; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ExpectedError as error:
            say(f"Error: {error}")
            raise click.exceptions.Exit(error.exit_code) from error
        except BaseException as error:
            # Dagster's own is known by name: importing it costs more than most commands
            if type(error).__name__ not in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"):
                raise
            say("Stopped. What was finished stays; the same command goes on from there.")
            raise click.Abort() from error


@contextmanager
def connect() -> Iterator[tuple["Settings", "Database"]]:
    """The settings and the database they name, closed at the end."""
    from rag_pipeline.database.engine import open_database
    from rag_pipeline.settings import load_settings

    settings = load_settings()
    database = open_database(settings)
    try:
        yield settings, database
    finally:
        database.close()


def show_progress() -> AbstractContextManager[None]:
    """Bars on standard error for the work inside."""
    from rag_pipeline.progress import BarReporter, report_to

    return report_to(BarReporter())


def say(text: str) -> None:
    """A line for the person at the terminal, who may have piped standard output away."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table as wide as the terminal, or 140 columns where there is none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console = Console(markup=False)
    (console if console.is_terminal else Console(markup=False, width=140)).print(table)


def print_records(title: str, columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    """A table of the named fields; a record without one leaves its cell empty."""
    print_table(title, columns, [[record.get(name) for name in columns] for record in records])
