"""Where the SQL and configuration files are: beside the package in a checkout, inside it in a wheel."""

from functools import cache
from pathlib import Path
from typing import Any

from aiosql import from_path

PACKAGE = Path(__file__).parents[1]


def packaged_path(name: str) -> Path:
    """The file or folder `name` of the checkout or of the installed wheel."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name


def sql_folder() -> Path:
    """The folder with `migrations/` and `queries/`."""
    return packaged_path("sql")


@cache
def load_queries(stage: str) -> Any:
    """The named queries of one stage, from sql/queries/<stage>.sql, as functions of a psycopg connection."""
    return from_path(sql_folder() / "queries" / f"{stage}.sql", "psycopg", mandatory_parameters=False)
