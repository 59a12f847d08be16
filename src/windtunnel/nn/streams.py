"""A residual stream that is several vectors wide, and what a residual that links them offers.

The stream is b t n d between the embedding and the last norm: n copies of the embedding at its
start (:func:`spread`), the mean of them at its end (:func:`gathered`). Each branch reads a mix of
the streams and writes to all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from pydantic import Field
from torch import Tensor

from windtunnel.nn.component import ComponentConfig, Residual


class StreamsConfig(ComponentConfig):
    """What is written for a residual of several streams."""

    streams: int = Field(4, ge=1)
    """Vectors of d_model that the residual stream is wide, n; the same in all layers of a stack."""


S = TypeVar("S", bound=StreamsConfig)


class Links(NamedTuple):
    """How a branch is linked to the streams, for each token."""

    read: Tensor
    """(b, t, n): the branch reads Σ_i read_i x_i."""
    mix: Tensor
    """(b, t, n, n): [to, from]; the streams become mix · x before the branch writes."""
    write: Tensor
    """(b, t, n): the branch's output y goes to stream i as write_i y."""


class StreamsResidual(Residual[S]):
    """Joins a branch's output to the streams: (b t n d, b t d) -> b t n d."""

    @abstractmethod
    def links(self, x: Tensor) -> Links:
        """The links of each token, which may depend on its streams ``x`` (b, t, n, d)."""

    def read(self, x: Tensor, links: Links) -> Tensor:
        """What the branch reads: b t n d -> b t d."""
        mixed: Tensor = links.read[..., None, :] @ x  # b t 1 n, b t n d -> b t 1 d
        return mixed.squeeze(-2)

    def forward(self, x: Tensor, y: Tensor, links: Links | None = None) -> Tensor:
        """The streams after the branch; its links are those of ``x`` unless told."""
        _, mix, write = links or self.links(x)
        joined: Tensor = mix @ x + write[..., None] * y[..., None, :]
        return joined


def streams_of(config: ComponentConfig) -> int | None:
    """How many streams a residual links; None for one that joins a single vector."""
    return config.streams if isinstance(config, StreamsConfig) else None


def common_streams(residuals: Iterable[ComponentConfig]) -> int | None:
    """The number of streams of a stack whose layers agree on it."""
    found = {streams_of(residual) for residual in residuals}
    assert len(found) == 1, f"a stack has layers of {found} streams"
    return found.pop()


def spread(x: Tensor, streams: int | None) -> Tensor:
    """b t d -> b t n d: as many copies as there are streams; ``x`` itself where there is one."""
    return x if streams is None else x[..., None, :].expand(*x.shape[:-1], streams, x.shape[-1])


def gathered(x: Tensor, streams: int | None) -> Tensor:
    """b t n d -> b t d: the mean of the streams.

    The papers take the sum, n times as long, which the norm before the head makes the same. The
    mean begins as the plain network even where there is no such norm.
    """
    return x if streams is None else x.mean(-2)
