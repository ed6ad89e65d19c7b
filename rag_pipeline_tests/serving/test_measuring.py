"""What a measured run is written as."""

from rag_pipeline.serving.measuring import Measured, Scored, format_run
from rag_pipeline.serving.questions import JudgedQuery


def test_a_run_file_is_what_trec_eval_reads() -> None:
    query = JudgedQuery("q1", "red", {"a": 1.0})
    text = format_run(Measured(1, "hybrid", [Scored(query, ["a", "b"], 1, 1, 1, 1, 2.0)]))
    assert text == "q1 Q0 a 1 1.000000 rag-hybrid\nq1 Q0 b 2 0.500000 rag-hybrid\n"


def test_a_comparison_takes_recall_among_the_first_ten() -> None:
    outcome = Scored(JudgedQuery("q1", "red", {"a": 1.0}), ["a"], 0.9, 0.5, 1.0, 0.25, 3.0).outcome()
    assert (outcome.ndcg_at_10, outcome.recall_at_10, outcome.reciprocal_rank) == (0.9, 0.5, 0.25)
