"""Weights on the unit sphere: what the normalized transformer does after every update.

nGPT (Loshchilov et al. 2024, arXiv 2410.01131), section 2.6: every matrix is normalised along the
side of the residual stream, so that its product with a vector of length 1 is a list of cosines.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from windtunnel.nn.linear import Linear

_WRITERS = ("out", "down")
"""What a component calls the map that writes to the stream, unless it says so."""


def unit_dimensions(model: nn.Module, d_model: int) -> dict[str, int]:
    """The parameters to normalise, by name, and the dimension along which: of every linear map the
    side of the stream, of tables (embedding and head) their rows.

    Recurrent and other parameters that are no linear map are left alone, and maps within a part,
    of which no side is the stream's, though it be as wide.
    """
    found: dict[str, int] = {}
    for name, _ in model.named_parameters():
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        if kind != "weight":
            continue
        if isinstance(module, nn.Linear):
            side = _side(module, path.rpartition(".")[2], d_model)
            if side != "none":
                found[name] = 1 if side == "in" else 0
        elif path in ("embedding", "head", "encoder.embedding"):
            found[name] = 1
    return found


def _side(linear: nn.Linear, name: str, d_model: int) -> str:
    """Which side of a map is the stream's: what it says, or else what its name and sizes tell."""
    if isinstance(linear, Linear) and linear.stream is not None:
        return linear.stream
    if name in _WRITERS and linear.out_features == d_model:
        return "out"
    return "in" if linear.in_features == d_model else "none"


class UnitSphere(nn.Module):
    """Divides the weights of the model around it by their lengths; what is 0 stays 0."""

    def __init__(self, model: nn.Module, d_model: int) -> None:
        super().__init__()
        self._around = (model, d_model)  # in a tuple: the model is no part of this module

    @torch.no_grad()
    def normalize(self) -> None:
        """In place."""
        model, d_model = self._around
        for name, dim in unit_dimensions(model, d_model).items():
            weight = model.get_parameter(name)
            length: Tensor = torch.linalg.vector_norm(weight, dim=dim, keepdim=True)
            weight.div_(length.where(length > 0, 1.0))

    def after_update(self, seed: int, step: int) -> None:
        """The optimizer has left the sphere."""
        self.normalize()
