"""Runs on synthetic tasks: scored on a test of its own, resumed to the bit, and solved by the
architectures that are known to solve them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from windtunnel.config import parse_document
from windtunnel.errors import ConfigError
from windtunnel.runs import RunFolder
from windtunnel.train.batch import IGNORED
from windtunnel.train.launch import (
    create_run_folder,
    open_trained,
    ready_run,
    run_in_folder,
    run_parts,
)
from windtunnel.train.loop import create_train_state, train_steps
from windtunnel.train.run_config import load_run_document
from windtunnel.train.writing import Writer

ATTENTION = "repeat: 2, mixer: {type: attention, num_heads: 2, position: rope}, mlp: {type: dense}"
LAYERS = {
    "attention": ATTENTION,
    "attention without positions": ATTENTION.replace("rope", "none").replace(
        "2, mixer", "1, mixer"
    ),
    "one attention": ATTENTION.replace("repeat: 2", "repeat: 1"),
    "gru": "mixer: {type: gru}, mlp: {type: none}",
    "nothing": "repeat: 2, mixer: {type: short_conv, kernel_size: 2}, mlp: {type: dense}",
}


def run_file(
    source: str, layers: str, train: str = "", d_model: int = 48, steps: int = 20, lr: float = 0.003
) -> str:
    return (
        f"arch: {{d_model: {d_model}, layers: [{{{LAYERS[layers]}}}]}}\n"
        f"data: {{source: {source}}}\n"
        f"train: {{steps: {steps}, batch_size: 64, seq_len: 64, lr: {lr}, weight_decay: 0.01, "
        f"eval_every: 10, checkpoint_every: 10, device: cpu, threads: 1{train}}}\n"
    )


def ready(*args: Any, **options: Any) -> Any:
    return ready_run(load_run_document(parse_document(run_file(*args, **options), "f.yaml")))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learned(source: str, layers: str, steps: int, lr: float = 0.003, d_model: int = 48) -> float:
    """The accuracy on the test after so many steps, or once it is above 0.99."""
    parts = run_parts(ready(source, layers, steps=steps, lr=lr, d_model=d_model))
    assert parts.scores is not None
    found = 0.0
    for info in train_steps(create_train_state(parts.model, parts.batches, parts.train)):
        if info.step % 25 == 0 or info.step == steps:
            found = parts.scores(parts.model)["test_accuracy"]
            if found > 0.99:
                break
    return found


SMALL = "samples: 300, held_samples: 40"


def test_a_run_is_scored_on_its_test_and_resumes_to_the_bit(workplace: Path) -> None:
    source = f"{{type: parity, {SMALL}, test_lengths: [20, 30]}}"
    run = ready(source, "one attention", d_model=16)
    folder = create_run_folder(run, workplace / "whole")
    record = run_in_folder(folder)
    names = ["test_accuracy", "test_accuracy_at_20", "test_accuracy_at_30"]
    assert all(0 <= record["final"][name] <= 1 for name in names)
    assert record["final"]["bits_per_byte"] is None
    assert record["tokens"] == 20 * 64 * 16  # answers
    assert record["flops"] > 0
    assert (record["left_out"], record["cut"]) == (0, 0)
    assert len(record["samples"]) == 3
    assert len(record["samples"][0]["truth"].split()) == 16
    evals = [event for event in folder.read_events() if event.kind == "eval"]
    assert all(set(names) <= set(event.values) for event in evals)

    torn = create_run_folder(run, workplace / "torn")

    def tear(info: Any) -> None:
        if info.step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_folder(torn, on_step=tear)
    again = run_in_folder(RunFolder.open(torn.path), resume=True)
    kept = [*names, "loss", "accuracy"]
    assert {k: again["final"][k] for k in kept} == {k: record["final"][k] for k in kept}

    trained = open_trained(RunFolder.open(torn.path))
    writer = Writer(trained.model, trained.tokenizer, trained.config)
    (written,) = writer.write(writer.encode(["0 1 1"]), max_new_tokens=4)
    assert len(written) == 4
    assert set(written) <= {0, 1}


class Lookup(nn.Module):
    """Not a model: gives the right answer for the sequences that it was told, from a table."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.known: dict[tuple[int, ...], dict[int, int]] = {}
        self.vocab_size = vocab_size
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, self.vocab_size)
        for row, (ids, here) in enumerate(zip(tokens, real, strict=True)):
            for place, answer in self.known.get(tuple(ids[here].tolist()), {}).items():
                logits[row, place, answer] = 1.0
        return logits


def test_the_score_counts_answers_of_the_test_alone(workplace: Path) -> None:
    """By hand: a model that knows a quarter of the test and nothing else. The sequences are of
    unequal lengths, so there are pads."""
    run = ready(f"{{type: fuzzy_recall, {SMALL}}}", "gru")
    parts = run_parts(run)
    test: Any = run.dataset.test
    model = Lookup(run.dataset.tokenizer.vocab_size)
    start, found, of_all = 0, 0, 0
    for number, (middle, end, _) in enumerate(test.samples.tolist()):
        tokens, answers = test.tokens[start:middle].tolist(), test.tokens[middle:end].tolist()
        start, of_all = end, of_all + len(answers) // 2
        if number % 4 == 0:
            pairs = zip(answers[::2], answers[1::2], strict=True)
            model.known[tuple(tokens)] = dict(pairs)
            found += len(answers) // 2
    assert parts.scores is not None
    # What it does not know it takes for symbol 0, a key, which is no answer.
    assert parts.scores(model)["test_accuracy"] == pytest.approx(found / of_all)


def test_the_loss_is_on_the_answers(workplace: Path) -> None:
    run = ready(f"{{type: mqar, {SMALL}}}", "gru")
    parts = run_parts(run)
    batch: Any = parts.batches.at(0)
    task: Any = run.config.data.source
    assert int((batch.targets != IGNORED).sum()) == 64 * task.num_pairs
    assert batch.targets[batch.targets != IGNORED].min() >= task.num_keys
    assert (batch.targets[:, : 2 * task.num_pairs] == IGNORED).all()


@pytest.mark.parametrize(
    ("source", "train", "expected"),
    [
        ("{type: parity, length: 70}", "", "sequences of parity have up to 70"),
        (
            "{type: parity, test_lengths: [100]}",
            "",
            "64 tokens, but sequences of parity have up to",
        ),
        ("parity", ", distributed: ddp", "parity is scored by one process alone"),
        ("parity", ", scores: [bleu]", "only pairs have a truth"),
        ("parity", ", objective: masked_token", "masked_token trains the type encoder"),
    ],
)
def test_what_does_not_go_together_is_told(source: str, train: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("{", r"\{")):
        load_run_document(parse_document(run_file(source, "gru", train), "f.yaml"))


def test_an_encoder_has_no_answers_to_find() -> None:
    text = run_file("parity", "gru").replace("arch: {", "arch: {type: encoder, ")
    text = text.replace(LAYERS["gru"], ATTENTION)
    with pytest.raises(ConfigError, match=r"masked_token needs text .*holds a synthetic task"):
        load_run_document(parse_document(text, "f.yaml"))


def test_another_seed_of_the_data_is_another_run() -> None:
    runs = [
        ready(f"{{type: mqar, {SMALL}}}, seed: {seed}", "gru", f", seed: {other}")
        for seed, other in ((0, 0), (1, 0), (0, 1))
    ]
    assert len({run.key for run in runs}) == 3
    assert len({run.dataset.fingerprint for run in runs}) == 2


def test_a_gru_solves_parity_at_any_length(workplace: Path) -> None:
    assert learned("parity", "gru", 150, 0.01) > 0.99


@pytest.mark.slow
def test_a_gru_solves_addition_modulo_k(workplace: Path) -> None:
    assert learned("cyclic", "gru", 300, 0.01) > 0.99


def test_attention_solves_recall(workplace: Path) -> None:
    assert learned("mqar", "attention", 400) > 0.95


def test_what_sees_two_tokens_recalls_nothing(workplace: Path) -> None:
    assert learned("mqar", "nothing", 60) < 0.45


@pytest.mark.slow
def test_two_layers_of_attention_do_induction_and_one_does_not(workplace: Path) -> None:
    source = "{type: induction, samples: 16384}"
    assert learned(source, "attention", 900) > 0.9
    assert learned(source, "one attention", 900) < 0.75


@pytest.mark.slow
def test_attention_without_positions_has_no_order(workplace: Path) -> None:
    """What stands where is invisible to it, so it cannot give back the symbol of a place."""
    assert learned("compression", "attention without positions", 100) < 0.6
