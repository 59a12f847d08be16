"""The hypernetwork as a whole: rows by architecture, targets untouched, and that it learns."""

from typing import Any

import pytest
import torch
from tests.hyper.tiny import config, member, space
from torch import Tensor
from torch.func import functional_call

from windtunnel.arch import build
from windtunnel.hyper.members import Members, with_members
from windtunnel.hyper.network import HyperBatch, HyperNetwork, target_of
from windtunnel.spaces import Space

DECODERS: dict[str, dict[str, Any]] = {
    "banks": {"type": "banks", "components": 2, "knots": 2, "hidden": 8},
    "tiled": {"type": "tiled", "block": 6, "hidden": 16},
    "low_rank": {"type": "low_rank", "rank": 4, "hidden": 16},
}


def network(
    decoder: str = "banks", of: Space | None = None, **changes: Any
) -> tuple[HyperNetwork, Members]:
    chosen = config(decoder=DECODERS[decoder], **changes)
    members = Members.of(chosen, of or space())
    torch.manual_seed(0)
    made = HyperNetwork(chosen.encoder, chosen.decoder, members.limits, members.space.whole)
    return made, members


def one_of_each(members: Members) -> list[int]:
    """An architecture of each family, tied and untied, of different sizes."""
    found: dict[tuple[str, bool], int] = {}
    for one in members.parts["train"].shuffled(3):
        found.setdefault((one.family, one.values["tie_weights"]), one.index)
    assert len(found) == 10
    return list(found.values())


def tokens(rows: int) -> Tensor:
    return torch.randint(0, 11, (rows, 5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("decoder", DECODERS)
def test_rows_are_those_of_each_member_alone(decoder: str) -> None:
    """Built anew, with the predicted tensors as its parameters."""
    made, members = network(decoder)
    indices = one_of_each(members)
    rows = torch.tensor([*indices, *reversed(indices), indices[0]])
    inputs = tokens(len(rows))
    logits = made(inputs, rows)
    assert logits.shape == (21, 5, 11)
    for index in indices:
        target = made.target(index)
        weights = made.weights(target.anatomy)
        alone = build(members.space.whole[index].architecture, seed=5).eval()
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                parameter.copy_(weights[name])
        for row in torch.nonzero(rows == index).flatten():
            torch.testing.assert_close(
                logits[row], alone(inputs[row][None])[0], rtol=1e-4, atol=1e-5
            )


def test_the_order_of_rows_makes_no_difference() -> None:
    made, members = network()
    rows = torch.tensor(one_of_each(members) * 2)
    inputs = tokens(len(rows))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    shuffled = made(inputs[order], rows[order])
    torch.testing.assert_close(shuffled, made(inputs, rows)[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("predicts", ["all", "table"])
def test_targets_are_not_changed(predicts: str) -> None:
    made, members = network(predicts=predicts)
    indices = one_of_each(members)
    before = {i: contents(made.target(i).model) for i in indices}
    rows = torch.tensor(indices)
    made(tokens(10), rows).square().sum().backward()
    for index in indices:
        target = made.target(index)
        assert contents(target.model) == before[index]
        assert all(p.grad is None and not p.requires_grad for p in target.model.parameters())


def contents(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_a_table_alone_leaves_the_body_at_its_initial_weights() -> None:
    made, members = network(predicts="table")
    index = one_of_each(members)[-1]
    target = made.target(index)
    weights = made.weights(target.anatomy)
    assert {name.split(".")[0] for name in weights} <= {"embedding", "head"}
    fresh = build(members.space.whole[index].architecture, seed=0)
    rows = torch.full((2,), index)
    expected = functional_call(fresh.eval(), weights, (tokens(2),))
    torch.testing.assert_close(made(tokens(2), rows), expected)


def test_an_unknown_part_keeps_its_initial_weights() -> None:
    made, _ = network()
    architecture = member("mini_gpt", d_model=8).replace(name="other")
    layer = architecture.layers[0]
    from windtunnel.nn.norms.rmsnorm import RMSNormConfig

    other = architecture.replace(
        layers=(layer.replace(norm=RMSNormConfig(unit_offset=True)), *architecture.layers[1:])
    )
    target = target_of(other, made)
    assert target.anatomy.unknown == ("rmsnorm",)
    fresh = build(other, seed=0)
    name = "layers.0.mixer_join.norm.weight"
    assert name not in made.weights(target.anatomy)
    assert torch.equal(target.model.get_parameter(name), fresh.get_parameter(name))


def test_old_targets_are_let_go_and_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel.hyper.network._KEPT", 2)
    made, members = network()
    first, *others = one_of_each(members)
    inputs, rows = tokens(2), torch.full((2,), first)
    before = made(inputs, rows)
    for index in others:
        made.target(index)
    assert first not in made._targets
    assert len(made._targets) == 2
    assert torch.equal(made(inputs, rows), before)


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_reach_the_whole_network_over_all_families(decoder: str) -> None:
    """Of the loss itself, in float64, once the mixtures have left 0."""
    made, members = network(decoder)
    made = made.double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    objective = made.own_objective()
    whole = members.space.whole
    largest = [
        i
        for i in range(len(whole))
        if whole[i].values["d_model"] == 8
        and whole[i].values.get("n_head", 2) == 2
        and whole[i].values.get("ff_ratio", 2) == 2
        and whole[i].family != "gpt_encoder"
    ]
    rows = torch.tensor(largest)
    batch = HyperBatch(tokens(len(rows)), tokens(len(rows)).flip(0), rows)
    in_double(made, largest)
    logits, targets = objective.predictions(made, batch)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def in_double(made: HyperNetwork, indices: list[int]) -> None:
    for index in indices:
        made.target(index).model.double()


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_few_steps_lower_the_loss_of_members_seen_and_unseen(decoder: str) -> None:
    """On text in which every token follows from the one before. Each kind reads other rows in every
    step, the rate falls, and all members that are held out are asked: one alone may go anywhere."""
    few = space(d_model=(6, 8), n_layer=(1, 2), n_head=(2,), ff_ratio=(2,))
    made, members = network(decoder, few)
    objective = made.own_objective()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    text = (torch.arange(11)[:, None] + torch.arange(7)) * 3 % 11

    def loss_of(indices: list[int], turn: int = 0) -> Tensor:
        rows = text.roll(turn, 0)
        batch = HyperBatch(rows[:, :-1], rows[:, 1:], torch.zeros(len(rows)))
        logits, targets = objective.predictions(made, with_members(batch, indices))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    held_out = members.parts["in_distribution"].indices().tolist()

    def loss_of_held_out() -> float:
        with torch.no_grad():
            return sum(float(loss_of([index])) for index in held_out) / len(held_out)

    before, losses, steps = loss_of_held_out(), [], 80
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        loss = loss_of(members.draws.at(step), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    guessing = float(torch.tensor(11.0).log())
    assert sum(losses[-5:]) / 5 < 0.85 * guessing < sum(losses[:3]) / 3
    assert loss_of_held_out() < before - 0.1


@pytest.mark.parametrize("decoder", DECODERS)
def test_all_is_made_where_the_network_is(decoder: str) -> None:
    """On a device without memory: graphs are kept on the CPU, and moved."""
    made, members = network(decoder)
    made = made.to("meta")
    for index in one_of_each(members):
        target = made.target(index)
        weights = made.weights(target.anatomy, target.graph)
        assert {value.device.type for value in weights.values()} == {"meta"}
        assert {p.device.type for p in target.model.parameters()} == {"meta"}
        assert target.graph.ahead.device.type == "cpu"
