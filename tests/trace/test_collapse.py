"""Equal neighbours fold into one call; what differs stays apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from windtunnel.trace.collapse import collapsed
from windtunnel.trace.record import Call
from windtunnel.trace.tracing import trace


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x))  # type: ignore[no-any-return]


class Stack(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def folded(model: nn.Module, x: Tensor, **options: object) -> Call:
    return collapsed(trace(model, x, **options)).root  # type: ignore[arg-type]


def names(call: Call) -> list[tuple[str, int]]:
    return [(c.path, c.repeat) for c in call.walk()]


def test_equal_layers_are_one_with_sums() -> None:
    model = Stack([Block() for _ in range(6)])
    whole = trace(model, torch.zeros(2, 4))
    root = collapsed(whole).root
    assert names(root) == [
        ("", 1),
        ("layers.0-5", 6),
        ("layers.0-5.norm", 6),
        ("layers.0-5.mix", 6),
    ]
    layers = root.children[0]
    assert layers.total_params == layers.new_params == 6 * (8 + 20)
    assert layers.seconds == pytest.approx(sum(c.seconds for c in whole.root.children))
    assert layers.children[1].seconds == pytest.approx(
        sum(c.children[1].seconds for c in whole.root.children)
    )
    assert layers.output_bytes == 6 * 2 * 4 * 4


def test_layers_of_another_class_break_the_run() -> None:
    root = folded(Stack([Block(), Block(), nn.Linear(4, 4), Block()]), torch.zeros(2, 4))
    assert [(c.path, c.repeat) for c in root.children] == [
        ("layers.0-1", 2),
        ("layers.2", 1),
        ("layers.3", 1),
    ]


def test_a_difference_deep_inside_keeps_layers_apart() -> None:
    other = Block()
    other.mix = nn.Linear(4, 4, bias=False)
    root = folded(Stack([Block(), other]), torch.zeros(2, 4))
    assert [c.path for c in root.children] == ["layers.0", "layers.1"]


def test_siblings_with_different_names_are_not_folded() -> None:
    class Projections(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.query(x) + self.key(x)  # type: ignore[no-any-return]

    assert [c.path for c in folded(Projections(), torch.zeros(1, 4)).children] == ["query", "key"]


def test_one_module_called_again_brings_its_parameters_once() -> None:
    shared = nn.Linear(4, 4)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = shared

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.cell(x)
            return x

    (cell,) = folded(Loop(), torch.zeros(1, 4)).children
    assert (cell.path, cell.repeat, cell.total_params, cell.new_params) == ("cell", 3, 20, 20)
    (aliased,) = folded(Stack([shared, shared]), torch.zeros(1, 4)).children
    assert (aliased.path, aliased.repeat, aliased.new_params) == ("layers.0-1", 2, 20)


def test_nested_stacks_fold_on_both_levels() -> None:
    stages = [Stack([Block(), Block()]) for _ in range(3)]
    root = folded(nn.Sequential(*stages), torch.zeros(1, 4))
    assert names(root)[:3] == [("", 1), ("0-2", 3), ("0-2.layers.0-1", 6)]
    assert root.children[0].total_params == 6 * 28


def test_ops_keep_their_place_between_the_folds() -> None:
    class Ends(Stack):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(super().forward(torch.relu(x)))

    root = folded(Ends([Block(), Block()]), torch.zeros(1, 4), ops="torch")
    assert [(op.name, op.after) for op in root.ops] == [("relu", 0), ("tanh", 1)]
    flat = folded(Ends([Block(), Block()]), torch.zeros(1, 4), ops="torch", depth=0)
    assert [(op.name, op.after) for op in flat.ops] == [("relu", 0), ("tanh", 0)]


def test_names_of_uncalled_modules_fold_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    tree = collapsed(trace(encoder, torch.zeros(1, 2, 8)))
    assert tree.uncalled == ("layers.0-2.self_attn.out_proj",)
