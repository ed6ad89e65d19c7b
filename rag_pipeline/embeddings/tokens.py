"""Count tokens without loading a model: `tokenizers` and the model's JSON files only, no torch."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_pipeline.embeddings.models import ModelRefused, ModelSpec, parse_source
from rag_pipeline.embeddings.weights import open_model_directory, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TokenCounter = Callable[[Sequence[str]], list[int]]

# https://platform.openai.com/docs/guides/embeddings: "Max input 8192" (8191 for ada-002).
_OPENAI_MAX_TOKENS = 8191
# What the common open embedding models read; a server with more loses nothing but longer chunks.
_UNKNOWN_MAX_TOKENS = 512
# model2vec's own default (StaticModel.max_length) where the config names none.
_STATIC_MAX_TOKENS = 512
_SPECIAL_TOKENS = 2
_PIECES = re.compile(r"[A-Za-z]+|[0-9]+|[^\x00-\x7f]+|[^\sA-Za-z0-9]|\n+")


def load_token_counter(spec: ModelSpec) -> TokenCounter:
    """A function from texts to token counts, as the model would see them in `embed_documents`.

    The document prompt and special tokens are included, nothing is cut: a text fits if and only if its
    count is at most `max_tokens(spec)`. For endpoints the counts are `estimate_tokens`.
    """
    prompt = spec.document_prompt
    kind, _ = parse_source(spec.source)
    if kind == "openai":
        return lambda texts: [estimate_tokens(prompt + text) for text in texts]
    directory = open_model_directory(spec)
    tokenizer = open_tokenizer(directory)
    return make_token_counter(tokenizer, prompt, special_tokens=kind != "model2vec", lower=_lowers_text(directory))


def make_token_counter(
    tokenizer: "Tokenizer", prompt: str, *, special_tokens: bool, lower: bool = False
) -> TokenCounter:
    """A counter over an open tokenizer that neither cuts nor pads."""

    def count(texts: Sequence[str]) -> list[int]:
        given = [(prompt + text).lower() if lower else prompt + text for text in texts]
        encodings = tokenizer.encode_batch_fast(given, add_special_tokens=special_tokens)
        return [len(encoding) for encoding in encodings]

    return count


def open_tokenizer(directory: Path) -> "Tokenizer":
    """The model's fast tokenizer without truncation and padding. Raises ModelRefused where there is none."""
    from tokenizers import Tokenizer

    file = directory / "tokenizer.json"
    if not file.is_file():
        raise ModelRefused(f"{directory} has no tokenizer.json, so its tokens cannot be counted")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def max_tokens(spec: ModelSpec) -> int | None:
    """The longest text the model reads, in tokens with the special ones; None where there is no limit.

    For an endpoint: 8191 for OpenAI's text-embedding models, else 512, as the protocol has no way to ask.
    """
    kind, name = parse_source(spec.source)
    if kind == "openai":
        return _OPENAI_MAX_TOKENS if name.startswith("text-embedding-") else _UNKNOWN_MAX_TOKENS
    directory = open_model_directory(spec)
    if kind == "model2vec":
        limit = (read_json(directory / "config.json") or {}).get("max_length", _STATIC_MAX_TOKENS)
        return None if limit is None else int(limit)
    return read_max_tokens(directory)


def read_max_tokens(directory: Path) -> int | None:
    """The limit of a transformer: the smallest of what its configuration files say.

    sentence-transformers' max_seq_length, the tokenizer's model_max_length and the position table; the
    RoBERTa family loses pad_token_id + 1 positions of the latter.
    """
    sentence = _first_json(directory, "sentence_bert_config.json", "sentence_roberta_config.json")
    tokenizer = read_json(directory / "tokenizer_config.json") or {}
    config = read_json(directory / "config.json") or {}
    positions = config.get("max_position_embeddings")
    if positions and "roberta" in str(config.get("model_type")):
        positions -= int(config.get("pad_token_id") or 0) + 1
    limits = (sentence.get("max_seq_length"), tokenizer.get("model_max_length"), positions)
    # Tokenizers without a limit write 10**30 into model_max_length.
    known = [int(limit) for limit in limits if limit and 0 < limit < 10**9]
    return min(known) if known else None


def estimate_tokens(text: str) -> int:
    """An estimate on the high side for a tokenizer we cannot see.

    Three letters or two digits a token, each ASCII sign and each run of line breaks one, and for every
    other script one per UTF-8 byte, which no byte-level BPE can exceed; plus two special tokens.
    """
    return _SPECIAL_TOKENS + sum(_estimate_piece(piece) for piece in _PIECES.findall(text))


def _estimate_piece(piece: str) -> int:
    if not piece.isascii():
        return len(piece.encode("utf-8", errors="replace"))
    if piece.isalpha():
        return math.ceil(len(piece) / 3)
    return math.ceil(len(piece) / 2) if piece.isdigit() else 1


def _lowers_text(directory: Path) -> bool:
    return bool(_first_json(directory, "sentence_bert_config.json").get("do_lower_case"))


def _first_json(directory: Path, *names: str) -> dict[str, Any]:
    found = (read_json(directory / name) for name in names)
    return next((value for value in found if value), {})
