"""Runners: texts that end in time, and scores of the truth alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from runner_models import PAIRS, Tiny, of_layers
from torch import Tensor

from windtunnel.runner import ArchitectureLM, BasicModelRunner, LMBase

PROMPTS = ["ab", "abababab", "", "ab" * 15, "b" * 40]


@pytest.mark.parametrize("max_len", [None, 32, 30, 12])
def test_learned_positions_end_each_text_by_itself(max_len: int | None) -> None:
    runner = BasicModelRunner(ArchitectureLM, overrides={"arch": "gpt2", "tokenizer": "bytes"})
    runner.initialize("cpu", num_blocks=1, embed_dim=32, max_len=32, optimizer="adamw", lr=0.01)
    for _ in range(3):
        runner.train(PAIRS)
    together = runner.generate(PROMPTS, max_len=max_len)
    assert together == [runner.generate([prompt], max_len=max_len)[0] for prompt in PROMPTS]
    samples = [{"prompt": prompt} for prompt in PROMPTS]
    assert together == LMBase.generate_prompts(runner.model, samples, max_len)
    assert together[-1] == ""
    assert runner.generate([], max_len=max_len) == []


class NeverEnding(ArchitectureLM):
    """Always writes an a."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        head = self.net.head

        def logits(module: Any, inputs: Any, found: Tensor) -> Tensor:
            return F.one_hot(
                torch.full(found.shape[:-1], self.codec.encode("a")[0]), found.shape[-1]
            ).float()

        head.register_forward_hook(logits)


def test_a_net_with_fewer_positions_than_max_len_ends_there() -> None:
    spec = of_layers(arch={"embedding": {"position": "learned"}, "max_seq_len": 16}).overrides
    runner = BasicModelRunner(NeverEnding, overrides={**spec, "max_len": 32})
    runner.initialize("cpu")
    texts = runner.generate(["", "bbb", "b" * 15, "b" * 16])
    assert texts == ["a" * 16, "a" * 13, "a", ""]


class Oracle(Tiny):
    """Knows the text it is given, but for the first letter of the prompt."""

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Tensor:
        end = torch.full_like(x[:, :1], self.tokenizer.eos)
        following = torch.cat([x[:, 1:], end], 1)
        following[:, 0] = 122
        return F.one_hot(following, self.tokenizer.vocab_size) * 9.0 + 0 * self.head.sum()


@pytest.mark.parametrize("loss_on", ["truth", "all"])
def test_only_the_truth_is_scored(loss_on: Any) -> None:
    class Model(Oracle):
        pass

    Model.loss_on = loss_on
    runner = BasicModelRunner(Model, max_batch_size=1)
    runner.initialize("cpu")
    samples = [
        {"prompt": "one and", "truth": " two and three"},
        {"prompt": "a", "truth": " b" * 40},
        {"prompt": "no", "truth": ""},
    ]
    texts, _, _ = runner.validate(samples)
    assert runner.stats.word_accuracy == 1.0
    assert texts[0] == "one and two and three"
    assert texts[1] == "a" + " b" * 19
    plain, _, _ = runner.model.train_prompts(samples[:1], include_prompts=False)
    assert plain == [" two and three"]
