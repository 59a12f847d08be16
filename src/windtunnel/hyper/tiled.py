"""The decoder of GHN-3: a block of weights for each tensor, cut or repeated to its size."""

from __future__ import annotations

from torch import Tensor

from windtunnel.hyper.coded import CodedDecoder, network
from windtunnel.hyper.config import TiledConfig
from windtunnel.hyper.limits import Limits


class TiledDecoder(CodedDecoder):
    """Vectors of operations n w -> tensors by name (Knyazev et al. 2023, arXiv 2303.04143, section
    3; the decoder is that of Knyazev et al. 2021, arXiv 2110.13100).

    A network of one hidden layer makes ``block``² numbers of a code. Entry (i, j) of a map is
    block[i mod block, j mod block]: smaller tensors are cut out, larger ones repeat it. Vectors
    come from a network of their own and repeat likewise. So any size can be written, and what is
    beyond a block is the same again.

    Deviations: see :class:`~windtunnel.hyper.coded.CodedDecoder`. GHN-3 makes blocks of kernels, of
    which a linear map takes the middle; that part alone is here, and ``block`` need not be the
    width of the codes.
    """

    def __init__(self, config: TiledConfig, limits: Limits, width: int) -> None:
        super().__init__(limits, width, config.table_std)
        self.config = config
        self.blocks = network(width, config.hidden, config.block**2)
        self.lines = network(width, config.hidden, config.block)

    def maps(self, codes: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
        blocks = self.blocks(codes).unflatten(1, (self.config.block, self.config.block))
        return [_repeated(one, shape) for one, shape in zip(blocks, shapes, strict=True)]

    def vectors(self, codes: Tensor, sizes: list[int]) -> list[Tensor]:
        lines = self.lines(codes)
        return [_repeated(line, (size,)) for line, size in zip(lines, sizes, strict=True)]


def _repeated(block: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The beginning of a block, or the block again and again: the shape.

    >>> import torch
    >>> _repeated(torch.arange(3), (7,)).tolist()
    [0, 1, 2, 0, 1, 2, 0]
    """
    times = [-(-size // own) for size, own in zip(shape, block.shape, strict=True)]
    return block.repeat(times)[tuple(slice(size) for size in shape)]
