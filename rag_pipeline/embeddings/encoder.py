"""A small forward pass for BERT and RoBERTa encoders, straight from their safetensors.

Why not the library: importing sentence_transformers takes 4 s on a quiet machine (9-12 s on a busy one)
before the first query vector, torch alone under 1 s; and without the library's per-batch work the same
matrices run about a fifth faster. Only what `plan_encoder` recognises in full runs here; all else goes
through the library.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rag_pipeline.embeddings.weights import read_json

if TYPE_CHECKING:
    import torch

_KINDS = ("Transformer", "Pooling", "Normalize")
_FAMILIES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta.", "camembert": "roberta."}
_LAYER_PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


@dataclass(frozen=True)
class EncoderPlan:
    """Everything the forward pass needs to know besides the weights."""

    layers: int
    heads: int
    dimension: int
    epsilon: float
    pad_token: int
    first_position: int
    pooling: Literal["mean", "cls"]
    prefix: str


@dataclass(frozen=True)
class NotPlanned:
    """Why a model has to go through the library."""

    reason: str


def read_encoder_plan(directory: Path) -> EncoderPlan | NotPlanned:
    """Read the model's configuration files and tensor names, and judge them. Loads no weights."""
    from safetensors import safe_open

    weights = directory / "model.safetensors"
    if not weights.is_file() or not (directory / "tokenizer.json").is_file():
        return NotPlanned("no single model.safetensors with a tokenizer.json")
    modules = read_json(directory / "modules.json") or []
    kinds = tuple(str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules)
    pooling_path = modules[1].get("path", "") if len(modules) > 1 else ""
    with safe_open(str(weights), framework="np") as file:
        names = frozenset(file.keys())
    return plan_encoder(
        kinds=kinds,
        config=read_json(directory / "config.json") or {},
        sentence=read_json(directory / "sentence_bert_config.json") or {},
        pooling=read_json(directory / pooling_path / "config.json") or {},
        tensors=names,
    )


def plan_encoder(
    *,
    kinds: tuple[str, ...],
    config: dict[str, Any],
    sentence: dict[str, Any],
    pooling: dict[str, Any],
    tensors: frozenset[str],
) -> EncoderPlan | NotPlanned:
    """Accept only a plain encoder with mean or CLS pooling; name the first thing that is not plain."""
    family = config.get("model_type")
    if kinds not in (_KINDS, _KINDS[:2]):
        return NotPlanned(f"modules {kinds}")
    if family not in _FAMILIES:
        return NotPlanned(f"model type {family!r}")
    if config.get("hidden_act") != "gelu" or config.get("is_decoder"):
        return NotPlanned("not a plain gelu encoder")
    if config.get("position_embedding_type", "absolute") != "absolute":
        return NotPlanned("positions are not absolute")
    if config.get("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        return NotPlanned("factorised embeddings")
    if sentence.get("do_lower_case") or len(sentence.get("modality_config", "1")) != 1:
        return NotPlanned("text handling beyond the tokenizer")
    mode = _read_pooling(pooling)
    if mode is None or pooling.get("include_prompt", True) is False:
        return NotPlanned("pooling that is neither mean nor CLS over the whole text")
    layers = int(config["num_hidden_layers"])
    prefix = "" if "embeddings.LayerNorm.weight" in tensors else _FAMILIES[family]
    missing = _list_tensors(layers, prefix) - tensors
    if missing:
        return NotPlanned(f"tensor {min(missing)} is not there")
    pad = int(config.get("pad_token_id") or 0)
    return EncoderPlan(
        layers=layers,
        heads=int(config["num_attention_heads"]),
        dimension=int(config["hidden_size"]),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        pad_token=pad,
        # RoBERTa counts positions from pad_token_id + 1 (transformers, create_position_ids_from_input_ids).
        first_position=0 if family == "bert" else pad + 1,
        pooling=mode,
        prefix=prefix,
    )


def _read_pooling(pooling: dict[str, Any]) -> Literal["mean", "cls"] | None:
    """One mode, in the old notation (a flag per mode) or the new one (`pooling_mode`)."""
    flags = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value]
    mode = pooling.get("pooling_mode") or (flags[0] if len(flags) == 1 else None)
    return {
        "mean": "mean",
        "cls": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
    }.get(str(mode))  # type: ignore[return-value]


def _list_tensors(layers: int, prefix: str) -> set[str]:
    tables = {f"{prefix}embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")}
    parts = {f"{prefix}encoder.layer.{layer}.{part}" for layer in range(layers) for part in _LAYER_PARTS}
    parts.add(f"{prefix}embeddings.LayerNorm")
    return tables | {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


class Encoder:
    """The loaded weights in float32 and the forward pass over them."""

    def __init__(self, directory: Path, plan: EncoderPlan, device: str) -> None:
        import torch
        from safetensors.torch import load_file

        self.plan = plan
        self.device = device
        loaded = load_file(str(directory / "model.safetensors"), device=device)
        needed = _list_tensors(plan.layers, plan.prefix)
        tensors = {name: loaded[name].to(torch.float32) for name in needed}
        self._tables = {name.removeprefix(plan.prefix): tensor for name, tensor in tensors.items()}
        self._joined = [self._join_projections(layer) for layer in range(plan.layers)]

    def _join_projections(self, layer: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Query, key and value as one matrix: one multiplication per layer instead of three."""
        import torch

        names = [f"encoder.layer.{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = torch.cat([self._tables.pop(f"{name}.weight") for name in names])
        return weight, torch.cat([self._tables.pop(f"{name}.bias") for name in names])

    def embed(self, tokens: list[list[int]]) -> np.ndarray:
        """Pooled vectors (n, dimension) float32, not normalised, of token lists padded to the longest."""
        import torch

        longest = max(len(row) for row in tokens)
        ids = torch.full((len(tokens), longest), self.plan.pad_token, dtype=torch.long)
        mask = torch.zeros((len(tokens), longest), dtype=torch.bool)
        for number, row in enumerate(tokens):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = True
        with torch.inference_mode():
            pooled = self._pool(*self._run_layers(ids.to(self.device), mask.to(self.device)))
            return np.asarray(pooled.cpu().numpy(), dtype=np.float32)

    def _run_layers(self, ids: "torch.Tensor", mask: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        import torch.nn.functional as functional

        rows, length = ids.shape
        heads, dimension = self.plan.heads, self.plan.dimension
        first = self.plan.first_position
        states = (
            self._tables["embeddings.word_embeddings.weight"][ids]
            + self._tables["embeddings.token_type_embeddings.weight"][0]
            + self._tables["embeddings.position_embeddings.weight"][first : first + length]
        )
        states = self._normalise(states, "embeddings.LayerNorm")
        # No mask at all for a full batch: attention is faster without one.
        visible = None if bool(mask.all()) else mask[:, None, None, :]
        for layer in range(self.plan.layers):
            part = f"encoder.layer.{layer}."
            joined = functional.linear(states, *self._joined[layer])
            query, key, value = joined.view(rows, length, 3, heads, dimension // heads).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
            attended = attended.transpose(1, 2).reshape(rows, length, dimension)
            attended = self._multiply(attended, part + "attention.output.dense")
            states = self._normalise(attended + states, part + "attention.output.LayerNorm")
            inner = functional.gelu(self._multiply(states, part + "intermediate.dense"))
            states = self._normalise(self._multiply(inner, part + "output.dense") + states, part + "output.LayerNorm")
        return states, mask

    def _pool(self, states: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        if self.plan.pooling == "cls":
            return states[:, 0]
        shown = mask.unsqueeze(-1).to(states.dtype)
        return (states * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1e-9)

    def _multiply(self, states: "torch.Tensor", name: str) -> "torch.Tensor":
        import torch.nn.functional as functional

        return functional.linear(states, self._tables[f"{name}.weight"], self._tables[f"{name}.bias"])

    def _normalise(self, states: "torch.Tensor", name: str) -> "torch.Tensor":
        import torch.nn.functional as functional

        weight, bias = self._tables[f"{name}.weight"], self._tables[f"{name}.bias"]
        return functional.layer_norm(states, (self.plan.dimension,), weight, bias, self.plan.epsilon)
