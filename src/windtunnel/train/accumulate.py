"""The gradient of one batch, from as many pieces as memory or the number of processes asks for."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from windtunnel.errors import UsageError
from windtunnel.nn.auxiliary import collect_auxiliary, counts_whole_batches, tallies
from windtunnel.train.batch import TokenBatch, count_targets, each_tensor, moved, pieces
from windtunnel.train.config import TrainConfig
from windtunnel.train.distributed.randomness import RowsOfABatch
from windtunnel.train.distributed.world import World
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.objectives.objective import Objective
from windtunnel.train.precision import computing
from windtunnel.train.watch import Watch

if TYPE_CHECKING:
    from windtunnel.train.loop import TrainState

CHUNK_ROWS = 512
CHUNK_LOGITS = 2**22
"""From so many logits on their chunks pay: measured on a CPU, 4096 × 2048 in float32 takes 0.6 of
the time, 1024 × 1024 the same (``benchmarks/chunked_cross_entropy.py``)."""


@dataclass(frozen=True)
class Note:
    """Something that a run's log should tell."""

    message: str
    values: dict[str, Any]
    kind: str = "warning"
    """Of the event."""


class BatchLoss(nn.Module):
    """prepared batch -> the summed loss of its targets: what is differentiated, as one module."""

    def __init__(self, model: nn.Module, objective: Objective[Any]) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Any) -> Tensor:
        return self._objective.summed(self.model, batch)


def loss_rows(config: TrainConfig, objective: Objective[Any], model: nn.Module) -> int | None:
    """How many tokens' logits are to exist at once; None: those of all.

    Raises:
        UsageError: a number is written, but the loss cannot be computed in chunks.
    """
    wanted = config.loss_chunk
    if wanted is None:
        return None
    possible = objective.in_chunks(model)
    if isinstance(wanted, int):
        if not possible:
            raise UsageError(
                f"train.loss_chunk: {type(objective).__name__} and this model's head have no loss "
                "in chunks; leave it out"
            )
        return wanted
    logits = config.largest_micro_batch * config.seq_len * objective.vocab_size
    return CHUNK_ROWS if possible and logits >= CHUNK_LOGITS else None


def accumulate(
    state: TrainState, batch: TokenBatch, tokens: int, watch: Watch | None = None
) -> Tensor:
    """Adds the gradient of the batch's mean loss to the weights; returns the summed loss.

    Each micro-batch's sum is divided by the targets of the *whole* batch, so the gradient is the
    same however the batch is cut and wherever its ignored targets lie. With ``micro_batch_size:
    auto`` the pieces are halved for good when memory is too small for them; with ``compile: auto``
    nothing is compiled any more when the compiler fails. Then the batch begins anew, and ``watch``,
    which looks at its step, forgets what it saw.
    """
    compiling = state.compiling
    while True:
        size = state.progress.micro_batch_size or state.config.largest_micro_batch
        searching = "auto" in (state.config.micro_batch_size, state.config.compile)
        before = [tally.clone() for tally in tallies(state.model)] if searching else []
        try:
            return _accumulate(state, batch, tokens, size)
        except Exception as error:
            smaller = may_halve(state, error, size)
            if not smaller and (compiling is None or not compiling.gives_up(error)):
                raise
        for tally, value in zip(tallies(state.model), before, strict=True):
            tally.copy_(value)
        state.weights.clear()
        if watch is not None:
            watch.begin_anew()
        if smaller:
            halve(state, size)


def may_halve(state: TrainState, error: Exception, size: int) -> bool:
    """Whether smaller pieces are a way out of an error: memory is too small, and the recipe lets
    them be found."""
    return state.config.micro_batch_size == "auto" and size > 1 and is_out_of_memory(error)


def halve(state: TrainState, size: int) -> None:
    """From now on at most half of ``size`` rows at once; says so."""
    state.weights.clear()
    gc.collect()
    if state.device.type == "cuda":
        torch.cuda.empty_cache()
    elif state.device.type == "mps":
        torch.mps.empty_cache()
    state.progress.micro_batch_size = smaller = (size + 1) // 2
    text = f"out of memory with {size} sequences at once: at most {smaller} from now on"
    state.notes.append(Note(text, {"micro_batch_size": smaller}))


def _accumulate(state: TrainState, batch: TokenBatch, tokens: int, size: int) -> Tensor:
    world = state.world
    cut = [(len(piece.targets), own_rows(piece, world)) for piece in pieces(batch, size)]
    totals: list[Tensor] | None = None
    if (len(cut) > 1 or world.size > 1) and counts_whole_batches(state.model):
        totals = _whole_counts(state, cut)
    scale = state.parallel.factor * (1.0 if state.scaler is None else state.scaler.scale)
    total = torch.zeros((), device=state.device)
    for number, (rows, piece) in enumerate(cut):
        last = number == len(cut) - 1
        with _piece(state, number, rows), collect_auxiliary(totals) as auxiliary:
            with state.parallel.syncing(last), computing(state.config.precision, state.device):
                loss = state.parallel(moved(piece, state.device))
                objective = loss / tokens
                if auxiliary.losses:
                    objective = objective + auxiliary.total(count_targets(piece) / tokens)
            with state.parallel.syncing(last):
                (objective * scale if scale != 1.0 else objective).backward()  # type: ignore[no-untyped-call]
        state.weights.gather()
        total += loss.detach()
    state.parallel.reduce(state.weights)
    world.add(total)
    return total


@torch.no_grad()
def _whole_counts(state: TrainState, cut: list[tuple[int, Any]]) -> list[Tensor]:
    """What the parts of the model count over all pieces and processes: a forward of each piece,
    with the very choices and dropout of the one that follows."""
    totals: list[Tensor] = []
    for number, (rows, piece) in enumerate(cut):
        with (
            _piece(state, number, rows),
            collect_auxiliary(totals, gathering=True),
            computing(state.config.precision, state.device),
        ):
            state.objective.summed(state.model, moved(piece, state.device))
    for total in totals:
        state.world.add(total)
    return totals


def own_rows(batch: Any, world: World) -> Any:
    """The rows of a batch that this process computes: every one, or r, r + n, … of n processes."""
    return batch if world.size == 1 else batch_rows(batch, slice(world.rank, None, world.size))


def batch_rows(batch: Any, rows: slice) -> Any:
    """Some rows of a batch."""
    return each_tensor(batch, lambda tensor: tensor[rows])


@contextmanager
def _piece(state: TrainState, number: int, rows: int) -> Iterator[None]:
    """The randomness of a micro-batch, of which this process has every ``world.size``-th row."""
    key = (state.config.seed, state.progress.step, number)
    world = state.world
    with ExitStack() as stack:
        stack.enter_context(keyed_randomness(state.device, *key))
        stack.enter_context(
            RowsOfABatch(world.rank, world.size, rows) if world.size > 1 else nullcontext()
        )
        yield


@contextmanager
def keyed_randomness(device: torch.device, seed: int, step: int, piece: int) -> Iterator[None]:
    """Random numbers keyed by (seed, step, piece) on the CPU and ``device``, the caller's after."""
    text = f"dropout/{seed}/{step}/{piece}".encode()
    key = int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
    devices = [device.index or 0] if device.type != "cpu" else []
    kind = device.type if devices else "cuda"
    with torch.random.fork_rng(devices, device_type=kind):
        torch.default_generator.manual_seed(key)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        elif device.type == "mps":
            torch.mps.manual_seed(key)
        yield
