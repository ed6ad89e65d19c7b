"""How much is embedded anew when documents change: this package's chunks against fixed-size chunks.

Replays real histories of documents revision by revision, as an index would see them. A chunk whose content address
was seen before costs nothing; every other one counts with its characters and tokens as they are embedded. Ours
is the default recipe, its ceiling of 256 tokens included, by the product's own content address: title and heading
path count, link destinations and layout don't. The baseline is the usual recursive splitter, 500 characters with an
overlap of 50, embedding its plain text; and, to be known, the same with the title in front. It cuts by
semantic-text-splitter, as the product's `recursive` option does, and by LangChain too where that is installed.

Ours are smaller chunks: the mean sizes are in the table. The goal is about characters embedded over a whole
history, the first revision included; the second about tokens embedded for edits alone.

    python -m benchmarks.chunk_reuse --data DIRECTORY --plot FOLDER
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks import corpora
from benchmarks.measuring import spread
from benchmarks.reporting import Curve, Figure, Goal, Report, run_benchmark
from rag_pipeline.chunks.chunking import ChunkerRecipe, CountTokens, chunk_documents
from rag_pipeline.chunks.embedded_text import content_address, embedded_text
from rag_pipeline.chunks.markdown_blocks import normalise_line_breaks, scan_blocks

SETS = ("versions-fastapi-en", "versions-fastapi-ko")
SIZE, OVERLAP = 500, 50
OURS = "ours"
PLAIN = f"recursive {SIZE}/{OVERLAP}"
WITH_TITLE = f"{PLAIN} + title"
LANGCHAIN = f"LangChain {PLAIN}"
CHARACTERS_GOAL, EDIT_TOKENS_GOAL = Goal(0.75), Goal(0.6)


class Piece(NamedTuple):
    """key: what makes a chunk the same chunk; size: characters of its text alone."""

    key: str | bytes
    embedded: str
    size: int


# What a chunker makes of a revision, given as title and text.
CutRevision = Callable[[str, str], list[Piece]]


@dataclass
class Tally:
    """What one chunker cost over a replay; `edit_*`: without the first revision of each document."""

    characters: int = 0
    tokens: int = 0
    edit_characters: int = 0
    edit_tokens: int = 0
    chunks: int = 0
    chunk_characters: int = 0
    new_shares: list[float] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)

    @property
    def mean_size(self) -> float:
        return self.chunk_characters / max(self.chunks, 1)

    @property
    def new_share(self) -> float:
        """Mean over the revisions after a document's first of new chunks / chunks."""
        return sum(self.new_shares) / max(len(self.new_shares), 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, action="append", help="a folder with versions.jsonl; may be repeated")
    parser.add_argument("--size", type=int, default=ChunkerRecipe().size, help="size of our chunks, in characters")


def read_histories(data: Path) -> list[list[Path]]:
    """The files of each document, oldest first; documents by name. Those listed but not stored are left out."""
    histories: dict[str, list[Path]] = {}
    for line in (data / "versions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        path = data / row["file"]
        if path.exists():
            histories.setdefault(row["doc"], []).append(path)
    return [paths for _, paths in sorted(histories.items())]


def read_title(text: str, fallback: str) -> str:
    """The first heading of the highest level, else the file's own name, as a parser would take it."""
    headings = (block.heading for block in scan_blocks(normalise_line_breaks(text)) if block.level == 1)
    return next(headings, fallback)


def cut_ours(recipe: ChunkerRecipe, count_tokens: CountTokens) -> CutRevision:
    """As the index does it."""

    def cut(title: str, text: str) -> list[Piece]:
        return [
            Piece(
                content_address(title, chunk.heading_path, chunk.text),
                embedded_text(title, chunk.heading_path, chunk.text),
                len(chunk.text),
            )
            for chunk in chunk_documents([(title, text)], recipe, count_tokens)[0]
        ]

    return cut


def cut_plain(split: Callable[[str], Sequence[str]], *, with_title: bool = False) -> CutRevision:
    """Pieces of text as a splitter gives them, alone or behind the title."""

    def cut(title: str, text: str) -> list[Piece]:
        header = f"{title}\n\n" if with_title else ""
        return [Piece(header + piece, header + piece, len(piece)) for piece in split(text)]

    return cut


def split_by_product(text: str) -> list[str]:
    """The product's `recursive` option: what semantic-text-splitter makes of it, without a token ceiling."""
    recipe = ChunkerRecipe(name="recursive", size=SIZE, overlap=OVERLAP, max_tokens=None)
    return [chunk.text for chunk in chunk_documents([("", text)], recipe, lambda texts: [0] * len(texts))[0]]


def find_chunkers(size: int, count_tokens: CountTokens) -> dict[str, CutRevision]:
    """Ours first, then the baselines that are installed."""
    chunkers = {
        OURS: cut_ours(ChunkerRecipe(size=size), count_tokens),
        PLAIN: cut_plain(split_by_product),
        WITH_TITLE: cut_plain(split_by_product, with_title=True),
    }
    try:
        from langchain_text_splitters import RecursiveCharacterTextSplitter
    except ImportError:
        return chunkers
    langchain = RecursiveCharacterTextSplitter(chunk_size=SIZE, chunk_overlap=OVERLAP)
    return {**chunkers, LANGCHAIN: cut_plain(langchain.split_text)}


def replay(histories: Sequence[Sequence[Path]], cut: CutRevision, count_tokens: CountTokens) -> Tally:
    """Embeds every revision in order; what was embedded before, in any document, is free."""
    tally = Tally()
    seen: set[str | bytes] = set()
    for paths in histories:
        for number, path in enumerate(paths):
            text = path.read_text(encoding="utf-8")
            pieces = cut(read_title(text, path.parent.name), text)
            new = {piece.key: piece.embedded for piece in pieces if piece.key not in seen}
            seen.update(new)
            characters = sum(map(len, new.values()))
            tokens = sum(count_tokens(list(new.values()))) if new else 0
            tally.characters += characters
            tally.tokens += tokens
            tally.growth.append(tally.characters / 1e6)
            tally.chunks += len(pieces)
            tally.chunk_characters += sum(piece.size for piece in pieces)
            if number:
                tally.edit_characters += characters
                tally.edit_tokens += tokens
                tally.new_shares += [len(new) / len(pieces)] if pieces else []
    return tally


def open_token_counter() -> CountTokens:
    """Counts as all-MiniLM-L6-v2 does, special tokens included, from the packaged tokenizer."""
    from rag_pipeline.embeddings.registry import open_counter

    return open_counter("packaged:all-MiniLM-L6-v2")


def compare(group: str, tallies: dict[str, Tally], *, judged: bool) -> list[Figure]:
    """Ours against every baseline. Only plain text is what the goals are about, and only over a whole set."""
    ours = tallies[OURS]
    figures = []
    for name, baseline in tallies.items():
        if name == OURS:
            continue
        is_goal = judged and name != WITH_TITLE
        for what, unit, mine, other, goal in (
            ("characters", "", ours.characters, baseline.characters, CHARACTERS_GOAL),
            ("tokens", "", ours.tokens, baseline.tokens, None),
            ("tokens for edits", "", ours.edit_tokens, baseline.edit_tokens, EDIT_TOKENS_GOAL),
            ("new chunks per revision", "%", 100 * ours.new_share, 100 * baseline.new_share, None),
            ("mean chunk", "characters", ours.mean_size, baseline.mean_size, None),
        ):
            figures.append(
                Figure(
                    f"{group}: {what}, against {name}",
                    spread(mine),
                    unit,
                    spread(other),
                    spread(mine / max(other, 1e-9)),
                    goal if is_goal else None,
                )
            )
    return figures


def measure(options: argparse.Namespace) -> Report:
    folders = options.data or [corpora.find_shared_data() / name for name in SETS]
    count_tokens = open_token_counter()
    chunkers = find_chunkers(options.size, count_tokens)
    report = Report("chunk_reuse", facts={"size": options.size})
    for folder in folders:
        if not (folder / "versions.jsonl").exists():
            report.notes.append(f"{folder.name} is not there and was left out")
            continue
        histories = read_histories(folder)
        # Size and shares were chosen on the documents at even places. The others were looked at along the
        # way, so their figures are a second opinion and not an untouched test.
        parts = {"all": histories, "tuning half": histories[::2], "other half": histories[1::2]}
        for part, chosen in parts.items():
            tallies = {name: replay(chosen, cut, count_tokens) for name, cut in chunkers.items()}
            report.figures += compare(f"{folder.name}, {part}", tallies, judged=part == "all")
            if part == "all":
                series = {name: [(float(n), y) for n, y in enumerate(t.growth, 1)] for name, t in tallies.items()}
                report.curves.append(Curve(folder.name, "revisions replayed", "million characters embedded", series))
                revisions = sum(map(len, chosen))
                report.notes.append(f"{folder.name}: {len(chosen)} documents, {revisions} revisions")
            if options.short:
                break
    if LANGCHAIN not in chunkers:
        report.notes.append("langchain-text-splitters is not installed: its rows are left out")
    return report


if __name__ == "__main__":
    sys.exit(run_benchmark("chunk_reuse", __doc__, add_arguments, measure))
