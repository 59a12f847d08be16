"""What rnn, lstm and gru share: weights as torch lays them out, fused kernels, pads left out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from windtunnel.nn.component import ComponentConfig, Mixer, Scope, Span, State, filled
from windtunnel.nn.cost import Cost, Num, linear_cost
from windtunnel.nn.initialize import Init, uniform
from windtunnel.nn.linear import Linear
from windtunnel.nn.ops.wide import without_autocast


class RecurrentConfig(ComponentConfig):
    """A recurrent layer, left to right."""

    gates: ClassVar[int]
    """Blocks of rows in each weight."""
    states: ClassVar[int] = 1
    """Vectors that are remembered."""

    d_hidden: int | None = Field(None, ge=1)
    """Width of the hidden state; d_model when left out. Another adds a projection to d_model."""
    bias: bool = True
    """Whether the layer and its projection have biases."""

    def resolve(self, scope: Scope) -> Self:
        return self if self.d_hidden is not None else self.replace(d_hidden=scope.d_model)

    def cost(self, scope: Scope, t: Num) -> Cost:
        d, n = scope.d_model, filled(self.d_hidden)
        projected = n != d
        layer = linear_cost(d + n, self.gates * n, bias=False)
        return (
            layer
            + linear_cost(n, d, bias=self.bias) * projected
            + Cost(
                params=2 * self.gates * n * self.bias,
                state_values=self.states * n,
                activation_values=d + self._kept(d, n) + n * projected,
                wide_values=self._more_in_bfloat16(n),
            )
        )

    def _kept(self, d: Num, n: Num) -> Num:
        """Numbers that torch's kernel keeps for each token, as measured."""
        raise NotImplementedError

    def _more_in_bfloat16(self, n: Num) -> Num:
        """Two-byte numbers that its kernel for bfloat16 keeps besides, as measured."""
        return 0


class Recurrent(Mixer[Any]):
    """Parameters as in torch: ``weight_ih`` (gates·n, d), ``weight_hh`` (gates·n, n), ``bias_ih``
    and ``bias_hh`` (gates·n,), and ``out`` (d, n) where the hidden width n differs from d.

    Everything starts at U(−1/√n, 1/√n), as in torch: for small language models that beats
    orthogonal weights with a forget bias. ``out`` starts as every linear map.
    """

    def __init__(self, config: RecurrentConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        d, n = scope.d_model, filled(config.d_hidden)
        rows = config.gates * n
        self.d_hidden = n
        self.weight_ih = nn.Parameter(torch.empty(rows, d))
        self.weight_hh = nn.Parameter(torch.empty(rows, n))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, nn.Parameter(torch.empty(rows)) if config.bias else None)
        self.out = Linear(n, d, bias=config.bias) if n != d else None

    def initializers(self) -> dict[str, Init]:
        init = uniform(self.d_hidden**-0.5)
        return dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), init)

    @abstractmethod
    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The kernel over rows without pads: b t d -> b t n."""

    @abstractmethod
    def run_packed(self, x: PackedSequence, state: State) -> tuple[Tensor, State]:
        """The kernel over packed rows; ``state`` in their sorted order; the packed outputs."""

    def zeros(self, batch: int) -> Tensor:
        """(b, n) in the dtype and on the device of the weights."""
        return self.weight_hh.new_zeros(batch, self.d_hidden)

    def weights(self) -> list[Tensor]:
        """As torch's kernels want them."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self, name) for name in names if getattr(self, name) is not None]

    @property
    def keeps(self) -> bool:
        """What the kernels ask as whether they train: whether to keep what a backward needs. There
        is no dropout in them, and cuDNN's refuse a backward where the answer was no."""
        return torch.is_grad_enabled()

    def extend(self, x: Tensor, state: State, span: Span) -> tuple[Tensor, State]:
        # Autocast on CUDA would run cuDNN's kernels in float16, even where bfloat16 is asked for
        # and so no loss is scaled (aten/src/ATen/cudnn/AutocastRNN.cpp).
        with without_autocast(x.device):
            x = x.to(self.weight_hh.dtype)
            y, state = self._run_real(x, state, span) if span.padded else self.run(x, state)
        return (y if self.out is None else self.out(y)), state

    def _run_real(self, x: Tensor, state: State, span: Span) -> tuple[Tensor, State]:
        """Each row's real tokens moved together, run, and moved back; b t d -> b t n."""
        b, t, d = x.shape
        real = span.real.expand(b, t)
        lengths = real.sum(1)
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        rows = x.gather(1, order[..., None].expand(b, t, d))
        # A row of pads alone runs for one step, whose state is then dropped: kernels refuse none.
        packed = pack_padded_sequence(
            rows, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        assert packed.sorted_indices is not None
        assert packed.unsorted_indices is not None
        sorted_state = type(state)(*(part[packed.sorted_indices] for part in state))
        data, after = self.run_packed(packed, sorted_state)
        y, _ = pad_packed_sequence(
            PackedSequence(
                data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
            ),
            batch_first=True,
            total_length=t,
        )
        place = (real.cumsum(1) - 1).clamp(min=0)
        y = y.gather(1, place[..., None].expand(b, t, self.d_hidden))
        moved = (lengths > 0)[:, None]
        kept = (
            torch.where(moved, new[packed.unsorted_indices], old)
            for new, old in zip(after, state, strict=True)
        )
        return y, type(state)(*kept)
