"""Which chunks a search may return, as SQL put together from safe parts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from rag_pipeline.errors import MisuseError
from rag_pipeline.index.store import Generation


class FilterError(MisuseError, ValueError):
    """A `key=value` filter that cannot be read."""


class TimeError(MisuseError, ValueError):
    """A time that cannot be read."""


@dataclass(frozen=True)
class Scope:
    """Whose documents, with which metadata, at which time (None: now, as the generation serves it)."""

    tenant: str = "default"
    where: Mapping[str, str] = field(default_factory=dict)
    as_of: datetime | None = None


def parse_filters(items: Sequence[str]) -> dict[str, str]:
    """['key=value', ...] as a mapping. Raises `FilterError`."""
    filters = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise FilterError(f"{item!r} is not a filter: write key=value, as in --where region=eu")
        filters[key.strip()] = value
    return filters


def parse_time(text: str | None) -> datetime | None:
    """An ISO 8601 time; without a zone it is this machine's. Raises `TimeError`."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise TimeError(f"{text!r} is not a time; write it as 2026-11-21 or 2026-11-21T12:00+01:00") from None
    return moment if moment.tzinfo else moment.astimezone()


def match_values(value: str) -> list[Any]:
    """What a filter's text may mean in JSON: the string itself, and the number, boolean or null it reads as."""
    try:
        read = json.loads(value)
    except ValueError:
        return [value]
    return [value] if isinstance(read, str | list | dict) else [value, read]


def compose_scope(scope: Scope, generation: Generation) -> tuple[sql.Composed, dict[str, Any]]:
    """The joins from `vc` (version_chunk) to versions `v` and documents `d` that keep what is in scope.

    Goes behind `from rag.version_chunk vc`; the parameters are named scope_*.
    """
    return compose_joins(scope, generation.id, generation.chunker_id)


def compose_joins(scope: Scope, generation_id: int, chunker_id: int) -> tuple[sql.Composed, dict[str, Any]]:
    """`compose_scope` for a generation that is known by its numbers."""
    parts: list[sql.Composable] = [sql.SQL("join rag.document_version v on v.id = vc.version_id")]
    conditions = [
        sql.SQL("vc.chunker_id = {}").format(sql.Literal(chunker_id)),
        sql.SQL("d.tenant = %(scope_tenant)s"),
    ]
    parameters: dict[str, Any] = {"scope_tenant": scope.tenant}
    if scope.as_of is None:
        parts.append(
            sql.SQL("join rag.generation_version gv on gv.generation_id = {} and gv.version_id = v.id").format(
                sql.Literal(generation_id)
            )
        )
        conditions.append(sql.SQL("d.deleted_at is null"))
    else:
        parameters["scope_as_of"] = scope.as_of
        conditions.append(
            sql.SQL("v.valid_from <= %(scope_as_of)s and (v.valid_to is null or v.valid_to > %(scope_as_of)s)")
        )
    parts.append(sql.SQL("join rag.document d on d.id = v.document_id"))
    for number, (key, value) in enumerate(scope.where.items()):
        names = []
        for choice, meaning in enumerate(match_values(value)):
            for shape, content in enumerate(({key: meaning}, {key: [meaning]})):
                name = f"scope_{number}_{choice}_{shape}"
                parameters[name] = Jsonb(content)
                names.append(sql.SQL("v.metadata @> {}").format(sql.Placeholder(name)))
        conditions.append(sql.SQL("({})").format(sql.SQL(" or ").join(names)))
    return sql.SQL(" ").join([*parts, sql.SQL("where"), sql.SQL(" and ").join(conditions)]), parameters
