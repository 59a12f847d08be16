"""How fast things are on a GPU: measured, printed and kept, and asserted to be a number at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_figures import Figures
from gpu_runs import architecture, seconds_of, state_of

from windtunnel.nn.component import REGISTRIES, Scope, Span, build_component
from windtunnel.nn.initialize import initialize
from windtunnel.train.loop import train_steps

pytestmark = pytest.mark.gpu

SCOPE = {"cuda": Scope(d_model=512, max_seq_len=2048), "cpu": Scope(d_model=32, max_seq_len=48)}
ROWS = 4


def test_the_device_is_told(gpu: str, figures: Figures) -> None:
    name = torch.cuda.get_device_name() if gpu == "cuda" else "a rehearsal on the CPU"
    figures.add("device", name, torch=torch.__version__, cuda=str(torch.version.cuda))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast", "float16"])
def test_tokens_a_second(
    gpu: str, monkeypatch: pytest.MonkeyPatch, figures: Figures, precision: str
) -> None:
    if gpu == "cpu":
        monkeypatch.setattr("windtunnel.train.loop.check_precision", lambda *_: None)
    wide: dict[str, Any] = {"d_model": 512, "layers": 8, "max_seq_len": 1024, "vocab_size": 8192}
    sizes = {"batch_size": 16, "seq_len": 1024} if gpu == "cuda" else {"batch_size": 2}
    model = architecture("llama", **(wide if gpu == "cuda" else {}))
    state = state_of(model, gpu, precision=precision, steps=10_000, **sizes)
    steps = train_steps(state)
    seconds = seconds_of(lambda: next(steps), gpu, least=2.0 if gpu == "cuda" else 0.0)
    speed = state.config.batch_size * state.config.seq_len / seconds
    figures.add("training llama (8 layers of 512), tokens a second", precision, speed=speed)
    assert speed > 0


@pytest.mark.parametrize("name", sorted(REGISTRIES["mixer"].names()))
def test_a_mixer_forward_and_backward(gpu: str, figures: Figures, name: str) -> None:
    scope = SCOPE[gpu]
    kind = REGISTRIES["mixer"].config_class(name)
    assert kind is not None
    config = kind().resolve(scope)  # type: ignore[call-arg]
    for dtype in (torch.float32, torch.bfloat16):
        module = build_component("mixer", config, scope)
        initialize(module, 0)
        module.to(gpu, dtype).train()
        x = torch.randn(ROWS, scope.max_seq_len, scope.d_model).to(gpu, dtype).requires_grad_()
        span = Span.of(scope.max_seq_len, device=x.device)

        def step(module: Any = module, x: Any = x, span: Any = span) -> None:
            x.grad = None
            module(x, span).float().square().mean().backward()

        seconds = seconds_of(step, gpu)
        assert x.grad is not None
        assert x.grad.isfinite().all()
        figures.add(
            f"mixers, forward and backward of {ROWS} x {scope.max_seq_len} x {scope.d_model}",
            name, **{f"{str(dtype).removeprefix('torch.')}_milliseconds": 1e3 * seconds},
        )  # fmt: skip
