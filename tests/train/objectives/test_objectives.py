"""Objectives: what is masked, cut and counted; that each lowers its loss on rows of a text."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from windtunnel.arch import ArchSpec, EncoderDecoder, build, cost, resolve
from windtunnel.config import decode, parse_document
from windtunnel.data.forms import Labelled, Pairs
from windtunnel.errors import ConfigError, DataError, UsageError
from windtunnel.nn.initialize import keyed_generator
from windtunnel.train.batch import IGNORED
from windtunnel.train.config import TrainConfig
from windtunnel.train.evaluation import evaluate
from windtunnel.train.identity import run_identity
from windtunnel.train.launch import create_run_folder, open_trained, ready_run, run_in_folder
from windtunnel.train.loop import accumulate, create_train_state, train_steps
from windtunnel.train.objectives import (
    ClassificationConfig,
    MaskedTokenConfig,
    NextTokenConfig,
    Seq2SeqConfig,
)
from windtunnel.train.objectives.classification import Classification
from windtunnel.train.objectives.make import data_misfit, misfit, objective_of
from windtunnel.train.objectives.masked_token import MaskedToken
from windtunnel.train.objectives.next_token import NextToken
from windtunnel.train.objectives.seq2seq import Seq2Seq
from windtunnel.train.run_config import load_run_document

V, T = 20, 12
LAYERS = "[{mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]"
TOPOLOGIES = {
    "decoder": f"vocab_size: {V}\nd_model: 16\nlayers: {LAYERS}",
    "encoder": f"type: encoder\nvocab_size: {V}\nd_model: 16\nlayers: {LAYERS}",
    "encoder_decoder": (
        f"type: encoder_decoder\nvocab_size: {V}\nd_model: 16\n"
        f"encoder: {{layers: {LAYERS}}}\ndecoder: {{layers: {LAYERS}}}"
    ),
}


@dataclass(frozen=True)
class Batch:
    inputs: Tensor
    targets: Tensor


def model_of(topology: str, more: str = "") -> Any:
    spec = decode(parse_document(TOPOLOGIES[topology] + more), ArchSpec)
    return build(resolve(spec), seed=0)


def rows(b: int = 6, seed: int = 0) -> Batch:
    """Rows that repeat with period 3, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(0, V - 1, (b, 3), generator=generator)
    tokens = period.repeat(1, T)[:, : T + 1]
    return Batch(tokens[:, :-1], tokens[:, 1:])


class Rows:
    """Rows of one token each: what is left out can be read off the rest."""

    def at(self, position: int) -> Batch:
        draw = torch.Generator().manual_seed(position)
        tokens = torch.randint(0, V - 1, (8, 1), generator=draw).repeat(1, T + 1)
        return Batch(tokens[:, :-1], tokens[:, 1:])


def generator(*key: object) -> torch.Generator:
    return keyed_generator(0, *key)


def masked(**changes: Any) -> MaskedToken:
    return MaskedToken(MaskedTokenConfig(**changes), vocab_size=V)


def test_the_next_token_is_the_plain_cross_entropy_to_the_bit() -> None:
    model, batch = model_of("decoder"), rows()
    targets = batch.targets.clone()
    targets[0, :4] = IGNORED
    batch = Batch(batch.inputs, targets)
    objective = objective_of(TrainConfig().objective, model)
    assert isinstance(objective, NextToken)
    assert objective.prepare(batch, generator()) is batch
    loss, count = objective.loss(model, batch, generator())
    logits = model(batch.inputs)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    assert torch.equal(loss, plain)
    assert count == targets.numel() - 4


def test_the_default_objective_leaves_a_run_s_identity_as_it_was() -> None:
    def recipe(config: TrainConfig) -> Any:
        values = {"arch": {}, "data": "", "code": "", "torch_version": "", "device_type": "cpu"}
        return run_identity(train=config, **values)["train"]  # type: ignore[arg-type]

    assert "objective" not in recipe(TrainConfig())
    assert recipe(TrainConfig(objective="auto")) == recipe(TrainConfig())
    assert recipe(TrainConfig(objective="seq2seq"))["objective"]["type"] == "seq2seq"


@pytest.mark.parametrize(
    ("topology", "expected"),
    [("decoder", NextToken), ("encoder", MaskedToken), ("encoder_decoder", Seq2Seq)],
)
def test_auto_is_what_suits_the_architecture(topology: str, expected: type[Any]) -> None:
    assert isinstance(objective_of(TrainConfig().objective, model_of(topology)), expected)


def test_masks_are_a_function_of_the_key_and_touch_what_is_sought_alone() -> None:
    objective, batch = masked(), rows(64)
    one, again = (objective.prepare(batch, generator("a")) for _ in range(2))
    other = objective.prepare(batch, generator("b"))
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.targets, other.targets)
    sought = one.targets != IGNORED
    assert torch.equal(one.inputs[~sought], batch.inputs[~sought])
    assert torch.equal(one.targets[sought], batch.inputs[sought])


@pytest.mark.parametrize("size", [1, 3, 7])
def test_what_is_masked_in_an_evaluation_is_the_same_in_every_batch(size: int) -> None:
    model, whole = model_of("encoder"), rows(7)
    cut = [
        Batch(whole.inputs[i : i + size], whole.targets[i : i + size]) for i in range(0, 7, size)
    ]
    lengths = SimpleNamespace(token_bytes=np.ones(V, dtype=np.int32))
    found, expected = (
        evaluate(model, batches, lengths, masked(rate=0.3)) for batches in (cut, [whole])
    )
    assert found.tokens == expected.tokens
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.accuracy == expected.accuracy


def test_what_fills_a_short_row_is_not_read() -> None:
    model, objective = model_of("encoder").double(), masked(rate=0.3)
    short = rows(2)
    padded = Batch(short.inputs.clone(), short.targets.clone())
    padded.inputs[1, 8:] = 0
    padded.targets[1, 8:] = IGNORED
    prepared = objective.prepare(padded, generator())
    logits, _ = objective.predictions(model, prepared)
    alone = model(prepared.inputs[1:, :8])
    torch.testing.assert_close(logits[1:, :8], alone)
    chunked = objective.hidden(model, prepared)[0]
    torch.testing.assert_close(model.logits(chunked), logits)


def test_shares_are_what_is_asked_for() -> None:
    big = Batch(*(torch.randint(0, V - 1, (400, 50)) for _ in range(2)))
    found = masked().prepare(big, generator())
    sought = found.targets != IGNORED
    assert sought.float().mean().item() == pytest.approx(0.15, abs=0.01)
    inputs, tokens = found.inputs[sought], big.inputs[sought]
    assert (inputs == V - 1).float().mean().item() == pytest.approx(0.8, abs=0.03)
    kept = (inputs == tokens).float().mean().item()
    assert kept == pytest.approx(0.1 + 0.1 / (V - 1), abs=0.03)
    everything = masked(rate=1.0, mask=1.0, random=0.0).prepare(big, generator())
    assert bool((everything.inputs == V - 1).all())


def test_at_least_one_token_is_sought_and_never_one_without_a_target() -> None:
    targets = torch.full((2, 5), IGNORED)
    targets[1, 2] = 3
    batch = Batch(torch.ones(2, 5, dtype=torch.long), targets)
    found = masked(rate=1e-9).prepare(batch, generator())
    assert (found.targets != IGNORED).nonzero().tolist() == [[1, 2]]
    nothing = Batch(batch.inputs, torch.full((2, 5), IGNORED))
    assert bool((masked().prepare(nothing, generator()).targets == IGNORED).all())


def test_seq2seq_reads_the_beginning_and_writes_the_rest() -> None:
    model, batch = model_of("encoder_decoder"), rows()
    assert isinstance(model, EncoderDecoder)
    objective = Seq2Seq(Seq2SeqConfig(source=0.25), vocab_size=V)
    loss, count = objective.loss(model, batch, generator())
    logits = model(batch.inputs[:, :3], batch.inputs[:, 3:])
    expected = F.cross_entropy(
        logits.flatten(0, 1), batch.targets[:, 3:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    assert count == 6 * (T - 3)
    with pytest.raises(DataError, match="cuts each row in two"):
        objective.cut(1)
    assert [Seq2Seq(Seq2SeqConfig(source=s), vocab_size=V).cut(4) for s in (0.01, 0.99)] == [1, 3]


@pytest.mark.parametrize("source", [0.25, 0.5])
def test_a_decoder_counts_what_an_encoder_decoder_writes(source: float) -> None:
    model, batch = model_of("decoder"), rows()
    objective = NextToken(NextTokenConfig(source=source), vocab_size=V)
    loss, count = objective.loss(model, batch, generator())
    s = round(source * T)
    logits = model(batch.inputs)[:, s:]
    expected = F.cross_entropy(
        logits.flatten(0, 1), batch.targets[:, s:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss, expected)
    beside = Seq2Seq(Seq2SeqConfig(source=source), vocab_size=V)
    prepared = objective.prepare(batch, generator()).targets
    assert torch.equal(prepared, beside.prepare(batch, generator()).targets)
    assert count == 6 * (T - s)
    assert bool((batch.targets != IGNORED).all()), "the batch itself is as it was"
    plain = NextToken(NextTokenConfig(), vocab_size=V)
    assert plain.prepare(batch, generator()) is batch
    assert "source cuts rows" in str(data_misfit(objective.config, "pairs"))


def test_pairs_are_learned_whatever_stands_at_their_pads() -> None:
    model = model_of("encoder_decoder").double()
    objective = Seq2Seq(Seq2SeqConfig(), vocab_size=V)
    source, target = rows(2).inputs[:, :6], rows(2, 1).inputs[:, :5]
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    wanted = target.roll(-1, 1)
    wanted[1, 3:] = IGNORED
    loss, count = objective.loss(model, Pairs(source, real, target, wanted), generator())
    changed_source, changed_target = source.clone(), target.clone()
    changed_source[1, 4:], changed_target[1, 3:] = 7, 7
    again, _ = objective.loss(
        model, Pairs(changed_source, real, changed_target, wanted), generator()
    )
    torch.testing.assert_close(loss, again)
    assert count == 8


def test_flops_of_a_cut_row_are_those_of_its_parts() -> None:
    architecture = model_of("encoder_decoder").architecture
    objective = Seq2Seq(Seq2SeqConfig(source=0.25), vocab_size=V)
    counted = cost(architecture, 9, source_len=3)
    expected = counted.train_flops_per_token * 9 / 12
    assert objective.train_flops_per_token(architecture, 12) == pytest.approx(expected)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_objective_is_learned_and_its_gradient_does_not_depend_on_the_cut(
    topology: str,
) -> None:
    config = TrainConfig(
        steps=40, batch_size=8, seq_len=T, lr=0.02, eval_every=100, device="cpu",
        objective="auto" if topology != "encoder" else {"type": "masked_token", "rate": 0.4},
    )  # fmt: skip
    state = create_train_state(model_of(topology), Rows(), config)
    losses = [info.loss for info in train_steps(state)]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])

    def gradient(micro: int | None) -> Tensor:
        cut = config.replace(micro_batch_size=micro)
        fresh = create_train_state(model_of(topology).double(), Rows(), cut)
        batch = fresh.objective.prepare(rows(8), generator())
        count = int((batch.targets != IGNORED).sum())
        accumulate(fresh, batch, count)
        return torch.cat([p.grad.flatten() for p in fresh.model.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient(None), gradient(3), rtol=1e-5, atol=1e-7)


def labelled(b: int, seed: int) -> Labelled:
    """Whether a row's first token is in the lower half."""
    tokens = torch.randint(0, V, (b, 6), generator=torch.Generator().manual_seed(seed))
    real = torch.ones(b, 6, dtype=torch.bool)
    real[0, 4:] = False
    return Labelled(tokens, real, (tokens[:, 0] < V // 2).long())


def test_classes_are_learned() -> None:
    head = "\nhead: {type: classification, num_classes: 2, pooling: first}"
    model = model_of("encoder", head)
    objective = Classification(ClassificationConfig(), vocab_size=V)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(40):
        loss, count = objective.loss(model, labelled(16, step), generator())
        assert count == 16
        optimizer.zero_grad()
        torch.autograd.backward(loss / count)
        optimizer.step()
    assert objective.score(model, labelled(64, 99), generator())[1] > 55


def test_label_smoothing_spreads_the_label() -> None:
    model = model_of("encoder", "\nhead: {type: classification, num_classes: 4}")
    batch = labelled(5, 0)
    loss, _ = Classification(ClassificationConfig(label_smoothing=0.2), vocab_size=V).loss(
        model, batch, generator()
    )
    log_p = model(batch.inputs, batch.real).log_softmax(-1)
    spread = 0.8 * F.one_hot(batch.targets, 4) + 0.2 / 4
    torch.testing.assert_close(loss, -(spread * log_p).sum())


@pytest.mark.parametrize(
    ("config", "topology", "more", "message"),
    [
        (NextTokenConfig(), "encoder", "", "would see the token that it is to find"),
        (MaskedTokenConfig(), "decoder", "", "trains the type encoder, and arch.type is decoder"),
        (Seq2SeqConfig(), "decoder", "", "trains the type encoder_decoder"),
        (MaskedTokenConfig(), "encoder", "\nhead: none", "arch.head.type is none"),
        (ClassificationConfig(), "encoder", "", "reads a classification head"),
    ],
)
def test_what_does_not_fit_is_told(config: Any, topology: str, more: str, message: str) -> None:
    model = model_of(topology, more)
    assert message in str(misfit(config, model.architecture))
    with pytest.raises(UsageError) as caught:
        objective_of(config, model)
    assert message in str(caught.value)


def run_file(topology: str, folder: Path, train: str = "") -> Any:
    text = TOPOLOGIES[topology].replace(f"vocab_size: {V}\n", "").replace("\n", "\n  ")
    corpus = folder / "corpus.txt"
    corpus.write_text("the cat sat on the mat. " * 200, encoding="utf-8")
    source = (
        f"arch:\n  {text}\ndata: {{source: '{corpus}', tokenizer: bytes}}\n"
        "train: {steps: 4, batch_size: 4, seq_len: 24, eval_every: 2, checkpoint_every: 2, "
        f"eval_tokens: 200, device: cpu, threads: 1{train}}}\n"
    )
    return load_run_document(parse_document(source, "f.yaml"), base=folder)


@pytest.mark.parametrize("topology", ["encoder", "encoder_decoder"])
def test_a_run_trains_evaluates_and_opens_again(topology: str, tmp_path: Path) -> None:
    ready = ready_run(run_file(topology, tmp_path))
    folder = create_run_folder(ready, tmp_path / "run")
    record = run_in_folder(folder, ready=ready)
    assert record["status"] == "finished"
    assert record["final"]["loss"] < 6
    assert len(record["samples"]) == (0 if topology == "encoder" else 3)
    trained = open_trained(folder)
    assert trained.model.architecture == ready.architecture
    extra = 1 if topology == "encoder" else 0
    assert ready.architecture.vocab_size == trained.tokenizer.vocab_size + extra


def test_an_objective_that_does_not_fit_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"f.yaml:\d+:\d+: train.objective: next_token trains"):
        run_file("encoder", tmp_path, ", objective: next_token")
    with pytest.raises(ConfigError, match="did you mean 'masked_token'"):
        run_file("encoder", tmp_path, ", objective: masked_tokens")
    with pytest.raises(ConfigError, match="are more than 1 together"):
        run_file("encoder", tmp_path, ", objective: {type: masked_token, mask: 0.9, random: 0.2}")
