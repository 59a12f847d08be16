"""A second device for machines that have one: tensors that say they are elsewhere, held on the CPU.

As a GPU does, it refuses to compute with tensors of two devices, generators of another one and
counts that fused kernels do not find where they are; as Apple's does, it refuses float64 where
asked. Numbers are the CPU's, so whatever runs on it must give the CPU's results, but for the order
of sums; ``autocast_rules`` adds those of autocast. What it cannot show: kernels, speed, memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "standin"
DEVICE = f"{NAME}:0"
ATEN = torch.ops.aten
BETWEEN_DEVICES = {ATEN._to_copy.default, ATEN.copy_.default}
READS_FROM_CPU = {
    ATEN._pack_padded_sequence.default: [1],
    ATEN._pack_padded_sequence_backward.default: [2],
    ATEN._pad_packed_sequence.default: [1],
}
"""Lengths."""
NUMBERS_FROM_CPU = {
    ATEN.masked_fill.Tensor, ATEN.masked_fill_.Tensor, ATEN._foreach_mul_.Tensor,
    ATEN._foreach_div_.Tensor, ATEN.copy_.default, ATEN._to_copy.default,
}  # fmt: skip
INDEXED_FROM_CPU = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
"""A GPU takes their indices from the CPU too."""
WIDE = (torch.float64, torch.complex128)


class Elsewhere(torch.Tensor):
    """A tensor of the device, with the numbers that it stands for."""

    held: torch.Tensor

    @property
    def data(self) -> Any:
        return self.detach()

    @data.setter
    def data(self, other: Any) -> None:
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.held = other.held

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=torch.device(DEVICE),
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Within it the device exists: what is made or moved there is held by an ``Elsewhere``."""

    allows_float64 = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: on the device if its tensors are, or if it is told to make one there."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, Elsewhere)]
    here = [x for x in tensors if not isinstance(x, Elsewhere)]
    for x in there:
        assert (x.dtype, x.shape) == (x.held.dtype, x.held.shape), f"{func}: a stale tensor"
    if torch.Tag.pointwise in func.tags or func in NUMBERS_FROM_CPU:
        here = [x for x in here if x.dim()]  # a number of the CPU is passed as a number
    if func in INDEXED_FROM_CPU and isinstance(args[0], Elsewhere):
        here = [x for x in here if not any(x is index for index in args[1])]
    if func in READS_FROM_CPU:
        here = [x for x in here if not any(x is args[i] for i in READS_FROM_CPU[func])]
    if there and here and func not in BETWEEN_DEVICES:
        raise RuntimeError(f"{func}: expected all tensors to be on one device, found {DEVICE}, cpu")
    generator = kwargs.get("generator")
    elsewhere = torch.device(kwargs.get("device") or "cpu").type == NAME
    if generator is not None and (there or elsewhere):
        raise RuntimeError(f"{func}: expected a generator of {DEVICE}, found one of the CPU")
    on_device = bool(there)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func is ATEN.copy_.default:
        on_device = isinstance(args[0], Elsewhere)
    held, passed = tree_map_only(Elsewhere, lambda x: x.held, (args, kwargs))
    result = FUSED.get(func, func)(*held, **passed)
    if not on_device:
        return result
    known = {id(x.held): x for x in there}  # what is changed in place stays the same tensor
    if func is ATEN._pack_padded_sequence.default:
        return placed(func, result[0]), result[1]  # how many rows there are of each length
    result = tree_map_only(
        torch.Tensor, lambda x: known[id(x)] if id(x) in known else placed(func, x), result
    )
    return return_and_correct_aliasing(func, args, kwargs, result) if there else result


def placed(func: Any, held: torch.Tensor) -> Elsewhere:
    if held.dtype in WIDE and not StandIn.allows_float64:
        raise TypeError(f"{func}: the device has no {held.dtype}")
    return Elsewhere(held.resolve_conj().resolve_neg())


def lstm_cell(input_gates: Any, hidden_gates: Any, cell: Any, *biases: Any) -> Any:
    """torch has these cells fused on a GPU, and in parts on a CPU."""
    gates = input_gates + hidden_gates + sum(b for b in biases if b is not None)
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * cell + i * g
    return o * new.tanh(), new, torch.cat([i, f, g, o], 1)


def lstm_cell_backward(
    grad_hidden: Any, grad_cell: Any, cell: Any, new: Any, gates: Any, has_bias: bool
) -> Any:
    i, f, g, o = gates.chunk(4, 1)
    to_hidden = torch.zeros_like(new) if grad_hidden is None else grad_hidden
    to_cell = to_hidden * o * (1 - new.tanh() ** 2) + (0 if grad_cell is None else grad_cell)
    parts = [
        to_cell * g * i * (1 - i), to_cell * cell * f * (1 - f), to_cell * i * (1 - g**2),
        to_hidden * new.tanh() * o * (1 - o),
    ]  # fmt: skip
    grads = torch.cat(parts, 1)
    return grads, to_cell * f, grads.sum(0) if has_bias else None


def gru_cell(input_gates: Any, hidden_gates: Any, hidden: Any, bias: Any, own_bias: Any) -> Any:
    ir, iz, inn = (input_gates + (0 if bias is None else bias)).chunk(3, 1)
    hr, hz, hn = (hidden_gates + (0 if own_bias is None else own_bias)).chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (inn + r * hn).tanh()
    return n + z * (hidden - n), torch.cat([r, z, n, hidden, hn], 1)


def gru_cell_backward(grad: Any, kept: Any, has_bias: bool) -> Any:
    r, z, n, hidden, hn = kept.chunk(5, 1)
    to_z, to_n = grad * (hidden - n) * z * (1 - z), grad * (1 - z) * (1 - n**2)
    to_r = to_n * hn * r * (1 - r)
    inputs, hiddens = torch.cat([to_r, to_z, to_n], 1), torch.cat([to_r, to_z, to_n * r], 1)
    biases = (inputs.sum(0), hiddens.sum(0)) if has_bias else (None, None)
    return inputs, hiddens, grad * z, *biases


FUSED = {
    ATEN._thnn_fused_lstm_cell.default: lstm_cell,
    ATEN._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
    ATEN._thnn_fused_gru_cell.default: gru_cell,
    ATEN._thnn_fused_gru_cell_backward.default: gru_cell_backward,
}


class DeviceModule:
    """What ``torch.cuda`` is for CUDA, as far as it is asked for."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = 0) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: Any = 0) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def install(*, float64: bool) -> None:
    """Once in a process: the device is known to torch."""
    StandIn.allows_float64 = float64
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) by way of the mode
    # As torch does between CPU and CUDA of itself: the parameter stays the same, and ties with it.
    torch.__future__.set_swap_module_params_on_conversion(True)
    _setup_privateuseone_for_python_backend(NAME, backend_module=DeviceModule())
