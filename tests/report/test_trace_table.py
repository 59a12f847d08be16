"""The tree of a trace, from its plain JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from windtunnel.report.trace_table import trace_view
from windtunnel.trace.collapse import collapsed
from windtunnel.trace.tracing import TraceError, trace, trace_named


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x))  # type: ignore[no-any-return]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


def shown(tree: dict[str, Any], width: int = 80, *, inputs: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(trace_view(json.loads(json.dumps(tree)), inputs=inputs))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def traced(**options: Any) -> dict[str, Any]:
    tree = trace_named(
        Model(),
        lambda b, t: (torch.zeros(b, t, dtype=torch.long),),
        dims={"d": 8, "V": 20},
        **options,
    )
    return collapsed(tree).to_json()


def test_the_tree_is_aligned_named_and_collapsed() -> None:
    lines = shown(traced())
    assert max(map(len, lines)) <= 80
    cells = [line.split("  ") for line in lines]
    first = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert first[3][:5] == ["model", "Model", "(b, t, V)", "f32", "424"]
    assert first[4][:5] == ["├ embedding", "Embedding", "(b, t, d)", "f32", "160"]
    assert first[5][:5] == ["├ layers.0-2 ×3", "Block", "(b, t, d)", "f32", "264"]
    assert first[7][:5] == ["│ └ mix", "Linear", "(b, t, d)", "f32", "216"]
    assert first[8][:5] == ["└ head", "Linear", "(b, t, V)", "f32", "shared"]
    assert len({line.index("f32") for line in lines if "f32" in line}) == 1
    assert "b = 2, t = 8, d = 8, V = 20" in " ".join(lines)


def test_arguments_and_ops_stand_where_they_happen() -> None:
    lines = shown(traced(ops="torch"), width=120, inputs=True)
    order = [line.split("(")[0].strip(" │├└") for line in lines if "·" in line or "←" in line]
    assert order == [
        "← tokens",
        *("← input", "· embedding"),
        "← x",
        *("← input", "· layer_norm", "← input", "· linear"),
        "· add",
        *("← input", "· linear"),
    ]


def test_a_narrow_terminal_cuts_names_and_never_shapes_or_numbers() -> None:
    lines = shown(traced(), width=66)
    assert max(map(len, lines)) <= 66
    assert any("(b, t, V)" in line for line in lines)
    assert any("shared" in line for line in lines)


def test_a_failed_forward_is_told_where_it_failed() -> None:
    try:
        trace(nn.Sequential(nn.ReLU(), nn.Linear(9, 1)), torch.zeros(2, 4))
    except TraceError as error:
        lines = shown(error.trace.to_json(), width=120)
    assert "failed below" in lines[3]
    assert "RuntimeError: mat1" in lines[5]
    assert lines[-1].startswith("failed: RuntimeError")
