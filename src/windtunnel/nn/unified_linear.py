"""Unified weights: vectors that scale and shift what enters and leaves a linear map.

They are learned beside the matrix and fold into it when training is over; the idea is lmplay's
(``ULinear``). What is given here to a :class:`~windtunnel.nn.linear.Linear` of any part:

    y = m_out ⊙ (W (m_in ⊙ (x + a_in))) + c + a_out = W' x + c'
    W' = (m_out m_inᵀ) ⊙ W,  c' = W' a_in + c + a_out

W' and c' are made once a call, so a token costs what it costs without. At the start m = 1 and
a = 0: the map is the plain one, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.config import Config
from windtunnel.nn.component import Scope, filled
from windtunnel.nn.cost import Cost, linear_cost
from windtunnel.nn.initialize import Init, constant, normal
from windtunnel.nn.linear import Linear

Side = Literal["in", "out"]


class LinearConfig(Config):
    """What every linear map of a layer has beside its matrix. Biased: a bias, whatever the part
    says. Unified: vectors that scale and shift its input and output, and fold into it.

    Direct vectors are parameters. Predicted ones are read off a small code of each map by networks
    that all layers share, one for each side and width; expanded ones off a wide vector for each
    side. The networks are gone once folded. Cells of recurrences and other parameters that are no
    linear map are left alone, and so are norms and residuals.
    """

    type: Literal["biased", "unified"]
    """Biased or unified."""
    kind: Literal["direct", "predicted", "expanded"] | None = None
    """Where the vectors come from; direct when left out."""
    sides: Literal["both", "in", "out"] | None = None
    """Which side of the map has vectors; both when left out."""
    vectors: Literal["both", "multiply", "add"] | None = None
    """Whether they multiply, add, or one of each; both when left out."""
    d_code: int | None = Field(None, ge=1)
    """Width of a map's code, for predicted vectors; 16 when left out."""
    factor: int | None = Field(None, ge=1, le=64)
    """Width of an expanded vector over that of the side; 8 when left out."""
    d_hidden: int | None = Field(None, ge=1)
    """Hidden width of the shared networks; d_model when left out."""

    @model_validator(mode="after")
    def _what_has_an_effect(self) -> Self:
        of = {"kind": "unified", "sides": "unified", "vectors": "unified"}
        of |= {"d_code": "predicted", "factor": "expanded", "d_hidden": "predicted or expanded"}
        own = self.kind or "direct" if self.type == "unified" else self.type
        for name, needed in of.items():
            here = self.type == "unified" if needed == "unified" else own in needed
            if getattr(self, name) is not None and not here:
                raise ValueError(f"{name} has no effect: it is for {needed}, and this is {own}")
        return self

    def resolve(self, scope: Scope) -> Self:
        """The defaults of the kind filled in."""
        if self.type == "biased":
            return self
        kind = self.kind or "direct"
        return self.replace(
            kind=kind,
            sides=self.sides or "both",
            vectors=self.vectors or "both",
            d_code=(self.d_code or 16) if kind == "predicted" else None,
            factor=(self.factor or 8) if kind == "expanded" else None,
            d_hidden=None if kind == "direct" else self.d_hidden or scope.d_model,
        )

    def folded(self) -> LinearConfig | None:
        """What is left of it: biases, or nothing."""
        adds = self.type == "biased" or self.vectors != "multiply"
        return LinearConfig(type="biased") if adds else None

    def adds_to(self, shape: MapShape) -> bool:
        """Whether a map of that shape has something from it."""
        if self.type == "biased":
            return not shape.bias and not shape.product_only
        return self.vectors != "add" or not shape.product_only

    def has_side(self, side: Side) -> bool:
        """Whether that side has vectors."""
        return self.sides in ("both", side)

    def vectors_of(self, shape: MapShape) -> tuple[str, ...]:
        """The vectors of one side of a map: ``multiply``, ``add``."""
        named = [name for name in ("multiply", "add") if self.vectors in ("both", name)]
        return tuple(name for name in named if name == "multiply" or not shape.product_only)

    def code_width(self, side: Side, shape: MapShape) -> int:
        """What the shared network of that side reads."""
        return self.d_code or filled(self.factor) * shape.width(side)

    def nets(self, shapes: Iterable[MapShape]) -> dict[str, tuple[int, int, int]]:
        """The shared networks that maps need, by name: widths in, between and out."""
        found: dict[str, tuple[int, int, int]] = {}
        for shape, side in ((s, side) for s in shapes for side in _SIDES):
            names = self.vectors_of(shape)
            if self.kind in ("predicted", "expanded") and self.has_side(side) and names:
                wide = len(names) * shape.width(side)
                widths = (self.code_width(side, shape), filled(self.d_hidden), wide)
                found[net_name(side, shape, names)] = widths
        return found

    def net_params(self, shapes: Iterable[MapShape]) -> int:
        """Parameters of the shared networks."""
        return sum(c * f + f + f * w + w for c, f, w in self.nets(shapes).values())

    def map_cost(self, shape: MapShape) -> Cost:
        """What one map costs more: its own parameters, and FLOPs in each call, whatever its length.

        The FLOPs are not those of a token.
        """
        if self.type == "biased":
            return Cost(params=shape.d_out * (not shape.bias and not shape.product_only))
        names, params, flops = self.vectors_of(shape), 0, 0
        sides = [side for side in _SIDES if self.has_side(side) and names]
        if self.kind == "direct":
            params = sum(len(names) * shape.width(side) for side in sides)
        elif self.kind == "expanded":
            params = sum(self.code_width(side, shape) for side in sides)
        else:
            params = filled(self.d_code) * bool(sides)
        for c, f, w in self.nets([shape]).values():
            both = linear_cost(c, f, bias=True) + linear_cost(f, w, bias=True)
            flops += both.forward_flops
        if "add" in names and "in" in sides:
            flops += 2 * shape.d_in * shape.d_out
        # Each product with a vector gives another matrix; the last one is what the map reads.
        copies = len(sides) * ("multiply" in names)
        shared = copies * shape.d_in * shape.d_out
        return Cost(params=params, forward_flops=flops, decode_flops=flops, shared_values=shared)


_SIDES: tuple[Side, Side] = ("in", "out")


class MapShape(NamedTuple):
    """What of a linear map decides its vectors."""

    d_in: int
    d_out: int
    bias: bool
    product_only: bool

    def width(self, side: Side) -> int:
        """The width of that side."""
        return self.d_in if side == "in" else self.d_out

    @classmethod
    def of(cls, linear: Linear) -> MapShape:
        """That of a built map."""
        bias = linear.bias is not None
        return cls(linear.in_features, linear.out_features, bias, linear.product_only)


def net_name(side: Side, shape: MapShape, vectors: tuple[str, ...]) -> str:
    """The shared network of a side, a width and the vectors that are read off it."""
    alone = "" if len(vectors) == 2 else f"_{vectors[0]}"
    return f"{side}_{shape.width(side)}{alone}"


class SharedNet(nn.Module):
    """outer(gelu(inner(code))): c -> f -> vectors; 0 at the start, as ``outer`` is."""

    def __init__(self, d_code: int, d_hidden: int, width: int) -> None:
        super().__init__()
        self.inner = Linear(d_code, d_hidden, bias=True)
        self.outer = Linear(d_hidden, width, bias=True, gain=0.0)

    def forward(self, code: Tensor) -> Tensor:
        """c -> the vectors of one side, one after the other."""
        # Not by calling modules on code[None]: under no_grad a view of a parameter has no gradient
        # function, where torch's FLOP counter expects one.
        hidden = F.gelu(F.linear(code[None], self.inner.weight, self.inner.bias))
        return F.linear(hidden, self.outer.weight, self.outer.bias)[0]


class UnifiedVectors(nn.Module):
    """The vectors of one map: parameters, or codes and the shared networks that read them.

    Direct: ``in_multiply``, ``in_add`` (d_in,), ``out_multiply``, ``out_add`` (d_out,). Predicted:
    ``code`` (d_code,). Expanded: ``in_code`` (factor·d_in,), ``out_code`` (factor·d_out,).
    """

    def __init__(self, config: LinearConfig, shape: MapShape, nets: nn.ModuleDict) -> None:
        super().__init__()
        self.names, self.codes = config.vectors_of(shape), dict[Side, str]()
        self.sides: tuple[Side, ...] = tuple(side for side in _SIDES if config.has_side(side))
        widths: dict[str, int] = {}
        for side in self.sides if self.names else ():
            if config.kind == "direct":
                widths |= {f"{side}_{name}": shape.width(side) for name in self.names}
            else:
                self.codes[side] = "code" if config.kind == "predicted" else f"{side}_code"
                widths[self.codes[side]] = config.code_width(side, shape)
        for name, width in widths.items():
            self.register_parameter(name, nn.Parameter(torch.empty(width)))
        # In a tuple: the networks are the model's, not this module's.
        self._nets = ({side: nets[net_name(side, shape, self.names)] for side in self.codes},)

    def initializers(self) -> dict[str, Init]:
        """Vectors that change nothing; codes of unit variance, so that maps can be told apart."""
        starts = {"multiply": constant(1.0), "add": constant(0.0), "code": normal(1.0)}
        own = dict(self.named_parameters(recurse=False))
        return {name: starts[name.rpartition("_")[2]] for name in own}

    def read(self) -> dict[str, Tensor]:
        """The vectors, by their direct names."""
        if not self.codes:
            return dict(self.named_parameters(recurse=False))
        found: dict[str, Tensor] = {}
        for side, code in self.codes.items():
            parts = self._nets[0][side](self.get_parameter(code)).chunk(len(self.names))
            for name, part in zip(self.names, parts, strict=True):
                found[f"{side}_{name}"] = part + 1 if name == "multiply" else part
        return found

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W and c -> W' and c'."""
        vectors = self.read()
        if "in_multiply" in vectors:
            weight = weight * vectors["in_multiply"]
        if "out_multiply" in vectors:
            weight = weight * vectors["out_multiply"][:, None]
        shift = vectors.get("out_add")
        if "in_add" in vectors:
            moved = (vectors["in_add"][None] @ weight.t())[0]
            shift = moved if shift is None else shift + moved
        if shift is None or bias is None:
            return weight, bias if shift is None else shift
        return weight, bias + shift


def linear_maps(module: nn.Module) -> Iterator[tuple[str, Linear]]:
    """Every linear map in a part, by its path."""
    for path, part in module.named_modules():
        if isinstance(part, Linear):
            yield path, part


def plain_maps(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a part, those of its unified maps folded: W' and c' in place of W, c and the
    vectors."""
    for path, linear in linear_maps(module):
        if linear.unified is not None:
            weights = {k: v for k, v in weights.items() if not k.startswith(f"{path}.unified.")}
            weight, bias = linear.effective()
            weights[f"{path}.weight"] = weight.detach()
            if bias is not None:
                weights[f"{path}.bias"] = bias.detach()
    return weights
