"""What is written during a life: numbered states of two folders, the same for the same seed.

Folder 'own' is the worker's, folder 'live' is edited by a second process at the same time. The last state of
both is the end that every life must come to.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from rag_pipeline_tests.tiny_model import make_text

OWN_STATES, LIVE_STATES = 8, 18
ANCHORS = 12
SHARED = 6  # texts that both folders hold, so that the two workers meet at the same chunks
HTML = "<html><head><title>Pump</title></head><body><article><p>{}</p></article></body></html>"

State = dict[str, str]


def make_states(folder: str, seed: int) -> list[State]:
    """Every state of a folder: content by file name; rows of a JSONL file as one content.

    Each state changes, deletes and adds documents, brings a deleted one back as it was, and keeps the anchors.
    """
    chosen = random.Random(f"{folder} {seed}")
    files, lines = (30, 20) if folder == "own" else (10, 6)
    kept = {f"part{n % 4}/file{n}.md": _make_text(chosen) for n in range(files)}
    rows = {f"{folder}{n}": _make_text(chosen) for n in range(lines)}
    if folder == "own":
        kept |= make_anchors(seed)
        kept |= {"pump.html": HTML.format(_make_text(chosen)), "broken.docx": "this is no archive"}
    kept |= {f"shared{n}.md": text for n, text in enumerate(_make_shared(seed))}
    gone: dict[str, str] = {}
    states = []
    for number in range(OWN_STATES if folder == "own" else LIVE_STATES):
        if number:
            _edit(chosen, kept, rows, gone, number)
        table = [json.dumps({"id": name, "title": name, "text": text}) for name, text in rows.items()]
        states.append({**kept, "rows.jsonl": "\n".join(table) + "\n"})
    return states


def make_anchors(seed: int) -> State:
    """Documents that are never edited: a search for their words must find them at every moment."""
    chosen = random.Random(f"anchors {seed}")
    return {f"anchor/{n}.md": make_text(chosen, 40) for n in range(ANCHORS)}


def make_questions(seed: int) -> dict[str, tuple[str, str]]:
    """Judged queries by their id: (words of an anchor in another order, the anchor)."""
    chosen = random.Random(f"questions {seed}")
    return {
        f"{uri} {n}": (" ".join(chosen.sample(text.replace(".", "").lower().split(), 6)), uri)
        for uri, text in make_anchors(seed).items()
        for n in range(3)
    }


def _make_shared(seed: int) -> list[str]:
    chosen = random.Random(f"shared {seed}")
    return [make_text(chosen, 60) for _ in range(SHARED)]


def _make_text(chosen: random.Random) -> str:
    return make_text(chosen, chosen.randint(30, 120))


def _edit(chosen: random.Random, kept: State, rows: dict[str, str], gone: State, number: int) -> None:
    for held in (kept, rows):
        names = sorted(name for name in held if not name.startswith(("anchor/", "pump", "broken", "empty")))
        for name in chosen.sample(names, max(2, len(names) // 10)):
            gone[name] = held.pop(name)
        names = [name for name in names if name in held]
        for name in chosen.sample(names, max(2, len(names) // 10)):
            held[name] += " " + make_text(chosen, 12)
    for name in chosen.sample(sorted(gone), 3):
        (kept if name.endswith(".md") else rows)[name] = gone.pop(name)
    for count in range(2):
        kept[f"new/{number}-{count}.md"] = _make_text(chosen)
        rows[f"new{number}-{count}"] = _make_text(chosen)
    # one text in two documents; one without any; and one the model knows no word of: it is found by its words only
    kept[f"new/{number}-copy.md"] = kept[f"new/{number}-0.md"]
    kept["empty.md"] = ""
    kept["unknown.md"] = f"qqqq{number} xxxx"


def write_state(folder: Path, state: State) -> None:
    """Make a folder hold a state; files that hold it already are not touched."""
    for path in _list_files(folder):
        if path.relative_to(folder).as_posix() not in state:
            path.unlink()
    for name, text in state.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _list_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
