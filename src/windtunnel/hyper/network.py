"""The hypernetwork: from an architecture to its parameters, and to what it would predict."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from windtunnel.arch import Architecture, Model, build
from windtunnel.hyper.anatomy import Anatomy, anatomy_of
from windtunnel.hyper.banks import NestedBanks
from windtunnel.hyper.config import DecoderConfig, EncoderConfig, LowRankConfig, TiledConfig
from windtunnel.hyper.encoder import GraphEncoder
from windtunnel.hyper.graph import Graph, graph_of
from windtunnel.hyper.limits import Limits
from windtunnel.hyper.low_rank import LowRankDecoder
from windtunnel.hyper.tiled import TiledDecoder
from windtunnel.train.objectives.config import NextTokenConfig
from windtunnel.train.objectives.objective import Objective

_KEPT = 64
"""Structures whose model without weights is kept."""


@dataclass(frozen=True)
class HyperBatch:
    """Rows of tokens, each for one architecture."""

    inputs: Tensor
    """(b, t)"""
    targets: Tensor
    """(b, t)"""
    members: Tensor
    """(b,): the index of each row's architecture in the space."""


@dataclass(frozen=True)
class Target:
    """An architecture that parameters are predicted for."""

    model: Model
    """Its computation; of its own weights only those count that are not predicted."""
    anatomy: Anatomy
    graph: Graph


class HyperNetwork(nn.Module):
    """``network(tokens, members)``: logits of each row by its architecture, with predicted weights.

    Args:
        encoder, decoder: their sizes.
        limits: the largest sizes and the roles that it writes.
        architectures: those of a space, by index; None where it only predicts.
    """

    uses_every_parameter = False
    """A batch has some of the families, so others' parameters get no gradient: see
    ``train.distributed.parallel``."""

    def __init__(
        self,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        limits: Limits,
        architectures: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        self.limits = limits
        self.encoder = GraphEncoder(encoder)
        self.decoder = decoder_of(decoder, limits, encoder.width)
        self._space = architectures
        self._targets: OrderedDict[int, Target] = OrderedDict()

    def reach(self, anatomy: Anatomy) -> tuple[Limits, int | None]:
        """The largest sizes that it writes; of depth it knows no limit of its own."""
        return self.limits, None

    def weights(self, anatomy: Anatomy, graph: Graph | None = None) -> dict[str, Tensor]:
        """The tensors of an architecture at most as large as the limits, by name."""
        nodes = self.encoder(graph_of(anatomy) if graph is None else graph)
        found: dict[str, Tensor] = self.decoder(anatomy, nodes)
        return found

    def forward(self, tokens: Tensor, members: Tensor) -> Tensor:
        """Logits: b t, b -> b t V."""
        pieces, rows = [], []
        for index in torch.unique(members).tolist():
            own = torch.nonzero(members == index).flatten()
            target = self.target(index)
            weights = self.weights(target.anatomy, target.graph)
            pieces.append(functional_call(target.model, weights, (tokens[own],)))
            rows.append(own)
        return torch.cat(pieces)[torch.argsort(torch.cat(rows))]

    def target(self, index: int) -> Target:
        """The architecture of that index, without weights; the last ones are kept."""
        assert self._space is not None, "this network only predicts"
        if index in self._targets:
            self._targets.move_to_end(index)
            return self._targets[index]
        found = self._targets[index] = target_of(self._space[index].architecture, self)
        if len(self._targets) > _KEPT:
            self._targets.popitem(last=False)
        return found

    def own_objective(self) -> HyperNextToken:
        """What the training loop asks for: the loss of architectures, not of the network's own."""
        return HyperNextToken(NextTokenConfig(), vocab_size=self.limits.vocab_size)


def target_of(architecture: Architecture, network: HyperNetwork) -> Target:
    """The architecture's computation; with initial weights where some are not predicted."""
    anatomy = anatomy_of(architecture)
    known = {role.name for role in network.limits.roles}
    whole = not anatomy.unknown and all(slot.role in known for slot in anatomy.slots)
    device = next(network.parameters()).device
    model = build(architecture, seed=0, device=device, initialized=not whole)
    model.eval().requires_grad_(False)
    return Target(model, anatomy, graph_of(anatomy))


def decoder_of(config: DecoderConfig, limits: Limits, width: int) -> nn.Module:
    """The decoder of a config."""
    if isinstance(config, TiledConfig):
        return TiledDecoder(config, limits, width)
    if isinstance(config, LowRankConfig):
        return LowRankDecoder(config, limits, width)
    return NestedBanks(config, limits, width)


class HyperNextToken(Objective[NextTokenConfig]):
    """−Σ ln p(token | those before it), by the architecture of each row."""

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch.inputs, batch.members), batch.targets
