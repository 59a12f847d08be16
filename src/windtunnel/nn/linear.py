"""A linear map that names its own init."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.nn.component import Scope
from windtunnel.nn.initialize import Init, constant, fan_in_std, normal

_BRANCHES_TO_STREAM = 3.0


class Linear(nn.Linear):
    """y = W x + c: … d_in -> … d_out.

    W ~ N(0, (gain/√d_in)²), c = 0: unit variance in gives variance gain² out (LeCun et al. 1998).
    The values come from :func:`~windtunnel.nn.initialize.initialize`; construction leaves torch's
    global random state alone.

    Whoever needs the matrix or the bias as it acts reads :meth:`effective`, not ``weight``:
    ``unified`` may stand between (:mod:`windtunnel.nn.unified_linear`).
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        bias: bool,
        gain: float = 1.0,
        product_only: bool = False,
        stream: Literal["in", "out", "none"] | None = None,
    ) -> None:
        """``product_only``: whoever uses the map needs it without a bias, always. ``stream``: which
        of its sides is the residual stream's; left out, the map's name and sizes tell
        (:mod:`windtunnel.nn.unit_weights`), so maps within a part say ``none``."""
        super().__init__(d_in, d_out, bias=bias)
        self.gain, self.product_only, self.stream = gain, product_only, stream
        self.unified: nn.Module | None = None

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """W (d_out, d_in) and c (d_out,) as they act on an input."""
        if self.unified is None:
            return self.weight, self.bias
        weight, bias = self.unified(self.weight, self.bias)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """… d_in -> … d_out"""
        return F.linear(x, *self.effective())

    def reset_parameters(self) -> None:
        """Nothing: ``initialize`` fills the weights."""

    def initializers(self) -> dict[str, Init]:
        weight = normal(self.gain * fan_in_std(self.in_features))
        return {"weight": weight, "bias": constant(0.0)}


def residual_gain(scope: Scope) -> float:
    """min(1, 3σ)/√(2·layers), with σ the deviation of the stream where it enters the stack.

    1/√(2·layers) is that of Radford et al. 2019 (GPT-2), section 2.3. Times 3σ all branches
    together add three times what there was. With more, the first branch on small embeddings drowns
    what the tokens are; with less, a tied head begins by predicting the token it reads.
    """
    return min(1.0, _BRANCHES_TO_STREAM * scope.stream_std) * float((2 * scope.num_layers) ** -0.5)
