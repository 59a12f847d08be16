"""Precisions: autocast, float16 with a scaled loss, and what keeps memory small."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from standins import ListBatches, Rows, TinyModel, learnable_batches, recipe
from tests.conftest import Command
from torch import Tensor
from torch.nn import functional as F

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.config import Document, decode
from windtunnel.errors import ConfigError, UsageError
from windtunnel.nn.auxiliary import collect_auxiliary
from windtunnel.nn.ops.attention import attend
from windtunnel.runner import ArchitectureLM, BasicModelRunner
from windtunnel.runs import RunFolder
from windtunnel.train import accumulate as accumulation
from windtunnel.train import precision
from windtunnel.train.activation_checkpointing import checkpoint_layers
from windtunnel.train.batch import summed_nats
from windtunnel.train.config import TrainConfig
from windtunnel.train.launch import open_trained
from windtunnel.train.loop import TrainState, accumulate, create_train_state, train_steps
from windtunnel.train.precision import LossScaler

V, T = 37, 12


def arch(**changes: Any) -> Any:
    layer = {"mixer": {"type": "attention", "num_heads": 2}, "mlp": "glu", "dropout": 0.2}
    layer |= changes.pop("layer", {})
    spec: dict[str, Any] = {
        "name": "tiny", "vocab_size": V, "d_model": 16, "max_seq_len": T,
        "layers": [{"repeat": 2, **layer}],
    }  # fmt: skip
    return resolve(decode(Document(spec | changes), ArchSpec))


def rows(count: int = 6, seed: int = 0) -> Rows:
    """Targets are ignored more and more often, and in the last row everywhere."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (count, T + 1), generator=g)
    targets = tokens[:, 1:].clone()
    targets[torch.rand(count, T, generator=g) < torch.arange(count)[:, None] / count] = -100
    targets[-1] = -100
    return Rows(tokens[:, :-1], targets)


def state_of(architecture: Any, batch: Rows, **changes: Any) -> TrainState:
    values = {"batch_size": len(batch.targets), "seq_len": T, "micro_batch_size": None}
    config = recipe(**({"steps": 3} | values | changes))
    state = create_train_state(build(architecture, seed=0), ListBatches([batch]), config)
    state.model.train()
    return state


def gradient(state: TrainState, batch: Rows) -> dict[str, Tensor]:
    accumulate(state, batch, int((batch.targets != -100).sum()))
    return {n: p.grad.clone() for n, p in state.weights.parameters.items() if p.grad is not None}


BALANCED = {"type": "moe", "num_experts": 3, "top_k": 1, "balance": "loss", "balance_rate": 5.0}


@pytest.mark.parametrize("balance", ["none", "experts", "depth"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_batch_has_one_gradient_however_it_is_cut(balance: str, size: int) -> None:
    layer: dict[str, Any] = {"dropout": 0.0}
    if balance == "experts":
        layer["mlp"] = BALANCED
    if balance == "depth":
        layer["depth"] = {"capacity": 0.3, "balance_rate": 3.0}
    batch = rows()
    whole = gradient(state_of(arch(layer=layer), batch), batch)
    cut = gradient(state_of(arch(layer=layer), batch, micro_batch_size=size), batch)
    assert whole.keys() == cut.keys()
    for name, expected in whole.items():
        torch.testing.assert_close(cut[name], expected, rtol=2e-4, atol=2e-6)
    if balance == "experts":  # the loss is there, and large enough to be missed
        without = {**layer, "mlp": BALANCED | {"balance_rate": 1e-9}}
        plain = gradient(state_of(arch(layer=without), batch), batch)
        router = "layers.0.mlp.router"
        assert (plain[router] - whole[router]).norm() > 0.1 * whole[router].norm()


def test_experts_count_a_token_once_though_layers_are_computed_twice() -> None:
    layer = {"mlp": BALANCED | {"balance": "loss_free", "balance_rate": 0.1}}
    batch, loads = rows(), []
    for again in (False, True):
        state = state_of(arch(layer=layer), batch, activation_checkpointing=again)
        gradient(state, batch)
        loads.append(state.model.get_submodule("layers.0.mlp").load)
    assert torch.equal(*loads)
    assert int(loads[0].sum()) == batch.inputs.numel()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer": {"mlp": BALANCED}},
        {"layer": {"depth": {"capacity": 0.4}}},
        {"layer": {"mixer": {"type": "gla", "num_heads": 2}}},
        *({"layer": {"mixer": mixer}} for mixer in ("min_gru", "rg_lru", "mamba")),
        {"layer": {"mixer": {"type": "delta_net", "num_heads": 2}}},
        {"layer": {"mixer": {"type": "attention", "num_heads": 2, "value_residual": "learned"}}},
        {"layer": {"mixer": {"type": "attention", "num_heads": 2, "dropout": 0.3}}},
    ],
)
@pytest.mark.parametrize("size", [None, 4])
def test_checkpointed_layers_have_the_same_gradients_to_the_bit(
    changes: dict[str, Any], size: int | None
) -> None:
    batch, found = rows(), []
    for again in (False, True):
        state = state_of(
            arch(**changes), batch, activation_checkpointing=again, micro_batch_size=size
        )
        found.append(gradient(state, batch))
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        assert torch.equal(found[1][name], expected), name


@pytest.mark.parametrize("precision", ["float32", "autocast"])
@pytest.mark.parametrize("mlp", ["glu", BALANCED, BALANCED | {"balance": "loss_free"}])
@pytest.mark.parametrize("size", [None, 4])
def test_and_where_the_backward_runs_in_a_thread_of_its_own(
    monkeypatch: pytest.MonkeyPatch, precision: str, mlp: Any, size: int | None
) -> None:
    """As for a GPU: what is kept for a thread, such as context variables, is not there."""
    plain, batch = Tensor.backward, rows()

    def elsewhere(loss: Tensor) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(plain, loss).result()

    layers = {"layer": {"mlp": mlp, "mixer": {"type": "mamba"}}}
    found = []
    for backward in (plain, elsewhere):
        monkeypatch.setattr(Tensor, "backward", backward)
        for again in (False, True):
            state = state_of(
                arch(**layers), batch, precision=precision, micro_batch_size=size,
                activation_checkpointing=again,
            )  # fmt: skip
            found.append(gradient(state, batch))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, expected in found[0].items():
            assert torch.equal(other[name], expected), name


def test_checkpointed_layers_keep_little() -> None:
    kept = []
    for again in (False, True):
        model = build(arch(), seed=0).train()
        if again:
            assert checkpoint_layers(model) == 2
        count = 0

        def pack(x: Tensor) -> Tensor:
            nonlocal count
            count += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), collect_auxiliary():
            summed_nats(model(rows().inputs), rows().targets)
        kept.append(count)
    assert kept[1] < 0.5 * kept[0]
    with pytest.raises(UsageError, match="no layers"):
        checkpoint_layers(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("tie", [False, True])
def test_the_loss_in_chunks_trains_as_the_plain_one(tie: bool) -> None:
    batch = rows()
    spec = arch(embedding={"tie": tie}, head={"softcap": 8.0, "bias": True, "scale": 0.7})
    losses = [
        [info.loss for info in train_steps(state_of(spec, batch, loss_chunk=chunk))]
        for chunk in (None, 5, 1000)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)
    state = state_of(spec, batch, loss_chunk=5)
    plain = state_of(spec, batch)
    generator = torch.Generator()
    state.model.eval()
    plain.model.eval()
    scored = state.objective.score(state.model, batch, generator)
    assert scored == pytest.approx(plain.objective.score(plain.model, batch, generator), rel=1e-6)


def test_chunks_are_used_where_they_pay_or_as_written() -> None:
    batch = rows()
    assert state_of(arch(), batch).objective.loss_rows is None
    assert state_of(arch(), batch, loss_chunk="auto").objective.loss_rows is None
    large = arch(vocab_size=70_000)
    assert state_of(large, batch, loss_chunk="auto").objective.loss_rows == 512
    assert state_of(arch(), batch, loss_chunk=3).objective.loss_rows == 3
    with pytest.raises(UsageError, match="loss_chunk"):
        create_train_state(TinyModel(), ListBatches(learnable_batches()), recipe(loss_chunk=4))


@pytest.mark.parametrize("layer", [{"mixer": "gla", "mlp": BALANCED}, {}])
def test_autocast_trains_near_float32_with_float32_weights(layer: dict[str, Any]) -> None:
    """Without dropout, whose masks are others in bfloat16, and at a rate that is not chaotic."""
    batch, losses = rows(), {}
    for name in ("float32", "autocast", "bfloat16"):
        state = state_of(
            arch(layer={"dropout": 0.0, **layer}), batch, precision=name, steps=40, lr=2e-3
        )
        losses[name] = [info.loss for info in train_steps(state)]
        kinds = {p.dtype for p in state.weights.parameters.values()}
        assert kinds == {torch.float32}
    assert losses["autocast"] != losses["float32"]
    for name in ("autocast", "bfloat16"):
        assert losses[name] == pytest.approx(losses["float32"], rel=0.03)
        assert losses[name][-1] < 0.8 * losses[name][0]


@pytest.fixture
def tf32() -> Iterator[None]:
    """Of a process that allows it wherever it can."""
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    yield
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("size", [None, 2])
def test_float32_is_not_computed_as_tf32(size: int | None) -> None:
    seen: list[tuple[object, ...]] = []

    def look(*_: object) -> None:
        cudnn = torch.backends.cudnn
        seen.append((
            cudnn.allow_tf32, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision,
            torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision(),
        ))  # fmt: skip

    batch = rows()
    state = state_of(arch(layer={"mixer": "short_conv"}), batch, micro_batch_size=size)
    convolution = state.model.get_submodule("layers.0.mixer.conv")
    convolution.register_forward_hook(look)
    convolution.register_full_backward_hook(look)
    gradient(state, batch)
    assert len(seen) == (2 if size is None else 6)
    assert set(seen) == {(False, "ieee", "ieee", False, "highest")}


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("who", ["verb", "runner"])
def test_nor_is_it_by_what_reads_a_run_or_trains_without_one(
    workplace: Path, windtunnel: Command, who: str
) -> None:
    if who == "verb":
        windtunnel("train", "run.yaml", "--out", "run", "--set", "train.steps=1")
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        open_trained(RunFolder.open(workplace / "run"))
    else:
        made = BasicModelRunner(ArchitectureLM, overrides={"arch": "gru", "tokenizer": "bytes"})
        made.initialize("cpu", num_blocks=1, embed_dim=16, max_len=32)
    assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_float16_is_refused_on_a_cpu_and_beside_chunks() -> None:
    with pytest.raises(UsageError, match="float16 needs a CUDA GPU"):
        state_of(arch(), rows(), precision="float16")
    with pytest.raises((ConfigError, ValueError), match="loss_chunk"):
        TrainConfig(precision="float16", loss_chunk=8)


def test_the_scale_falls_after_an_overflow_and_grows_after_many_good_steps() -> None:
    kept = SimpleNamespace(loss_scale=0.0, good_steps=0)
    scaler = LossScaler(kept)
    assert scaler.scale == 2.0**16
    assert scaler.update(float("inf"))
    assert (kept.loss_scale, kept.good_steps) == (2.0**15, 0)
    for _ in range(LossScaler.grow_after):
        assert not scaler.update(1.0)
    assert (kept.loss_scale, kept.good_steps) == (2.0**16, 0)
    for _ in range(16):
        assert scaler.update(float("nan"))
    assert not scaler.update(float("nan"))  # 1 is no scale any more: the gradient is broken
    assert scaler.scale == 1.0
    grads = [torch.full((2,), 12.0)]
    kept.loss_scale = 4.0
    scaler.unscale(grads)
    assert grads[0].tolist() == [3.0, 3.0]


def test_a_scaled_loss_gives_the_same_steps_and_an_overflow_costs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole float16 path on a CPU: only the check of the device is left out."""
    import windtunnel.train.loop as loop

    monkeypatch.setattr(loop, "check_precision", lambda *_: None)
    batch = rows()
    flat: dict[str, Any] = {"steps": 9, "schedule": {"type": "flat", "warmup": 0}}
    state = state_of(arch(layer={"dropout": 0.0}), batch, precision="float16", **flat)
    plain = state_of(arch(layer={"dropout": 0.0}), batch, **flat)
    steps = train_steps(state)
    state.progress.loss_scale = 2.0**40  # far too much for float16
    infos = [next(steps)]
    assert infos[0].skipped
    assert state.progress.loss_scale == 2.0**39
    assert (state.progress.skipped, state.progress.skipped_in_a_row) == (1, 0)
    state.progress.loss_scale = 2.0**10
    infos = list(steps)
    assert not any(info.skipped for info in infos)
    expected = [info.loss for info in train_steps(plain)]
    assert [info.loss for info in infos] == pytest.approx(expected[:8], rel=0.02)
    assert state.progress.good_steps == 8


class Full(torch.nn.Module):
    """Memory for so many rows: a model that fails as torch does when there is none."""

    def __init__(self, model: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = model, room

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.inner(tokens)
        if len(tokens) > self.room and self.training:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough")
        return y


def test_without_memory_pieces_are_halved_and_it_is_said() -> None:
    batch = rows(8)
    config = recipe(steps=2, batch_size=8, seq_len=T, micro_batch_size="auto")
    spec = arch(layer={"dropout": 0.0, "mlp": BALANCED | {"balance": "loss_free"}})

    def made(room: int) -> TrainState:
        model = Full(build(spec, seed=0), room)
        return create_train_state(model, ListBatches([batch]), config)

    roomy, narrow = made(8), made(3)
    expected, found = gradient(roomy, batch), gradient(narrow, batch)
    assert [note.values["micro_batch_size"] for note in narrow.notes] == [4, 2]
    assert "8 sequences" in narrow.notes[0].message
    assert roomy.notes == []
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-6)
    loads = [state.model.get_submodule("inner.layers.0.mlp").load for state in (roomy, narrow)]
    assert torch.equal(*loads)  # what was counted before memory ran out is forgotten
    assert narrow.progress.micro_batch_size == 2
    gradient(narrow, batch)
    assert len(narrow.notes) == 2  # found once
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        gradient(made(0), batch)


def test_an_error_of_another_kind_is_not_taken_for_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = rows()
    state = state_of(arch(), batch, micro_batch_size="auto")

    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(accumulation, "_accumulate", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        gradient(state, batch)
    assert state.progress.micro_batch_size == 0
    assert precision.AUTOCAST["float16"] == torch.float16


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_short_attention_in_bfloat16_is_as_near_the_truth_as_the_fused_kernel(
    causal: bool, heads: tuple[int, int]
) -> None:
    """It is chosen where gradients are wanted, and by nothing else."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads[0], 24, 8), (2, heads[1], 24, 8), (2, heads[1], 24, 8)]
    drawn = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]

    def found(dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
        x = [part.detach().to(dtype).requires_grad_() for part in drawn]
        if kernel:
            y = F.scaled_dot_product_attention(
                *x, is_causal=causal, scale=0.3, enable_gqa=heads[0] != heads[1]
            )
        else:
            y = attend(*x, scale=0.3, causal=causal)
        y.square().sum().backward()
        return [y.detach(), *(part.grad for part in x if part.grad is not None)]

    exact = found(torch.float64, kernel=True)
    fused, ours = found(torch.bfloat16, kernel=True), found(torch.bfloat16, kernel=False)
    for truth, usual, mine in zip(exact, fused, ours, strict=True):
        error = (mine.double() - truth).norm() / truth.norm()
        assert error <= 3 * (usual.double() - truth).norm() / truth.norm()
        assert error < 0.01
    with torch.no_grad():
        quiet = attend(*drawn, scale=0.3, causal=causal)
    assert torch.equal(quiet, fused[0])
    whole = found(torch.float32, kernel=False)
    assert all(map(torch.equal, whole, found(torch.float32, kernel=True)))
