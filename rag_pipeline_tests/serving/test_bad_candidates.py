"""Candidates that are bad on purpose are refused on real documents, with the evidence; force is recorded."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.database.engine import Database
from rag_pipeline.embeddings.fingerprint import CANARIES, QUERY_CANARY
from rag_pipeline.embeddings.packaged import find_packaged_model
from rag_pipeline.index.store import Generation
from rag_pipeline.serving.comparison import compare_generations
from rag_pipeline.serving.evaluation import evaluate_candidate
from rag_pipeline.serving.promotion import GateRefusedError, promote
from rag_pipeline.serving.store import Evaluation, list_promotions, read_serving
from rag_pipeline.settings import Settings
from rag_pipeline_tests.whole_run import add_generation, bring_up, read_folder

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"


def save_words_of_minilm(directory: Path, dimension: int | None = None) -> Path:
    """The word vectors of all-MiniLM-L6-v2 as a static model, cut to so many dimensions."""
    from model2vec import StaticModel
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    source, _ = find_packaged_model("all-MiniLM-L6-v2")
    vectors = load_file(source / "model.safetensors")["embeddings.word_embeddings.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    StaticModel(vectors=vectors[:, :dimension], tokenizer=tokenizer).save_pretrained(directory)
    return directory


def save_words_of(texts: Sequence[str], directory: Path) -> Path:
    """A static model that knows the words of some texts, whatever their language: learned pieces, seeded vectors,
    the longer the rarer the piece is."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(vocab_size=2000, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator([*texts, *CANARIES, QUERY_CANARY], trainer)
    size = tokenizer.get_vocab_size()
    parts = [part for text in texts for part in text.split("\n\n")]
    known = Counter(piece for part in parts for piece in set(tokenizer.encode(part).ids))
    rarity = np.array([np.log(1 + len(parts) / (1 + known[piece])) for piece in range(size)])
    vectors = np.random.default_rng(1).normal(size=(size, 256)) * rarity[:, None]
    StaticModel(vectors=vectors.astype(np.float32), tokenizer=tokenizer).save_pretrained(directory)
    return directory


def serve_corpus(database: Database, settings: Settings, folder: Path, model: Path) -> Generation:
    settings = settings.model_copy(update={"model": f"model2vec:{model}", "model_slug": "served"})
    read_folder(database, settings, folder)
    return bring_up(database, settings)


@pytest.fixture(scope="module")
def words_of_minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_words_of_minilm(tmp_path_factory.mktemp("models") / "words")


def assert_refused(database: Database, evaluation: Evaluation) -> None:
    """The gate stays shut, the pointer stays, and the evidence is there for everyone to read."""
    assert (evaluation.verdict, evaluation.allows) == ("worse", False), evaluation.reason
    metrics = evaluation.metrics
    assert metrics["differences"]["ndcg_at_10"]["high"] < 0 or "vectors alone" in evaluation.reason
    assert metrics["vector_ndcg_at_10"][0] < metrics["vector_ndcg_at_10"][1]
    with database.connection() as connection:
        before = read_serving(connection)
    with pytest.raises(GateRefusedError, match=r"is worse: .*nDCG@10 -0\."):
        promote(database, evaluation.generation_id, actor="me", reason="test")
    with database.connection() as connection:
        assert read_serving(connection) == before


def test_a_model_cut_to_a_few_dimensions_is_refused(
    database: Database, settings: Settings, words_of_minilm: Path, tmp_path: Path
) -> None:
    serve_corpus(database, settings, CORPUS, words_of_minilm)
    candidate = add_generation(database, settings, "cut", save_words_of_minilm(tmp_path / "cut", 4))
    assert candidate.dimension == 4
    assert_refused(database, evaluate_candidate(database, settings, candidate))


def test_a_model_of_another_language_is_refused(
    database: Database, settings: Settings, words_of_minilm: Path, tmp_path: Path
) -> None:
    """It learned its words from Japanese and Korean; of English it knows the letters."""
    serve_corpus(database, settings, CORPUS, words_of_minilm)
    with database.connection() as connection:
        rows = connection.execute(
            "select v.text from rag.document d join rag.document_version v on v.id = d.current_version_id"
            " where d.uri like any(array['ja/%', 'ko/%'])"
        ).fetchall()
    assert len(rows) > 5
    foreign = save_words_of([row[0] for row in rows], tmp_path / "foreign")
    candidate = add_generation(database, settings, "foreign", foreign)
    assert_refused(database, evaluate_candidate(database, settings, candidate))


def shuffle_vectors(database: Database, candidate: Generation) -> None:
    """Give every vector to another chunk, in the ledger and in the index: each is sound by itself."""
    with database.connection() as connection:
        for table, column in ((f"embedding_{candidate.space_id}", "vector"), (candidate.table_name, "embedding")):
            connection.execute(
                f"update rag.{table} i set {column} = o.{column} from (select {column}, row_number() over"
                f" (order by chunk_id) as n from rag.{table}) o, (select chunk_id, row_number() over"
                f" (order by chunk_id desc) as n from rag.{table}) t where t.n = o.n and t.chunk_id = i.chunk_id"
            )


def test_shuffled_vectors_are_refused_though_the_words_still_find_everything(
    database: Database, settings: Settings, words_of_minilm: Path, tmp_path: Path
) -> None:
    serve_corpus(database, settings, CORPUS, words_of_minilm)
    candidate = add_generation(database, settings, "shuffled", save_words_of_minilm(tmp_path / "copy", 256))
    shuffle_vectors(database, candidate)
    assert_refused(database, evaluate_candidate(database, settings, candidate))


def test_force_overrides_the_verdict_and_says_who_and_why(
    database: Database, settings: Settings, words_of_minilm: Path, tmp_path: Path
) -> None:
    served = serve_corpus(database, settings, CORPUS, words_of_minilm)
    candidate = add_generation(database, settings, "cut", save_words_of_minilm(tmp_path / "cut", 4))
    evaluation = evaluate_candidate(database, settings, candidate)
    promote(database, candidate.id, actor="Ada", reason="to show the difference", force=True)
    with database.connection() as connection:
        last = list_promotions(connection)[-1]
    assert (last.generation_id, last.previous_id, last.forced) == (candidate.id, served.id, True)
    assert (last.actor, last.reason, last.evaluation_id) == ("Ada", "to show the difference", evaluation.id)


def test_a_good_candidate_is_not_refused_by_the_same_gate(
    database: Database, settings: Settings, words_of_minilm: Path, tmp_path: Path
) -> None:
    """The other way round: what is refused above is refused for what it does, not for being new."""
    serve_corpus(database, settings, CORPUS, save_words_of_minilm(tmp_path / "cut", 4))
    candidate = add_generation(database, settings, "whole", words_of_minilm)
    evaluation = evaluate_candidate(database, settings, candidate)
    assert evaluation.allows, evaluation.reason
    promote(database, candidate.id, actor="me", reason="test")
    found = compare_generations(database, settings, "whole", "served")
    assert (found.evaluation.id, found.candidate.state) == (evaluation.id, "serving")
