"""Evaluation: token-weighted, without dropout, leaving the model as it was."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from standins import VOCAB, Lengths, TinyModel, learnable_batches, tokenizer
from torch import Tensor, nn

from windtunnel.errors import DataError
from windtunnel.train.evaluation import evaluate


def test_means_weigh_each_token_the_same() -> None:
    model = TinyModel().eval()
    batches = learnable_batches(4)
    batches[1].targets[1:] = -100
    found = evaluate(model, batches, tokenizer())
    nats, right, tokens, text_bytes = 0.0, 0, 0, 0
    for batch in batches:
        log_p = model(batch.inputs).detach().double().log_softmax(-1)
        for row, column in (batch.targets != -100).nonzero().tolist():
            target = int(batch.targets[row, column])
            nats -= float(log_p[row, column, target])
            right += int(log_p[row, column].argmax()) == target
            tokens += 1
            text_bytes += target  # token i stands for i bytes
    assert found.tokens == tokens
    assert found.loss == pytest.approx(nats / tokens, rel=1e-6)
    assert found.accuracy == right / tokens
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_the_cutting_into_batches_changes_nothing() -> None:
    model, batches = TinyModel(), learnable_batches(4)
    rows = [type(b)(b.inputs[i : i + 1], b.targets[i : i + 1]) for b in batches for i in range(4)]
    whole, single = (evaluate(model, b, tokenizer()) for b in (batches, rows))
    assert single.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (single.accuracy, single.tokens) == (whole.accuracy, whole.tokens)


def test_dropout_is_off_and_every_mode_is_restored() -> None:
    model = TinyModel(dropout=0.9)
    model.train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    first = evaluate(model, learnable_batches(2), tokenizer())
    second = evaluate(model, learnable_batches(2), tokenizer())
    assert first.loss == second.loss
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_the_modes_are_restored_after_an_error() -> None:
    model = TinyModel()
    with pytest.raises(DataError, match="no token to evaluate"):
        evaluate(model, [], tokenizer())
    assert model.training


class Sure(nn.Module):
    """Wrong with certainty."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, VOCAB)
        logits[..., 0] = self.logit
        return logits


def test_a_huge_loss_gives_an_infinite_perplexity() -> None:
    batches = learnable_batches(1)
    batches[0].targets[:] = 3
    found = evaluate(Sure(5000.0), batches, tokenizer())
    assert found.loss == pytest.approx(5000.0)
    assert found.perplexity == math.inf
    assert found.accuracy == 0


def test_text_without_bytes_has_no_bits_per_byte() -> None:
    nothing = Lengths(np.zeros(VOCAB, dtype=np.int32))
    assert evaluate(TinyModel(), learnable_batches(1), nothing).bits_per_byte is None


def test_unknown_characters_leave_no_bits_per_byte() -> None:
    """Their nats count, but not their bytes: the quotient would be too large."""
    batches = learnable_batches(2)
    common = int(batches[0].targets[0, 0])
    for unk in (None, common):
        lengths = SimpleNamespace(token_bytes=tokenizer().token_bytes, unk=unk)
        found = evaluate(TinyModel(), batches, lengths)
        expected = 0 if unk is None else sum(int((b.targets == unk).sum()) for b in batches)
        assert found.unknown == expected
        assert (found.bits_per_byte is None) == (unk is not None)
    assert expected > 0


def test_even_odds_cost_the_logarithm_of_the_vocabulary() -> None:
    found = evaluate(Sure(0.0), learnable_batches(2), tokenizer())
    assert found.loss == pytest.approx(math.log(VOCAB), rel=1e-6)
