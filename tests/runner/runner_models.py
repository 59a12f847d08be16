"""Small models for runners, and what to feed them."""

from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.data.tokenizers.plain import BytesTokenizer
from windtunnel.runner import ArchitectureLM, BasicModelRunner, LMBase

PAIRS = [{"prompt": "ab" * n, "truth": "cd" * (n + 1)} for n in range(6)]


class Tiny(LMBase):
    """A causal mean and a head; remembers sums."""

    def __init__(self, max_len: int = 40, width: int = 8, dropout: float = 0.0, **kw: Any) -> None:
        super().__init__(name="tiny", max_len=max_len, width=width, dropout=dropout, **kw)
        self.tokenizer = BytesTokenizer(("eos",))
        generator = torch.Generator().manual_seed(0)
        size = self.tokenizer.vocab_size
        self.embedding = nn.Parameter(torch.randn(size, width, generator=generator))
        self.head = nn.Parameter(torch.randn(width, size, generator=generator) / width)
        self.dropout = nn.Dropout(dropout)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Any:
        self.calls.append(tuple(x.shape))
        sums = self.embedding[x].cumsum(1)
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        if cache:
            sums, count = sums + cache[0], count + cache[1]
        if cache is not None:
            cache[:] = [sums[:, -1:], count[-1:]]
        return self.dropout(torch.tanh(sums / count)) @ self.head


def made(
    model: type[LMBase] = Tiny, size: int = 25, seed: int = 0, **parameters: Any
) -> BasicModelRunner:
    """A runner with its model."""
    runner = BasicModelRunner(model, max_batch_size=size, seed=seed)
    runner.initialize("cpu", **parameters)
    return runner


def again(model: type[LMBase], *places: Any, **parameters: Any) -> BasicModelRunner:
    """A runner that goes on from a checkpoint."""
    runner = BasicModelRunner(model)
    runner.initialize("cpu", list(places), **parameters)
    return runner


def of_layers(size: int = 25, arch: dict[str, Any] | None = None, **layer: Any) -> BasicModelRunner:
    """A runner of one layer with parts of this package."""
    spec = {
        "name": "one", "max_seq_len": 32, "d_model": 16, "vocab_size": "auto",
        "embedding": {"tie": False},
        "layers": [{
            "norm": "rmsnorm", "mixer": {"type": "attention", "num_heads": 2, "position": "rope"},
            "mlp": {"type": "dense", "activation": "gelu", "ratio": 2}, **layer,
        }],
        **(arch or {}),
    }  # fmt: skip
    runner = BasicModelRunner(
        ArchitectureLM, max_batch_size=size,
        overrides={"arch": spec, "tokenizer": "bytes", "max_len": 32},
    )  # fmt: skip
    runner.initialize("cpu", optimizer={"type": "sgd", "momentum": 0}, lr=0.1)
    return runner


def weights(runner: BasicModelRunner) -> dict[str, Tensor]:
    """A copy of a runner's weights and buffers."""
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def changes(runner: BasicModelRunner, samples: list[dict[str, str]]) -> dict[str, Tensor]:
    """How far one step moves each parameter."""
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train(samples)
    return {name: before[name] - p.detach() for name, p in runner.model.named_parameters()}
