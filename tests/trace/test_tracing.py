"""Tracing plain modules of PyTorch: structure, exact counts, and nothing left behind."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from windtunnel.errors import UsageError
from windtunnel.trace.record import Call, tensors
from windtunnel.trace.tracing import TraceError, trace, trace_named


class Ticking:
    """A clock that goes one second at each reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def hooks_of(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_a_sequential_is_a_root_with_its_parts_in_order() -> None:
    tree = trace(mlp(), torch.zeros(3, 4), dims={"b": 3, "d": 4})
    assert [(c.path, c.kind) for c in tree.root.walk()] == [
        ("", "Sequential"),
        ("0", "Linear"),
        ("1", "ReLU"),
        ("2", "Linear"),
    ]
    assert [c.output.text() for c in tree.root.children if c.output] == ["(b, 2·d)"] * 2 + [
        "(b, 2)"
    ]
    assert [c.output_bytes for c in tree.root.children] == [3 * 8 * 4, 3 * 8 * 4, 3 * 2 * 4]
    assert (tree.params, tree.root.own_params) == (4 * 8 + 8 + 8 * 2 + 2, 0)
    assert tree.error is None
    assert tree.uncalled == ()


def test_seconds_are_the_clock_of_the_call_and_own_seconds_leave_the_children_out() -> None:
    tree = trace(mlp(), torch.zeros(3, 4), clock=Ticking())
    assert [child.seconds for child in tree.root.children] == [1.0, 1.0, 1.0]
    assert tree.root.seconds == 7.0
    assert tree.root.own_seconds == 4.0


def test_arguments_carry_their_names_keyword_ones_too() -> None:
    class Two(nn.Module):
        def forward(self, first: Tensor, second: Tensor, scale: float = 1.0) -> Tensor:
            return first + second * scale

    tree = trace(Two(), torch.zeros(2), kwargs={"scale": 2.0, "second": torch.zeros(2)})
    assert [name for name, _ in tree.root.inputs.items] == ["first", "second", "scale"]
    assert [value.text() for _, value in tree.root.inputs.items] == ["(2)", "(2)", "2.0"]


def test_an_lstm_returns_a_tuple_in_a_tuple() -> None:
    tree = trace(nn.LSTM(4, 6, batch_first=True), torch.zeros(2, 5, 4))
    assert [t.shape for t in tensors(tree.root.output)] == [(2, 5, 6), (1, 2, 6), (1, 2, 6)]
    assert tree.root.output is not None
    assert tree.root.output.to_json()["items"]["1"]["kind"] == "tuple"


class State(NamedTuple):
    key: Tensor
    length: int


@dataclass(frozen=True)
class Span:
    positions: Tensor


class Nested(nn.Module):
    def forward(self, span: Span) -> dict[str, object]:
        state = State(span.positions, 3)
        return OrderedDict(state=state, all=[span.positions, None], span=span)


def test_named_tuples_mappings_lists_and_dataclasses_are_followed() -> None:
    output = trace(Nested(), Span(torch.zeros(2, 3))).root.output
    assert output is not None
    items = output.to_json()["items"]
    assert items["state"]["kind"] == "State"
    assert items["state"]["items"]["key"]["tensor"] == [2, 3]
    assert items["state"]["items"]["length"] == {"kind": "int", "value": "3"}
    assert items["all"]["items"]["1"]["value"] == "None"
    assert items["span"]["items"]["positions"]["dtype"] == "float32"
    # The same tensor three times over is held once.
    assert trace(Nested(), Span(torch.zeros(2, 3))).root.output_bytes == 2 * 3 * 4


def test_a_module_that_returns_none() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    call = trace(Silent(), torch.zeros(1)).root
    assert call.output is not None
    assert (call.output.text(), call.output_bytes) == ("None", 0)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(2)])
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(layer(x))
        result: Tensor = self.head(x)
        return result


def test_shared_parameters_count_once_and_new_ones_sum_to_the_whole() -> None:
    model = Tied()
    tree = trace(model, torch.zeros(2, 3, dtype=torch.long))
    assert tree.params == sum(p.numel() for p in model.parameters()) == 40 + 2 * 16
    assert [(c.path, c.new_params, c.shared_params) for c in tree.root.children] == [
        ("embedding", 40, 0),
        ("layers.0", 16, 0),
        ("layers.0", 0, 16),
        ("layers.1", 16, 0),
        ("layers.1", 0, 16),
        ("head", 0, 40),
    ]
    assert sum(c.new_params for c in tree.root.children) == tree.params


def test_one_module_under_two_names_is_told_under_both() -> None:
    shared = nn.Linear(4, 4)
    tree = trace(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(2, 4))
    assert [c.path for c in tree.root.children] == ["0", "1", "2"]
    assert tree.params == 20


def test_transformer_encoder_layers_and_a_module_whose_weights_are_used_without_a_call() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    tree = trace(encoder, torch.zeros(2, 3, 8))
    assert [c.path for c in tree.root.children] == ["layers.0", "layers.1"]
    assert "layers.1.self_attn" in [c.path for c in tree.root.walk()]
    assert tree.uncalled == ("layers.0.self_attn.out_proj", "layers.1.self_attn.out_proj")
    assert not any(call.training for call in tree.root.walk())


def test_depth_leaves_out_deeper_calls() -> None:
    model = nn.Sequential(mlp(), mlp_back())
    assert [c.path for c in trace(model, torch.zeros(1, 4), depth=1).root.walk()] == ["", "0", "1"]
    assert [c.path for c in trace(model, torch.zeros(1, 4), depth=0).root.walk()] == [""]
    assert trace(model, torch.zeros(1, 4), depth=0).params == trace(model, torch.zeros(1, 4)).params


def mlp_back() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4))


def test_a_forward_that_raises_shows_where_and_leaves_no_hook() -> None:
    model = nn.Sequential(mlp(), nn.Linear(9, 1))
    with pytest.raises(TraceError, match=r"failed in 1: RuntimeError: mat1 and mat2") as caught:
        trace(model, torch.zeros(3, 4))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.exit_code == 1
    partial = caught.value.trace
    failed = partial.failed_call()
    assert failed is not None
    assert failed.path == "1"
    assert [c.error is None for c in partial.root.children] == [True, False]
    assert partial.root.error is not None
    assert hooks_of(model) == 0


def test_an_exception_that_a_module_catches_is_marked_and_the_trace_goes_on() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = nn.Linear(9, 1), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.bad(x)  # type: ignore[no-any-return]
            except RuntimeError:
                return self.good(x)  # type: ignore[no-any-return]

    tree = trace(Careful(), torch.zeros(2, 4))
    assert tree.error is None
    bad, good = tree.root.children
    assert bad.error is not None
    assert bad.error.startswith("RuntimeError: mat1 and mat2")
    assert good.error is None


def test_a_forward_inside_an_except_block_is_no_failure() -> None:
    class Retrying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                raise ValueError("first")
            except ValueError:
                return self.good(x)  # type: ignore[no-any-return]

    assert [call.error for call in trace(Retrying(), torch.zeros(2, 4)).root.walk()] == [None, None]


def test_an_error_in_a_recorded_method_is_told_there() -> None:
    class Cell(nn.Module):
        def extend(self, x: Tensor) -> Tensor:
            raise ValueError("no state")

        def forward(self, x: Tensor) -> Tensor:
            return self.extend(x)

    with pytest.raises(TraceError, match="ValueError: no state") as caught:
        trace(nn.Sequential(Cell()), torch.zeros(1), methods={"extend"})
    failed = caught.value.trace.failed_call()
    assert failed is not None
    assert (failed.path, failed.method) == ("0", "extend")


def test_an_interrupt_passes_and_leaves_no_hook() -> None:
    class Interrupted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    model = nn.Sequential(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        trace(model, torch.zeros(1))
    assert hooks_of(model) == 0


def test_nothing_is_left_behind() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
            self.register_buffer("seen", torch.zeros(1))
            self.register_buffer("last", None)

        def step(self, x: Tensor) -> Tensor:
            self.seen = self.seen + 1
            self.last = x
            random.random()
            return self.drop(self.norm(x))  # type: ignore[no-any-return]

        def forward(self, x: Tensor) -> Tensor:
            return self.step(x)

    model = Counting().train()
    model(torch.randn(3, 4)).sum().backward()
    model.last = None
    model.seen.zero_()
    seen = model.seen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    attributes = set(vars(model))
    torch.manual_seed(0)
    random.seed(0)
    states = torch.get_rng_state(), random.getstate()
    trace(model, torch.randn(3, 4, generator=torch.Generator()), methods={"step"}, ops="aten")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert model.seen is seen
    assert model.last is None
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    kept = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(kept, grads, strict=True))
    assert model.training
    assert model.drop.training
    assert set(vars(model)) == attributes
    assert hooks_of(model) == 0


def test_hooks_of_the_user_stay_and_run() -> None:
    model, calls = mlp(), []
    model.register_forward_hook(lambda *_: calls.append("user"))
    trace(model, torch.zeros(1, 4))
    assert calls == ["user"]
    assert hooks_of(model) == 1


def test_the_output_equals_that_of_an_untraced_forward_dropout_included() -> None:
    outputs: list[Tensor] = []
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5)).train()
    model.register_forward_hook(lambda m, i, output: outputs.append(output.detach().clone()))
    x = torch.randn(3, 4)
    torch.manual_seed(3)
    trace(model, x, ops="aten")
    trace(model, x, ops="torch")
    model(x)
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize("enabled", [True, False])
def test_the_grad_mode_is_kept(enabled: bool) -> None:
    modes: list[bool] = []
    model = mlp()
    model.register_forward_pre_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    with torch.set_grad_enabled(enabled):
        trace(model, torch.zeros(1, 4))
        assert torch.is_grad_enabled() is enabled
    assert modes == [enabled]


def test_methods_and_entry_record_more_than_forward() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def extend(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), state + 1

        def forward(self, x: Tensor) -> Tensor:
            return self.extend(x, torch.zeros(1))[0]

    model = nn.Sequential(OrderedDict(cell=Cell()))
    tree = trace(model, torch.zeros(2, 4), methods={"extend"})
    assert [(c.path, c.method) for c in tree.root.walk()] == [
        ("", "forward"),
        ("cell", "forward"),
        ("cell", "extend"),
        ("cell.inner", "forward"),
    ]
    entered = trace(Cell(), torch.zeros(2, 4), torch.zeros(1), entry="extend").root
    assert (entered.method, [n for n, _ in entered.inputs.items]) == ("extend", ["x", "state"])
    assert [c.path for c in entered.children] == ["inner"]


def test_torch_ops_are_listed_in_their_order_between_the_calls() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.view(2, 4)
            return torch.softmax(rows + self.inner(rows), dim=-1)

    root = trace(Residual(), torch.zeros(8), dims={"d": 4}, ops="torch").root
    assert [(op.name, op.after, op.is_view) for op in root.ops] == [
        ("view", 0, True),
        ("add", 1, False),
        ("softmax", 1, False),
    ]
    assert [op.name for op in root.children[0].ops] == ["linear"]
    assert root.ops[2].output.text() == "(2, d)"
    assert root.allocated_bytes is None


def test_aten_ops_count_the_memory_that_they_make() -> None:
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ((x + 1) * 2).view(-1)

    with torch.no_grad():
        root = trace(Doubling(), torch.zeros(2, 8), ops="aten").root
    assert [op.name for op in root.ops] == ["add", "mul", "view"]
    assert root.allocated_bytes == 2 * (2 * 8 * 4)
    assert root.output_bytes == 2 * 8 * 4


def test_a_module_on_the_meta_device_is_traced_without_memory() -> None:
    with torch.device("meta"):
        tree = trace(mlp(), torch.zeros(3, 4), ops="aten")
    assert {t.device for c in tree.root.walk() for t in tensors(c.output)} == {"meta"}


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match="weight has no shape yet"):
        trace(nn.LazyLinear(3), torch.zeros(2, 4))
    with pytest.raises(UsageError, match="Sequential has no method 'absent'"):
        trace(mlp(), torch.zeros(2, 4), entry="absent")
    with pytest.raises(UsageError, match="depth: at least 0"):
        trace(mlp(), torch.zeros(2, 4), depth=-1)
    with pytest.raises(UsageError, match="2 time steps are needed, not 2 and 1"):
        trace_named(mlp(), lambda b, t: (torch.zeros(b, t, 4),), time_steps=1)


def test_to_json_is_plain() -> None:
    tree = trace(Tied(), torch.zeros(2, 3, dtype=torch.long), ops="torch")
    plain = json.loads(json.dumps(tree.to_json(), allow_nan=False))
    assert plain["params"] == 72
    assert plain["root"]["children"][0]["class"] == "Embedding"
    assert plain["root"]["inputs"]["tokens"]["tensor"] == [2, 3]


class Attention(nn.Module):
    """Sizes that collide on purpose: t = d, b = h."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mix = nn.Linear(8, 24), Mix()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.mix(self.qkv(x))  # type: ignore[no-any-return]


class Mix(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        b, t, _ = x.shape
        heads = x.view(b, t, 2, 12).transpose(1, 2)
        scores = heads @ heads.transpose(-1, -2)
        return heads, scores, scores.reshape(b * 2, t, t), x.flatten(0, 1), x.new_zeros(t + 1)


def test_trace_named_knows_what_follows_b_and_t_whatever_the_sizes() -> None:
    tree = trace_named(
        Attention(),
        lambda b, t: {"x": torch.zeros(b, t, 8)},
        batch=2,
        time_steps=8,
        dims={"d": 8, "h": 2, "k": 12},
    )
    assert tree.root.inputs.items[0][1].text() == "(b, t, d)"
    qkv, mix = tree.root.children
    assert qkv.output is not None
    assert qkv.output.text() == "(b, t, h·k)"
    assert [t.text() for t in tensors(mix.output)] == [
        "(b, h, t, k)",
        "(b, h, t, t)",
        "(b·h, t, t)",
        "(b·t, h·k)",
        "(t+1)",
    ]


def test_a_loop_over_time_is_named_where_the_shorter_run_lacks_steps() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.RNNCell(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[0], 6)
            for step in x.unbind(1):
                h = self.cell(step, h)
            return h

    tree = trace_named(Loop(), lambda b, t: (torch.zeros(b, t, 4),), time_steps=5, dims={"n": 6})
    assert [c.output.text() for c in tree.root.children if c.output] == ["(b, n)"] * 5


def test_trace_named_tells_the_trace_of_the_forward_that_failed() -> None:
    def only_even(b: int, t: int) -> tuple[Tensor]:
        return (torch.zeros(b, t, 4 if t % 2 == 0 else 5),)

    with pytest.raises(TraceError) as caught:
        trace_named(mlp(), only_even, time_steps=8)
    assert caught.value.trace.dims["t"] == 7


def test_calls_hold_no_tensor() -> None:
    def values(call: Call) -> list[object]:
        return [v for c in call.walk() for v in vars(c).values()]

    tree = trace(Tied(), torch.zeros(2, 3, dtype=torch.long), ops="aten")
    assert not any(isinstance(value, Tensor | nn.Module) for value in values(tree.root))
