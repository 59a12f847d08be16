"""Models of a space, made on demand: a dataset, a shuffled loader, and the seed's functions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from windtunnel.arch import Model, build
from windtunnel.config import suggestion
from windtunnel.data.order import KeyedPermutation
from windtunnel.errors import UsageError
from windtunnel.spaces.generator import SEED, Configs, ModelConfigGenerator
from windtunnel.spaces.grids import MAX_SEQ_LEN, VOCAB_SIZE
from windtunnel.spaces.member import Member
from windtunnel.spaces.space import Space

Init: TypeAlias = Literal["real", "skip", "meta"]
"""real: initial weights; skip: memory with arbitrary content, for weights that come from elsewhere;
meta: shapes without memory."""
Metadata: TypeAlias = dict[str, Any]
Batch: TypeAlias = tuple[list[Model], list[Metadata]]

INITS = ("real", "skip", "meta")
_DEVICES = ("cpu", "cuda", "cuda:0", "mps")
INIT: Init = "real"
"""What loaders do where nothing is said."""


@dataclass(frozen=True)
class _Packed:
    """The weights that a worker made of one member, end to end, one tensor for each dtype.

    A model of 24 layers has hundreds of tensors, and each that crosses to another process takes a
    file descriptor: so few go.
    """

    position: int
    weights: dict[torch.dtype, Tensor]


class ModelDataset(Dataset[Any]):
    """``dataset[i]`` is (model, metadata) of a space's i-th member; equal seeds, equal weights.

    Raises:
        UsageError: ``init`` is unknown.
    """

    def __init__(
        self,
        space: Space,
        device: torch.device | str | None = None,
        *,
        seed: int = SEED,
        init: Init | None = None,
    ) -> None:
        init = INIT if init is None else init
        if init not in INITS:
            raise UsageError(f"unknown init {init!r}{suggestion(init, INITS)}")
        self.space = space
        self.seed = seed
        self.init = init
        self.device = torch.device("meta") if init == "meta" else placed(device)

    def __len__(self) -> int:
        return len(self.space)

    def __getitem__(self, position: int) -> Any:
        """(model, metadata); in a worker process, what the loader makes those from."""
        if get_worker_info() is None:
            return self.model(position)
        if self.init != "real":  # nothing that would be worth sending
            return _Packed(position, {})
        return _Packed(position, _packed(build(self.space[position].architecture, self.seed)))

    def model(self, position: int) -> tuple[Model, Metadata]:
        """The model of one member, and its metadata."""
        member = self.space[position]
        return self._built(member, initialized=self.init == "real"), member.metadata

    def unpacked(self, packed: _Packed) -> tuple[Model, Metadata]:
        """The model whose weights a worker has made, and its metadata."""
        member = self.space[packed.position]
        model = self._built(member, initialized=False)
        if packed.weights:
            _fill(model, packed.weights)
        return model, member.metadata

    def _built(self, member: Member, *, initialized: bool) -> Model:
        return build(member.architecture, self.seed, device=self.device, initialized=initialized)


def placed(device: torch.device | str | None) -> torch.device:
    """The device of that name; CUDA where none is named and it is there; the CPU, with a warning,
    where this machine lacks what is named."""
    here = torch.cuda.is_available()
    if device is None:
        return torch.device("cuda" if here else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"unknown device {device!r}{suggestion(device, _DEVICES)}") from None
    known = {"cuda": torch.cuda.device_count() if here else 0,
             "mps": int(torch.backends.mps.is_available())}  # fmt: skip
    if (found.index or 0) >= known.get(found.type, 1):
        warnings.warn(f"{device} is not on this machine: models are put on the CPU", UserWarning,
                      stacklevel=3)  # fmt: skip
        return torch.device("cpu")
    return found


def _packed(model: Model) -> dict[torch.dtype, Tensor]:
    pieces: dict[torch.dtype, list[Tensor]] = {}
    for tensor in _tensors(model):
        pieces.setdefault(tensor.dtype, []).append(tensor.detach().reshape(-1))
    return {dtype: torch.cat(each) for dtype, each in pieces.items()}


def _fill(model: Model, weights: dict[torch.dtype, Tensor]) -> None:
    used = dict.fromkeys(weights, 0)
    with torch.no_grad():
        for tensor in _tensors(model):
            start = used[tensor.dtype]
            used[tensor.dtype] = end = start + tensor.numel()
            tensor.copy_(weights[tensor.dtype][start:end].view(tensor.shape))


def _tensors(model: Model) -> Iterator[Tensor]:
    """Every parameter once, and every buffer."""
    yield from model.parameters()
    yield from model.buffers()


class SpaceSampler(Sampler[int]):
    """Every position once, in an order that (seed, epoch) decides; each pass is the next epoch."""

    def __init__(self, size: int, seed: int, *, shuffle: bool = True) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        """The number of the next pass, from 0; may be set."""

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        self.epoch += 1
        return self._order(epoch)

    def _order(self, epoch: int) -> Iterator[int]:
        if not self.shuffle or not self.size:
            yield from range(self.size)
            return
        permutation = KeyedPermutation(self.size, "models", self.seed, epoch)
        for position in range(self.size):
            yield permutation.at(position)


class ModelLoader(DataLoader[Any]):
    """Batches (list of models, list of metadata); the order is the same for any number of workers.

    Workers draw the initial weights; the models themselves are put together here, on the device.
    """

    dataset: ModelDataset

    def __init__(
        self,
        dataset: ModelDataset,
        *,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = SEED,
        shuffle: bool = True,
    ) -> None:
        self.order = SpaceSampler(len(dataset), seed, shuffle=shuffle)
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=self.order,
            num_workers=num_workers,
            collate_fn=list,
        )

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            pairs = [self.dataset.unpacked(x) if isinstance(x, _Packed) else x for x in batch]
            yield [model for model, _ in pairs], [metadata for _, metadata in pairs]


def create_model_dataloader(
    vocab_size: int = VOCAB_SIZE,
    max_seq_len: int = MAX_SEQ_LEN,
    batch_size: int = 4,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    seed: int = SEED,
    use_all_configs: bool = False,
    *,
    init: Init | None = None,
    space: Space | None = None,
) -> tuple[ModelLoader, Configs]:
    """A shuffled loader of models, and the configurations that they are made from.

    The space is the practical grid, the full one with ``use_all_configs``, or any other that is
    given as ``space`` (which then says its own vocabulary and context). Without ``device`` models
    are put on CUDA where that is there.

    Raises:
        UsageError: ``init`` is unknown, or both a space and a grid are asked for.
    """
    if space is None:
        generator = ModelConfigGenerator(vocab_size, max_seq_len, seed)
        whole, usual = generator.generate_all_configs, generator.generate_reasonable_configs
        configs = whole() if use_all_configs else usual()
    elif use_all_configs:
        raise UsageError("use_all_configs is about the grids; leave it out beside a space")
    else:
        configs = Configs(space)
    dataset = ModelDataset(configs.space, device, seed=seed, init=init)
    loader = ModelLoader(dataset, batch_size=batch_size, num_workers=num_workers, seed=seed)
    return loader, configs


def create_reasonable_model_dataloader(
    vocab_size: int = VOCAB_SIZE,
    max_seq_len: int = MAX_SEQ_LEN,
    batch_size: int = 4,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    seed: int = SEED,
    *,
    init: Init | None = None,
) -> tuple[ModelLoader, Configs]:
    """:func:`create_model_dataloader` over the 16,704 of the practical grid."""
    return create_model_dataloader(
        vocab_size, max_seq_len, batch_size, num_workers, device, seed, init=init
    )


def create_full_model_dataloader(
    vocab_size: int = VOCAB_SIZE,
    max_seq_len: int = MAX_SEQ_LEN,
    batch_size: int = 4,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    seed: int = SEED,
    *,
    init: Init | None = None,
) -> tuple[ModelLoader, Configs]:
    """:func:`create_model_dataloader` over the 2,998,336 of the full grid."""
    return create_model_dataloader(
        vocab_size, max_seq_len, batch_size, num_workers, device, seed, True, init=init
    )
