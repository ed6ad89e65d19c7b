import pytest

from rag_pipeline.embeddings.encoder import EncoderPlan, NotPlanned, plan_encoder, read_encoder_plan
from rag_pipeline.embeddings.packaged import find_packaged_model

PLAIN = {
    "kinds": ("Transformer", "Pooling", "Normalize"),
    "config": {
        "model_type": "bert",
        "hidden_size": 4,
        "num_hidden_layers": 0,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    },
    "sentence": {},
    "pooling": {"pooling_mode": "mean"},
    "tensors": frozenset(
        f"embeddings.{name}"
        for name in (
            "word_embeddings.weight",
            "position_embeddings.weight",
            "token_type_embeddings.weight",
            "LayerNorm.weight",
            "LayerNorm.bias",
        )
    ),
}


def test_the_packaged_model_runs_without_the_library():
    plan = read_encoder_plan(find_packaged_model("all-MiniLM-L6-v2")[0])
    assert isinstance(plan, EncoderPlan)
    assert (plan.layers, plan.heads, plan.dimension, plan.pooling) == (6, 12, 384, "mean")


def test_a_plain_encoder_is_planned():
    assert isinstance(plan_encoder(**PLAIN), EncoderPlan)


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("kinds", ("Transformer", "Pooling", "Dense", "Normalize"), "modules"),
        ("kinds", (), "modules"),
        ("config", {"model_type": "mpnet"}, "mpnet"),
        ("config", {"hidden_act": "relu"}, "gelu"),
        ("config", {"position_embedding_type": "relative_key"}, "positions"),
        ("sentence", {"do_lower_case": True}, "tokenizer"),
        ("pooling", {"pooling_mode": ["cls", "mean"]}, "pooling"),
        ("pooling", {"pooling_mode": "lasttoken"}, "pooling"),
        ("pooling", {"include_prompt": False}, "pooling"),
        ("tensors", PLAIN["tensors"] - {"embeddings.word_embeddings.weight"}, "word_embeddings"),
    ],
)
def test_anything_that_is_not_plain_goes_through_the_library(part, change, reason):
    changed = {**PLAIN[part], **change} if isinstance(change, dict) else change
    verdict = plan_encoder(**{**PLAIN, part: changed})
    assert isinstance(verdict, NotPlanned)
    assert reason in verdict.reason
