"""DiffuSeq: the noise, the loss, and that its sampler writes what was learned."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from windtunnel.arch import ArchSpec, resolve
from windtunnel.config import decode, parse_document
from windtunnel.data.forms import Encoded, Whole, form_of
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError
from windtunnel.train.batch import count_targets, moved, pieces
from windtunnel.train.evaluation import evaluate
from windtunnel.train.objectives.config import DiffusionConfig
from windtunnel.train.objectives.diffusion import Diffusion, DiffusionModel, nearest_embeddings

V, D = 12, 16
TEXT = f"""
type: encoder
vocab_size: {V}
d_model: {D}
embedding: {{init_std: 1.0, position: learned}}
layers: [{{repeat: 2, mixer: {{type: attention, num_heads: 2}}, mlp: {{type: dense}}}}]
"""


def model_of(text: str = TEXT) -> DiffusionModel:
    return DiffusionModel.built(resolve(decode(parse_document(text), ArchSpec)), seed=1)


def objective(**changes: int) -> Diffusion:
    architecture = model_of().architecture
    return Diffusion(DiffusionConfig(**changes), vocab_size=V, architecture=architecture)


def copies(b: int, seed: int) -> Whole:
    """Three tokens and, as their target, the same three again."""
    draw = torch.Generator().manual_seed(seed)
    source = torch.randint(0, V, (b, 3), generator=draw)
    targets = torch.cat([torch.full_like(source, -100), source], 1)
    return Whole(torch.cat([source, source], 1), targets, torch.ones(b, 6, dtype=torch.bool))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_grows_from_almost_none_to_nothing_left() -> None:
    diffusion = objective(steps=100)
    kept = diffusion.kept(torch.arange(101))
    assert bool((kept[1:] <= kept[:-1]).all())
    assert kept[0] == pytest.approx(0.99)
    assert kept[100] == 0
    z0 = torch.randn(2000, 1, 8, generator=draws())
    z = diffusion.noised(z0, torch.full((2000,), 30), torch.randn(z0.shape, generator=draws(1)))
    expected = float(kept[30])
    assert z.var().item() == pytest.approx(1.0, abs=0.05)
    assert ((z * z0).mean() / z0.square().mean()).item() == pytest.approx(expected**0.5, abs=0.05)


def test_the_source_is_never_noised_and_pads_change_nothing() -> None:
    seen: list[torch.Tensor] = []
    model, diffusion, batch = model_of(), objective(steps=50), copies(4, 0)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _, count = diffusion.loss(model, batch, draws())
    assert count == 12
    assert torch.equal(seen[0][:, :3], model.embed(batch.inputs)[:, :3])
    assert (seen[0][:, 3:] - model.embed(batch.inputs)[:, 3:]).abs().amax(2).min() > 1e-3
    real = batch.real.clone()
    real[1, 5] = False
    targets = batch.targets.clone()
    targets[1, 5] = -100
    other = batch.inputs.clone()
    other[1, 5] = (other[1, 5] + 1) % V
    losses = [
        diffusion.loss(model, Whole(t, targets, real), draws()) for t in (batch.inputs, other)
    ]
    assert losses[0][1] == 11
    torch.testing.assert_close(losses[0][0], losses[1][0])


def test_accuracy_counts_one_end_mark_of_a_target() -> None:
    """What writes nothing but end marks gets one token of three right, and not six of eight."""
    end, form = 9, form_of("diffusion", Marks(begin=8, end=9), seq_len=11)
    batch = form.batch([Encoded(prompt=np.array([1]), truth=np.array([2, 3]))])
    assert batch.inputs.tolist() == [[8, 1, 9, 2, 3, 9, 9, 9, 9, 9, 9]]
    model, diffusion = model_of(), objective(steps=10)
    always = torch.zeros(V).index_fill(0, torch.tensor([end]), 1.0)
    model.round_off = lambda z: always.expand(*z.shape[:-1], V)  # type: ignore[method-assign]
    prepared = diffusion.prepare(batch, draws())
    assert count_targets(prepared) == 8
    assert diffusion.judged(prepared) == 3
    assert diffusion.score(model, prepared, draws())[1] == 1
    lengths = SimpleNamespace(token_bytes=np.ones(V, dtype=np.int32))
    found = evaluate(model, [batch, batch], lengths, diffusion)
    assert (found.accuracy, found.tokens) == (pytest.approx(1 / 3), 16)
    on_cpu = moved(prepared, torch.device("cpu"))
    assert [diffusion.judged(piece) for piece in pieces(on_cpu, 1)] == [3]


def test_the_loss_is_the_formula() -> None:
    model, diffusion, batch = model_of(), objective(steps=10), copies(3, 0)
    step = torch.tensor([1, 4, 10])
    found = diffusion.summed(model, diffusion.prepare_at(batch, step, draws()))
    again = draws()
    clean = model.embed(batch.inputs)
    noises = [torch.randn(clean.shape, generator=again) for _ in range(2)]
    kept = diffusion.kept(torch.arange(11))
    expected = torch.zeros(())
    for row in range(3):
        z0 = clean[row] + (1 - kept[1]).sqrt() * noises[0][row]
        left = kept[step[row]]
        z = left.sqrt() * z0 + (1 - left).sqrt() * noises[1][row]
        z = torch.cat([clean[row, :3], z[3:]])
        predicted = model(z[None], step[row : row + 1], batch.real[:1])[0]
        aim = clean[row] if step[row] == 1 else z0
        nats = -model.round_off(z0).log_softmax(-1)
        for place in range(3, 6):
            expected = expected + (predicted[place] - aim[place]).square().mean()
            expected = expected + kept[10] * z0[place].square().mean()
            expected = expected + nats[place, batch.inputs[row, place]]
    torch.testing.assert_close(found, expected)
    assert diffusion.loss(model, batch, draws())[1] == 9


def test_equal_seeds_draw_equal_samples_and_keep_the_source() -> None:
    model, diffusion, batch = model_of().eval(), objective(steps=20), copies(3, 0)
    one, again = (diffusion.sample(model, batch, steps=5, seed=3) for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(one[:, :3], batch.inputs[:, :3])
    assert not torch.equal(one, diffusion.sample(model, batch, steps=5, seed=4))
    with pytest.raises(UsageError, match="within 1 and 20"):
        diffusion.sample(model, batch, steps=21)


def test_what_is_nearest_to_an_embedding_is_itself() -> None:
    model = model_of()
    table = model.embed(torch.arange(V)[None])
    assert torch.equal(nearest_embeddings(table + 1e-3, model), table)


def test_copying_is_learned_and_sampled() -> None:
    model, diffusion = model_of(), objective(steps=200)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for step in range(150):
        summed, count = diffusion.loss(model, copies(64, step), draws(step))
        optimizer.zero_grad()
        torch.autograd.backward(summed / count)
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(float(summed.detach()) / count)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    asked = copies(64, 999)
    hidden = Whole(asked.inputs.masked_fill(asked.targets >= 0, 0), asked.targets, asked.real)
    found = diffusion.sample(model.eval(), hidden, steps=20)
    right = (found == asked.inputs)[:, 3:].float().mean().item()
    assert right > 0.8, f"{right:.2f} of the tokens are right; 0.08 would be chance"


def test_an_architecture_that_is_no_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="encoder from tokens"):
        model_of(TEXT.replace("type: encoder", "type: decoder"))


def test_what_is_drawn_for_a_row_of_an_evaluation_is_its_own_however_far_it_is_filled() -> None:
    diffusion, batch = objective(), copies(3, 0)
    wider = Whole(
        F.pad(batch.inputs, (0, 4)), F.pad(batch.targets, (0, 4), value=-100),
        F.pad(batch.real, (0, 4)),
    )  # fmt: skip
    found = diffusion.prepare_rows(batch, [draws(row) for row in range(3)])
    padded = diffusion.prepare_rows(wider, [draws(row) for row in range(3)])
    assert torch.equal(padded.step, found.step)
    for name in ("first", "noise"):
        assert torch.equal(getattr(padded, name)[:, :6], getattr(found, name))
        assert not getattr(padded, name)[:, 6:].any()
    one = diffusion.prepare_rows(
        Whole(batch.inputs[1:2], batch.targets[1:2], batch.real[1:2]), [draws(1)]
    )
    assert torch.equal(one.noise, found.noise[1:2])


def test_in_bfloat16_the_loss_is_near_that_of_float32() -> None:
    diffusion, model, batch = objective(), model_of(), copies(8, 0)
    exact = diffusion.loss(model, batch, draws())[0]
    narrow = diffusion.loss(model.bfloat16(), batch, draws())[0]
    narrow.backward()
    assert narrow.item() == pytest.approx(exact.item(), rel=0.02)
