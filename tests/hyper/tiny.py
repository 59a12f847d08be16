"""Small architectures of the five families, and what a hypernetwork of them is made of."""

from typing import Any

from windtunnel.arch import Architecture, ArchSpec, expand_preset, resolve
from windtunnel.config import Document, decode
from windtunnel.hyper.anatomy import Anatomy, anatomy_of
from windtunnel.hyper.config import GhnConfig
from windtunnel.hyper.limits import Limits
from windtunnel.spaces import Space
from windtunnel.spaces.block import Naming
from windtunnel.spaces.families import family_of
from windtunnel.spaces.grids import family_block

FAMILIES = ("rnn", "lstm", "gru", "gpt_encoder", "mini_gpt")


def member(family: str, **sizes: Any) -> Architecture:
    """A member of a family; sizes left out are small."""
    usual = {
        "d_model": 8, "n_layer": 2, "n_head": 2, "ff_ratio": 2, "p_drop": 0.0, "tie_weights": False,
        "vocab_size": 11, "max_seq_len": 6,
    }  # fmt: skip
    return written(family_of(family).arch({**usual, **sizes}))


def written(arch: dict[str, Any]) -> Architecture:
    """What stands under ``arch:``, resolved; a vocabulary left to the tokenizer has 11 tokens."""
    tree = expand_preset(Document({"arch": arch}, source="test")).tree["arch"]
    spec = decode(Document(tree, source="test"), ArchSpec)
    return resolve(spec, 11 if spec.vocab_size == "auto" else None)


def both_ties(**sizes: Any) -> list[Anatomy]:
    """All five families, tied and untied."""
    return [
        anatomy_of(member(family, tie_weights=tied, **sizes))
        for family in FAMILIES
        for tied in (True, False)
    ]


def limits(**sizes: Any) -> Limits:
    """Of all families at these sizes."""
    return Limits.of(both_ties(**sizes))


def space(**axes: Any) -> Space:
    """All five families at a few sizes, 11 tokens and 6 positions."""
    shared = {
        "d_model": (4, 8),
        "n_layer": (1, 2, 3),
        "p_drop": (0.0,),
        "tie_weights": (True, False),
    }
    heads = {"n_head": (1, 2), "ff_ratio": (1, 2)}
    blocks = []
    for family in FAMILIES:
        values = {**shared, **({} if family in ("rnn", "lstm", "gru") else heads)}
        values |= {name: axis for name, axis in axes.items() if name in values}
        blocks.append(family_block(family, values, Naming(family), vocab_size=11, max_seq_len=6))
    return Space("tiny", blocks)


def config(**changes: Any) -> GhnConfig:
    """A small hypernetwork of :func:`space`."""
    usual: dict[str, Any] = {
        "space": "tiny", "split": {"d_model": 8, "n_layer": 3, "held_out": 0.2}, "meta_batch": 4,
        "encoder": {"layers": 1, "width": 8, "heads": 2},
        "decoder": {"type": "banks", "components": 2, "knots": 2, "hidden": 8},
        "train": {"batch_size": 4, "steps": 10, "seq_len": 6},
    }  # fmt: skip
    return GhnConfig.model_validate({**usual, **changes})


def grown_space() -> Space:
    """Small members of all five families, in widths and depths that grow into each other."""
    return space(d_model=(8, 16, 24), n_layer=(1, 2, 6), ff_ratio=(2, 4))
