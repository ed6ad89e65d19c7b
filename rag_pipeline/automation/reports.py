"""How runs show what they did: Markdown tables and rates. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_CELL = 100


def make_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; cells are cut to one short line."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_show(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) if len(lines) > 2 else "nothing"


def _show(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.4g}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    text = " > ".join(map(str, cell)) if isinstance(cell, list | tuple) else str(cell)
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def rate(amount: float, seconds: float) -> float:
    """Amount per second, 0 where nothing took time."""
    return round(amount / seconds, 1) if seconds > 0 else 0.0
