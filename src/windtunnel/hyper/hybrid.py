"""Gates from blocks of their own, all else from nested banks."""

from __future__ import annotations

from torch import Tensor, nn

from windtunnel.hyper.anatomy import Anatomy
from windtunnel.hyper.banks import NestedBanks
from windtunnel.hyper.config import HybridConfig
from windtunnel.hyper.limits import Limits, Role
from windtunnel.hyper.tiled import TiledDecoder


class HybridDecoder(nn.Module):
    """Vectors of operations n w -> tensors by name: those of recurrent layers by
    :class:`~windtunnel.hyper.tiled.TiledDecoder`, all others by
    :class:`~windtunnel.hyper.banks.NestedBanks`.

    At equal steps tiling was better in recurrent families and banks in transformers
    (``docs/results.md``): maps of gates have no residual stream around them, so each layer's has to
    fit the others of its own architecture, which a block that the operation's vector writes whole
    can, and a mixture of eight matrices less so.
    """

    def __init__(self, config: HybridConfig, limits: Limits, width: int) -> None:
        super().__init__()
        self.config = config
        gates = limits.only(_has_gates)
        self.banks = NestedBanks(config.banks, limits.only(lambda r: not _has_gates(r)), width)
        self.tiles = TiledDecoder(config.tiles, gates, width) if gates.roles else None

    def forward(self, anatomy: Anatomy, nodes: Tensor) -> dict[str, Tensor]:
        """The tensors of all known roles."""
        found: dict[str, Tensor] = self.banks(anatomy, nodes)
        return found if self.tiles is None else found | self.tiles(anatomy, nodes)


def _has_gates(role: Role) -> bool:
    return "gates" in role.axes
