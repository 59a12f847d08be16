"""A GPU's rules of autocast for the stand-in: which operations narrow, widen or take the widest.

The CPU's rules differ in a hundred operations (a CPU keeps exp, softmax, sums and norms narrow and
has its own for FFTs), so what passes autocast on a CPU may still meet two types on a GPU. Which
operations have a rule is what torch itself registers; which of the three it is, its page on
automatic mixed precision says ("CUDA Op-Specific Behavior"), and Apple's GPUs follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from standin_device import NAME, Elsewhere
from torch.utils._pytree import tree_flatten, tree_map_only

NARROW = {
    "_convolution", "_convolution.deprecated", "_scaled_dot_product_flash_attention",
    "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "addbmm", "addmm", "addmv", "addr", "baddbmm",
    "bmm", "chain_matmul", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d",
    "conv_transpose2d.input", "conv_transpose3d.input", "convolution", "cudnn_convolution",
    "cudnn_convolution_transpose", "einsum", "gru_cell", "linalg_multi_dot", "linalg_vecdot",
    "linear", "lstm_cell", "matmul", "mm", "mv", "prelu", "rnn_relu_cell", "rnn_tanh_cell",
    "scaled_dot_product_attention",
}  # fmt: skip
WIDEST = {
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sampler", "index_put",
    "scatter_add", "tensordot", "vdot",
}  # fmt: skip
REFUSED = {"binary_cross_entropy"}
"""Every other operation that torch registers computes in float32."""

KEY = "AutocastPrivateUse1"
_library = torch.library.Library("aten", "IMPL")
_rest = torch.library.Library("_", "IMPL")


def eligible(x: torch.Tensor) -> bool:
    return isinstance(x, Elsewhere) and x.is_floating_point() and x.dtype != torch.float64


def target(name: str, tensors: list[torch.Tensor]) -> torch.dtype:
    """What the operation computes in."""
    narrow: torch.dtype = torch.get_autocast_dtype(NAME)
    if name in REFUSED:
        raise RuntimeError(f"{name} is unsafe to autocast")
    if name in NARROW:
        return narrow
    wide = name not in WIDEST or any(x.dtype == torch.float32 for x in tensors if eligible(x))
    return torch.float32 if wide else narrow


def rule(name: str) -> Callable[..., Any]:
    base, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.aten, base), overload or "default")

    def compute(*args: Any, **kwargs: Any) -> Any:
        outside = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, KEY))
        with torch._C._ExcludeDispatchKeyGuard(outside):
            found = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
            dtype = target(name, found)
            args, kwargs = tree_map_only(
                torch.Tensor, lambda x: x.to(dtype) if eligible(x) else x, (args, kwargs)
            )
            return op(*args, **kwargs)

    return compute


def registered(kind: str) -> set[str]:
    """The operations for which autocast has a rule on such a device."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key(f"Autocast{kind.upper()}")
    return {name.removeprefix("aten::") for name in names if name.startswith("aten::")}


def install_rules(kind: str) -> None:
    """Once in a process, after the device: autocast on it is that of ``cuda`` or ``mps``."""
    told = NARROW | WIDEST | REFUSED
    assert told <= registered("cuda"), sorted(told - registered("cuda"))
    known = registered(kind)
    assert len(known) > 80, known
    _rest.fallback(torch.library.fallthrough_kernel, KEY)
    for name in sorted(known):
        _library.impl(name, rule(name), KEY)
