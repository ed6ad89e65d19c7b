"""The difference between two texts, readable. Pure."""

import difflib
from collections.abc import Iterator


def compare_texts(old: str, new: str, old_name: str, new_name: str, context: int = 2) -> Iterator[str]:
    """Unified diff lines without line ends."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), fromfile=old_name, tofile=new_name, n=context, lineterm=""
    )
    yield from lines
