"""Sampling and generation through the state protocol."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.arch import ArchSpec, build, preset_document, resolve
from windtunnel.config import decode
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.generate import BeamConfig, SamplingConfig, choose, generate, search, stream
from windtunnel.generate.sampling import penalize_repetition, reshape_logits

VOCABULARY = 40
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])


def model(name: str = "llama", **edits: object):
    document = preset_document(name).edit("d_model=32").edit("layers[0].repeat=2")
    for path, value in edits.items():
        document = document.edit(f"{path}={value}")
    # double precision: rounding must not decide between two tokens
    return build(resolve(decode(document, ArchSpec), VOCABULARY), seed=5).double()


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "lstm", "gemma"])
def test_a_greedy_row_of_a_ragged_batch_is_its_single_run(name: str) -> None:
    prompts = [[1], [2, 3, 4, 5, 6, 7], [8, 9, 10]]
    greedy = SamplingConfig(temperature=0.0)
    net = model(name)
    together = generate(net, prompts, max_new_tokens=12, sampling=greedy)
    alone = [generate(net, [p], max_new_tokens=12, sampling=greedy)[0] for p in prompts]
    assert together == alone


def test_greedy_follows_the_uncached_logits() -> None:
    net = model()
    tokens = [3, 1, 4]
    (found,) = generate(net, [tokens], max_new_tokens=8, sampling=SamplingConfig(temperature=0.0))
    for token in found:
        with torch.no_grad():
            assert int(net(torch.tensor([tokens]))[0, -1].argmax()) == token
        tokens = [*tokens, token]


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    net = model()
    first, again, other = (generate(net, [[1, 2]], max_new_tokens=20, seed=s) for s in (0, 0, 1))
    assert first == again != other


def test_a_row_that_ends_leaves_the_others_as_they_are() -> None:
    net = model()
    prompts = [[1, 2], [3, 4, 5], [6]]
    full = generate(net, prompts, max_new_tokens=15, seed=3)
    eos = full[1][4]
    ended = generate(net, prompts, max_new_tokens=15, seed=3, eos=eos)
    for row, tokens in zip(full, ended, strict=True):
        expected = row[: row.index(eos)] if eos in row else row
        assert tokens == expected


def test_a_stream_yields_each_token_once() -> None:
    net = model()
    steps = list(stream(net, [[1], [2, 3]], max_new_tokens=5, seed=1))
    whole = generate(net, [[1], [2, 3]], max_new_tokens=5, seed=1)
    assert [[step[row] for step in steps] for row in (0, 1)] == whole


@pytest.mark.parametrize(
    ("prompts", "length", "message"),
    [
        ([], 3, "no prompt"),
        ([[]], 3, "empty"),
        ([[VOCABULARY]], 3, "outside of 0 to 39"),
        ([[-1]], 3, "outside of 0 to 39"),
        ([[1]], 0, "must be ≥ 1"),
    ],
)
def test_bad_prompts_are_usage_errors(prompts: list[list[int]], length: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        generate(model(), prompts, max_new_tokens=length)


def test_learned_positions_that_end_are_said_before_generating() -> None:
    with pytest.raises(UsageError, match="learned positions end at 16"):
        generate(model("gpt2", max_seq_len=16), [[1, 2, 3]], max_new_tokens=14)


def kept(sampling: SamplingConfig) -> list[int]:
    return [i for i, x in enumerate(reshape_logits(LOGITS, sampling)[0]) if math.isfinite(x)]


@pytest.mark.parametrize(
    ("sampling", "tokens"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.01}, [0]),
        ({"top_p": 0.65}, [0, 1]),  # probabilities .643, .237, .087, .032, ~0
        ({"top_p": 0.89}, [0, 1, 2]),
        ({"top_p": 1.0}, [0, 1, 2, 3, 4]),
        ({"min_p": 0.3}, [0, 1]),
        ({"min_p": 1.0}, [0]),
        ({"top_k": 3, "min_p": 0.2}, [0, 1]),
    ],
)
def test_which_tokens_stay(sampling: dict[str, float], tokens: list[int]) -> None:
    assert kept(SamplingConfig(**sampling)) == tokens


def test_the_penalty_lowers_seen_tokens_whatever_their_sign() -> None:
    found = penalize_repetition(LOGITS, [[0, 3, 3]], 2.0)
    assert found[0].tolist() == [1.0, 1.0, 0.0, -2.0, -9.0]


def test_draws_follow_the_probabilities() -> None:
    probabilities = LOGITS[0].softmax(0)
    rows = LOGITS.expand(4000, -1)
    drawn = choose(rows, SamplingConfig(), [[]] * 4000, seed=0, step=0)
    counts = torch.bincount(torch.tensor(drawn), minlength=5) / 4000
    error = (probabilities * (1 - probabilities) / 4000).sqrt()
    assert ((counts - probabilities).abs() <= 4 * error + 1e-3).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=12),
    st.floats(0.05, 5),
    st.none() | st.integers(1, 15),
    st.none() | st.floats(0.01, 1),
    st.none() | st.floats(0.01, 1),
)
def test_a_drawn_token_is_always_one_that_stayed(
    logits: list[float],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> None:
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    row = torch.tensor([logits])
    stayed = torch.isfinite(reshape_logits(row, sampling))[0]
    assert stayed.any()
    for seed in range(3):
        (token,) = choose(row, sampling, [[]], seed=seed, step=0)
        assert stayed[token]


@pytest.mark.parametrize("limit", [None, 9])
def test_rows_end_where_the_positions_end(limit: int | None) -> None:
    net = model("gpt2", max_seq_len=16)
    prompts = [[1, 2, 3], [4] * 7] if limit else [[1, 2, 3], [4] * 12]
    texts = generate(net, prompts, max_new_tokens=limit)
    assert [len(text) for text in texts] == ([9, 9] if limit else [13, 4])
    alone = [generate(net, [p], max_new_tokens=limit)[0] for p in prompts[:1]]
    assert texts[:1] == alone


def test_a_model_without_an_end_needs_a_length() -> None:
    with pytest.raises(UsageError, match="max_new_tokens is needed"):
        generate(model(), [[1]], max_new_tokens=None)


def test_a_row_that_is_stopped_leaves_the_others_as_they_are() -> None:
    net = model()
    prompts = [[1, 2], [3, 4, 5], [6]]
    full = generate(net, prompts, max_new_tokens=15, seed=3)
    ended = generate(
        net,
        prompts,
        max_new_tokens=15,
        seed=3,
        stop=lambda row, token: (row, token) == (1, full[1][4]),
    )
    assert ended == [full[0], full[1][: full[1].index(full[1][4]) + 1], full[2]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_choose_nothing(value: float) -> None:
    net = model()
    with torch.no_grad():
        net.embedding.weight[3] = value
    for sampling in (SamplingConfig(), SamplingConfig(temperature=0.0)):
        with pytest.raises(NotFiniteError, match="logits are not finite"):
            generate(net, [[3]], max_new_tokens=2, sampling=sampling)
    with pytest.raises(NotFiniteError, match="logits are not finite"):
        search(net, [[3]], BeamConfig(num_beams=2), max_new_tokens=2)
    masked = torch.tensor([[0.0, -math.inf]])
    assert choose(masked, SamplingConfig(), [[]], seed=0, step=0) == [0]
    with pytest.raises(NotFiniteError):
        choose(masked - math.inf, SamplingConfig(), [[]], seed=0, step=0)


def test_prompts_are_lists_or_tensors_of_whole_numbers() -> None:
    net = model()
    expected = generate(net, [[1, 2], [3, 4]], max_new_tokens=3)
    ids = torch.tensor([[1, 2], [3, 4]])
    assert generate(net, ids, max_new_tokens=3) == expected
    assert generate(net, list(ids), max_new_tokens=3) == expected
    assert generate(net, ids.numpy(), max_new_tokens=3) == expected
    found = search(net, ids, BeamConfig(num_beams=1), max_new_tokens=3)
    assert found == search(net, [[1, 2], [3, 4]], BeamConfig(num_beams=1), max_new_tokens=3)


@pytest.mark.parametrize(
    ("prompts", "length", "message"),
    [
        ([[1.5]], 2, r"prompt 1 holds 1\.5, which is no token id"),
        (torch.tensor([[1.0]]), 2, r"prompt 1 holds 1\.0, which is no token id"),
        ([torch.tensor([1.0])], 2, r"prompt 1 holds 1\.0, which is no token id"),
        ([1, 2, 3], 2, r"prompt 1 is 1, not a list of token ids: one prompt alone is \[\["),
        (torch.tensor([1, 2]), 2, "prompt 1 is 1, not a list"),
        (["text"], 2, "prompt 1 is 'text', not a list"),
        (5, 2, "prompts are a list of token ids for each prompt, not 5"),
        ([[1]], 2.5, r"max_new_tokens must be a whole number ≥ 1, not 2\.5"),
        ([[1]], 0, "max_new_tokens must be ≥ 1, not 0"),
    ],
)
def test_what_is_no_prompt_is_told(prompts: object, length: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        generate(model(), prompts, max_new_tokens=length)
