"""Answering a question from search hits: by the configured LLM, else by quoting the best sentences."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rag_pipeline.embeddings.models import ModelError
from rag_pipeline.embeddings.registry import open_model
from rag_pipeline.embeddings.store import ModelRecord
from rag_pipeline.serving.answering import (
    Sentence,
    SentenceVectors,
    answer_from_hits,
    embed_sentences,
    list_sentences,
)
from rag_pipeline.serving.citations import check_citations
from rag_pipeline.serving.llm import LlmSettings, stream_answer
from rag_pipeline.serving.search import SearchResult
from rag_pipeline.settings import Settings, SettingsError


@dataclass(frozen=True)
class Answer:
    """An answer with its provenance. `kind` is 'generated' or 'extractive'; `citations` are ranks of hits."""

    question: str
    text: str
    kind: str
    citations: list[int]
    unknown_citations: list[int]
    uncited_sentences: int
    result: SearchResult
    usage: dict[str, int] | None = None


def llm_settings(settings: Settings) -> LlmSettings | None:
    """The configured chat endpoint, or None. Raises `SettingsError` where only half of it is set."""
    if settings.llm_base_url is None:
        return None
    if settings.llm_model is None:
        raise SettingsError("RAG_LLM_BASE_URL is set and RAG_LLM_MODEL is not: name the model to ask")
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    return LlmSettings(settings.llm_base_url, settings.llm_model, key)


def answer_question(
    settings: Settings,
    record: ModelRecord,
    question: str,
    result: SearchResult,
    on_piece: Callable[[str], Any] | None = None,
) -> Answer:
    """Answer from the hits of `result`; `on_piece` gets generated text as it arrives.

    Without an LLM the answer quotes sentences and says so; where the embedding model is away, it chooses them by their
    words alone. Raises an LlmError if the LLM fails.
    """
    endpoint = llm_settings(settings)
    if endpoint is None or not result.hits:
        vectors = None if result.degraded else _embed(question, list_sentences(result.hits), record)
        quoted = answer_from_hits(question, result.hits, vectors=vectors)
        cited = list(dict.fromkeys(quote.citation for quote in quoted.quotes))
        return Answer(question, quoted.text, "extractive", cited, [], 0, result)
    stream = stream_answer(question, result.hits, endpoint)
    pieces = []
    for piece in stream:
        pieces.append(piece)
        if on_piece:
            on_piece(piece)
    text = "".join(pieces)
    report = check_citations(text, stream.passages)
    usage = (
        {"prompt_tokens": stream.usage.prompt_tokens, "completion_tokens": stream.usage.completion_tokens}
        if stream.usage
        else None
    )
    return Answer(question, text, "generated", report.cited, report.unknown, report.uncited_sentences, result, usage)


def _embed(question: str, sentences: list[Sentence], record: ModelRecord) -> SentenceVectors | None:
    if not sentences:
        return None
    try:
        return embed_sentences(question, sentences, open_model(record.spec))
    except ModelError:
        return None
