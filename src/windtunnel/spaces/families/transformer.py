"""gpt_encoder and mini_gpt: pre-norm transformers with biases, exact GELU and learned positions.

Both have the same tensors: gpt_encoder is torch's ``TransformerEncoderLayer`` (gelu, norm first)
under a causal mask, mini_gpt has one projection for q, k and v. They differ in where dropout
stands: torch's layer also drops hidden values of the feed-forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from windtunnel.spaces.families.family import Family, number, register


class Transformer(Family):
    """``V·d·(1 + u) + S·d + L·(4d² + 2df + f + 9d) + 2d`` parameters; u is 0 when tied, S the
    number of positions, f = d_ff."""

    axes = ("d_model", "n_layer", "n_head", "ff_ratio", "p_drop", "tie_weights")
    parts: ClassVar[Mapping[str, str]] = {
        "d_model": "{}d", "n_layer": "{}L", "n_head": "{}h", "ff_ratio": "ff{}", "p_drop": "d{}",
        "tie_weights": "t{}",
    }  # fmt: skip
    coupled = ("d_model", "n_head")

    def valid(self, values: Mapping[str, Any]) -> Any:
        """Heads divide the width."""
        return values["d_model"] % values["n_head"] == 0

    def params(self, values: Mapping[str, Any]) -> Any:
        vocab, d, layers, tied = number(values, "vocab_size", "d_model", "n_layer", "tie_weights")
        f = d * values["ff_ratio"]
        layer = 4 * d * d + 2 * d * f + f + 9 * d
        return vocab * d * (2 - tied) + values["max_seq_len"] * d + layers * layer + 2 * d

    def derived(self, values: Mapping[str, Any]) -> dict[str, Any]:
        d = values["d_model"]
        return {"d_ff": d * values["ff_ratio"], "head_dim": d // values["n_head"]}

    def arch(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "preset": self.name,
            "vocab_size": values["vocab_size"],
            "max_seq_len": values["max_seq_len"],
            "d_model": values["d_model"],
            "embedding": {"tie": values["tie_weights"], "dropout": values["p_drop"]},
            "set": {
                "layers[0].repeat": values["n_layer"],
                "layers[0].dropout": values["p_drop"],
                "layers[0].mixer.num_heads": values["n_head"],
                "layers[0].mixer.dropout": values["p_drop"],
                "layers[0].mlp.ratio": values["ff_ratio"],
            },
        }

    def config(self, values: Mapping[str, Any]) -> dict[str, Any]:
        vocab, d, layers, heads = number(values, "vocab_size", "d_model", "n_layer", "n_head")
        return {
            "vocab_size": vocab,
            "d_model": d,
            "n_layer": layers,
            "n_head": heads,
            "d_ff": d * values["ff_ratio"],
            "max_seq_len": values["max_seq_len"],
            "p_drop": values["p_drop"],
            "tie_weights": values["tie_weights"],
        }


@register
class GPTEncoder(Transformer):
    """torch's encoder layers under a causal mask."""

    name = "gpt_encoder"
    twin = "mini_gpt"

    def arch(self, values: Mapping[str, Any]) -> dict[str, Any]:
        arch = super().arch(values)
        arch["set"]["layers[0].mlp.dropout"] = values["p_drop"]
        return arch


@register
class MiniGPT(Transformer):
    """GPT blocks."""

    name = "mini_gpt"
