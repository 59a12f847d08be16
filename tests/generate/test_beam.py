"""Beam search against the enumeration of all continuations."""

import itertools

import pytest
import torch
from tests.generate.test_generate import model

from windtunnel.arch import ArchSpec, EncoderDecoder, build, preset_document, resolve
from windtunnel.config import decode
from windtunnel.generate import BeamConfig, SamplingConfig, beam_search, generate, search
from windtunnel.generate.beam import Continued
from windtunnel.generate.targets import generate_targets, search_targets

EOS, VOCABULARY, LENGTH = 1, 4, 3


class Table:
    """Logits that are a function of the whole text so far: a state of tokens."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def logits(self, text: torch.Tensor) -> torch.Tensor:
        rows = []
        for row in text.tolist():
            key = hash((self.seed, *row)) & 0x7FFFFFFF
            generator = torch.Generator().manual_seed(key)
            rows.append(2 * torch.randn(VOCABULARY, generator=generator))
        return torch.stack(rows)

    def extend(self, tokens: torch.Tensor, state: tuple) -> tuple:
        text = torch.cat((state[0], tokens), 1)
        return self.logits(text)[:, None], (text,)


def every_continuation(table: Table, prompt: list[int], beams: BeamConfig) -> list[Continued]:
    found = []
    for n in range(1, LENGTH + 1):
        for tokens in itertools.product(range(VOCABULARY), repeat=n):
            ends = tokens[-1] == EOS
            if EOS in tokens[:-1] or (n < LENGTH and not ends):
                continue
            total, text = 0.0, list(prompt)
            for token in tokens:
                total += (
                    table.logits(torch.tensor([text]))[0].double().log_softmax(-1)[token].item()
                )
                text.append(token)
            kept = list(tokens[:-1] if ends else tokens)
            found.append(Continued(kept, total, total / beams.penalty(n)))
    return sorted(found, key=lambda one: -one.score)


def searched(table: Table, prompts: list[list[int]], beams: BeamConfig) -> list[list[Continued]]:
    text = torch.tensor(prompts)
    return beam_search(table, table.logits(text), (text,), beams, max_new_tokens=LENGTH, eos=EOS)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_with_enough_beams_the_best_of_all_are_found(seed: int, penalty: float) -> None:
    beams = BeamConfig(num_beams=VOCABULARY**LENGTH, length_penalty=penalty)
    table = Table(seed)
    (found,) = searched(table, [[2, 0]], beams)
    expected = every_continuation(table, [2, 0], beams)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-6)
        assert one.score == pytest.approx(other.score, abs=1e-6)


@pytest.mark.parametrize("num_beams", [1, 2, 3, 5])
def test_what_is_found_is_scored_as_it_is_and_in_order(num_beams: int) -> None:
    for seed in range(12):
        table, beams = Table(seed), BeamConfig(num_beams=num_beams)
        (found,) = searched(table, [[3]], beams)
        known = {tuple(one.tokens): one for one in every_continuation(table, [3], beams)}
        assert 1 <= len(found) <= num_beams
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            candidates = [known[tuple(one.tokens)].log_probability]
            assert one.log_probability == pytest.approx(candidates[0], abs=1e-6)


def test_a_prompt_does_not_depend_on_those_beside_it() -> None:
    table, beams = Table(5), BeamConfig(num_beams=3)
    prompts = [[0, 2], [3, 3], [2, 1]]
    assert searched(table, prompts, beams) == [searched(table, [p], beams)[0] for p in prompts]


@pytest.mark.parametrize("name", ["llama", "mistral", "lstm"])
def test_one_beam_is_greedy_and_ragged_prompts_are_single_ones(name: str) -> None:
    net, prompts = model(name), [[1], [2, 3, 4, 5, 6, 7], [8, 9, 10]]
    greedy = generate(net, prompts, max_new_tokens=8, sampling=SamplingConfig(temperature=0.0))
    one = search(net, prompts, BeamConfig(num_beams=1), max_new_tokens=8)
    assert [found[0].tokens for found in one] == greedy
    together = search(net, prompts, BeamConfig(num_beams=3), max_new_tokens=8)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = search(net, [prompt], BeamConfig(num_beams=3), max_new_tokens=8)
        assert [f.tokens for f in found] == [f.tokens for f in alone]
        assert found[0].log_probability == pytest.approx(log_probability(net, prompt, found[0]))
        assert found[0].score >= one[prompts.index(prompt)][0].score - 1e-9


def log_probability(net, prompt: list[int], found: Continued) -> float:
    tokens = torch.tensor([[*prompt, *found.tokens]])
    with torch.no_grad():
        steps = net(tokens)[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(found.tokens) - 1)
    return sum(steps[place, tokens[0, place + 1]].item() for place in places)


def test_targets_are_searched_as_texts_are() -> None:
    document = preset_document("t5").edit("d_model=32")
    net = build(resolve(decode(document, ArchSpec), 40), seed=5).double()
    assert isinstance(net, EncoderDecoder)
    sources, starts = [[1, 2, 3], [4], [5, 6]], [7, 7, 8]
    greedy = SamplingConfig(temperature=0.0)
    expected = generate_targets(net, sources, starts, max_new_tokens=6, sampling=greedy)
    one = search_targets(net, sources, starts, BeamConfig(num_beams=1), max_new_tokens=6)
    assert [found[0].tokens for found in one] == expected
    beams = BeamConfig(num_beams=3)
    together = search_targets(net, sources, starts, beams, max_new_tokens=6)
    for source, start, found in zip(sources, starts, together, strict=True):
        (alone,) = search_targets(net, [source], [start], beams, max_new_tokens=6)
        assert [f.tokens for f in alone] == [f.tokens for f in found]
