"""The two grids against loops written out here, against the closed forms and against torch."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from windtunnel.arch import build, cost, resolve
from windtunnel.spaces import Member, full, reasonable

RECURRENT = ("rnn", "lstm", "gru")
TRANSFORMERS = ("gpt_encoder", "mini_gpt")
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
FULL_WIDTHS = [32 * i for i in range(1, 17)] + [576, 640, 704, 768, 832, 896, 960, 1024]
FULL_STEPS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]


def naive_reasonable() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and configs by nested loops."""
    number = 0
    widths = (64, 128, 256, 384, 512, 768, 1024)
    for kind in RECURRENT:
        for d in widths:
            for layers in (1, 2, 3, 4, 6, 8, 12, 16):
                for p in (0.0, 0.1, 0.2, 0.3):
                    for tie in (True, False):
                        number += 1
                        yield (
                            f"{kind}-{number:03d}-{d}d-{layers}L-d{p:.1f}-t{tie}",
                            {"kind": kind, "d": d, "layers": layers, "p": p, "tie": tie},
                        )
    for kind in TRANSFORMERS:
        for d in widths:
            for layers in (2, 3, 4, 6, 8, 12, 16, 24):
                for heads in (2, 4, 6, 8, 12, 16):
                    if d % heads:
                        continue
                    for ratio in (2, 3, 4, 6, 8):
                        for p in (0.0, 0.1, 0.2):
                            for tie in (True, False):
                                number += 1
                                yield (
                                    f"{kind.replace('_', '-')}-{number:03d}-{d}d-{layers}L-"
                                    f"{heads}h-ff{ratio}-d{p:.1f}-t{tie}",
                                    {"kind": kind, "d": d, "layers": layers, "p": p, "tie": tie,
                                     "heads": heads, "ratio": ratio},
                                )  # fmt: skip


def naive_full() -> Iterator[tuple[int, str, tuple[Any, ...]]]:
    """Index, start of the name and sizes of some members by nested loops, all counted."""
    depths = [*range(1, 11), 12, 14, 16, 18, 20, 24, 28, 32]
    index = 0
    for kind in RECURRENT:
        loops = itertools.product(FULL_WIDTHS, depths, FULL_STEPS, (True, False))
        for number, sizes in enumerate(loops, 1):
            if index % 211 == 0 or number in (1, 9504):
                yield index, f"{kind}-{number:03d}", sizes
            index += 1
    wide = [*FULL_WIDTHS, 1152, 1280, 1408, 1536, 1664, 1792, 1920, 2048]
    deep = [*range(2, 11), 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64]
    ratios = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
    inner = list(itertools.product(ratios, FULL_STEPS, (True, False)))
    for prefix in ("gpt-enc", "mini-gpt"):
        first = index
        for d, layers, heads in itertools.product(wide, deep, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)):
            if d % heads == 0:
                place = (7 * d + layers + heads) % len(inner)  # another one in each
                if place % 13 == 0:
                    number = index - first + place + 1
                    yield index + place, f"{prefix}-{number:03d}", (d, layers, heads, *inner[place])
                index += len(inner)
    yield index, "", ()  # how many there are


def params(c: dict[str, Any], vocab: int, positions: int) -> int:
    """The parameters by the formulas of the facts, term by term."""
    d, tables = c["d"], 1 if c["tie"] else 2
    if c["kind"] in GATES:
        return vocab * d * tables + GATES[c["kind"]] * c["layers"] * (2 * d**2 + 2 * d)
    f = d * c["ratio"]
    layer = 4 * d**2 + 2 * d * f + f + 9 * d
    return vocab * d * tables + positions * d + c["layers"] * layer + 2 * d


def test_all_of_reasonable_is_what_the_loops_say() -> None:
    space = reasonable()
    expected = list(naive_reasonable())
    assert len(space) == len(expected) == 16_704
    assert space.families() == dict.fromkeys(RECURRENT, 448) | dict.fromkeys(TRANSFORMERS, 7680)
    for member, (name, sizes) in zip(space, expected, strict=True):
        assert member.name == name
        assert member.params == params(sizes, 50_257, 512)
    counted = space.params
    assert counted.tolist() == [params(sizes, 50_257, 512) for _, sizes in expected]
    assert (counted.min(), counted.max()) == (3_224_768, 607_186_944)
    assert round(counted.mean() / 1e6, 1) == 71.6
    assert counted[space.column("tie_weights")].max() // 100_000 == 5557
    assert sum(block.num_structures() for block in space.blocks) == 5456


def test_full_is_what_the_loops_say() -> None:
    space = full()
    assert len(space) == 2_998_336
    assert space.families() == dict.fromkeys(RECURRENT, 9504) | dict.fromkeys(
        TRANSFORMERS, 1_484_912
    )
    *expected, (count, _, _) = naive_full()
    assert len(expected) > 900
    assert count == len(space)
    for index, start, sizes in expected:
        member = space[index]
        assert tuple(member.values.values()) == sizes
        d, layers, *middle, p, tie = sizes
        text = "".join(f"-{m}h" if i == 0 else f"-ff{m}" for i, m in enumerate(middle))
        assert member.name == f"{start}-{d}d-{layers}L{text}-d{p:.2f}-t{tie}"
        assert space.find(member.name).index == index
    assert round(int(space.params.max()) / 1e9, 1) == 18.5


def test_metadata_are_those_of_the_seed() -> None:
    member = reasonable().where("family == gpt_encoder and d_model == 256 and n_layer == 4 and "
                                "n_head == 8 and ff_ratio == 4 and p_drop == 0.1")[0]  # fmt: skip
    number = member.index + 1
    assert member.metadata == {
        "name": f"gpt-encoder-{number:03d}-256d-4L-8h-ff4-d0.1-tTrue",
        "model_type": "gpt_encoder",
        "config": {
            "vocab_size": 50257, "d_model": 256, "n_layer": 4, "n_head": 8, "d_ff": 1024,
            "max_seq_len": 512, "p_drop": 0.1, "tie_weights": True,
        },
        "num_params": 16_156_416,
    }  # fmt: skip


class Reference(nn.Module):
    """The five families as torch builds them; nothing of the package."""

    def __init__(self, kind: str, v: dict[str, Any], vocab: int, positions: int) -> None:
        super().__init__()
        d, p, layers = v["d_model"], v["p_drop"], v["n_layer"]
        self.tokens = nn.Embedding(vocab, d)
        self.dropout = nn.Dropout(p)
        self.head = nn.Linear(d, vocab, bias=False)
        if v["tie_weights"]:
            self.head.weight = self.tokens.weight
        self.kind = kind
        if kind in GATES:
            module = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind]
            between = p if layers > 1 else 0.0
            self.body = module(d, d, layers, batch_first=True, dropout=between)
            return
        self.positions = nn.Embedding(positions, d)
        layer = nn.TransformerEncoderLayer(
            d, v["n_head"], d * v["ff_ratio"], p, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(d)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids)
        if self.kind in GATES:
            y, _ = self.body(self.dropout(x))
            logits: torch.Tensor = self.head(self.dropout(y))
            return logits
        t = ids.shape[1]
        x = self.dropout(x + self.positions(torch.arange(t)))
        mask = nn.Transformer.generate_square_subsequent_mask(t)
        logits = self.head(self.norm(self.body(x, mask=mask, is_causal=True)))
        return logits


def filled(member: Member, vocab: int, positions: int) -> tuple[nn.Module, Reference]:
    """A member's model, and a reference with the same weights."""
    model = build(resolve(member.arch)).eval()
    reference = Reference(member.family, member.values, vocab, positions).eval()
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too are random, so they count
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
        reference.tokens.weight.copy_(weights["embedding.weight"])
        if not member.values["tie_weights"]:
            reference.head.weight.copy_(weights["head.weight"])
        for index in range(member.values["n_layer"]):
            own = {n.removeprefix(f"layers.{index}."): w for n, w in weights.items()}
            copy_layer(reference, index, own)
        if member.family not in GATES:
            reference.positions.weight.copy_(weights["embedding.position.weight"])
            reference.norm.weight.copy_(weights["head.norm.weight"])
            reference.norm.bias.copy_(weights["head.norm.bias"])
    return model, reference


def copy_layer(reference: Reference, index: int, own: dict[str, nn.Parameter]) -> None:
    body: Any = reference.body
    if reference.kind in GATES:
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(body, f"{name}_l{index}").copy_(own[f"mixer.{name}"])
        return
    layer = body.layers[index]
    for kind, target in (("weight", layer.self_attn.in_proj_weight),
                         ("bias", layer.self_attn.in_proj_bias)):  # fmt: skip
        target.copy_(torch.cat([own[f"mixer.{part}.{kind}"] for part in "qkv"]))
    pairs = [("mixer.out", layer.self_attn.out_proj), ("mlp.up", layer.linear1),
             ("mlp.down", layer.linear2), ("mixer_join.norm", layer.norm1),
             ("mlp_join.norm", layer.norm2)]  # fmt: skip
    for name, module in pairs:
        module.weight.copy_(own[f"{name}.weight"])
        module.bias.copy_(own[f"{name}.bias"])


@pytest.mark.parametrize("family", [*RECURRENT, *TRANSFORMERS])
@pytest.mark.parametrize("tied", ["true", "false"])
def test_a_member_computes_what_torchs_own_modules_do(family: str, tied: str) -> None:
    space = reasonable(vocab_size=50, max_seq_len=12)
    member = space.where(
        f"family == {family} and d_model == 64 and n_layer == 2 and tie_weights == {tied}"
    )[-1]
    model, reference = filled(member, 50, 12)
    assert sum(p.numel() for p in reference.parameters()) == member.params
    ids = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(0))
    found = model(ids)
    torch.testing.assert_close(found, reference(ids), rtol=1e-4, atol=1e-4)
    assert member.values["p_drop"] > 0
    model.train()
    assert not torch.equal(model(ids), found), "dropout drops nothing"


@pytest.mark.parametrize("grid", [reasonable, full])
def test_the_closed_form_is_the_cost_and_the_built_module(grid: Any) -> None:
    space = grid()
    for member in space.sample(25, seed=1):
        architecture = resolve(member.arch)
        assert int(cost(architecture).total.params) == member.params
        if member.values["n_layer"] <= 12:
            model = build(architecture, device="meta")
            assert sum(p.numel() for p in model.parameters()) == member.params
        dropped = {architecture.embedding.dropout, *(la.dropout for la in architecture.layers)}
        assert dropped == {member.values["p_drop"]}
        assert architecture.name == member.name
        assert architecture.embedding.tie is member.values["tie_weights"]
