"""Targets from an encoder_decoder: each source is read once, its target written token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from windtunnel.arch import EncoderDecoder
from windtunnel.errors import UsageError
from windtunnel.generate.beam import BeamConfig, Continued, beam_search
from windtunnel.generate.generate import Stop, by_rows, check_length, left_padded, written
from windtunnel.generate.sampling import SamplingConfig
from windtunnel.nn.component import State


@torch.no_grad()
def stream_targets(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    max_new_tokens: int | None,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    stop: Stop | None = None,
    seed: int = 0,
) -> Iterator[dict[int, int]]:
    """Yields after each step the new token of every row that still runs: {row: token}.

    Args:
        sources: what the encoder reads of each row; they may differ in length.
        starts: the token after which each row's target begins.
        max_new_tokens: None: as many as there are learned positions.

    A row ends with ``eos`` (which is yielded), or where ``stop`` says so. The model is put in eval
    mode. A row of a batch gives the tokens that it gives alone, up to rounding.

    Raises:
        UsageError: an empty source, ids outside of the vocabulary, or learned positions that end.
    """
    longest = _checked(model, sources, starts, max_new_tokens)
    last, state = _begun(model, sources, starts)
    yield from written(
        model,
        last,
        state,
        [[start] for start in starts],
        [longest] * len(starts),
        sampling=sampling,
        eos=eos,
        stop=stop,
        seed=seed,
    )


def generate_targets(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    max_new_tokens: int | None,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    stop: Stop | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """The target of each source, without its start and without the final ``eos``."""
    steps = stream_targets(
        model, sources, starts, max_new_tokens=max_new_tokens, sampling=sampling, eos=eos,
        stop=stop, seed=seed,
    )  # fmt: skip
    return by_rows(steps, len(sources), eos)


@torch.no_grad()
def search_targets(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[int],
    beams: BeamConfig,
    *,
    max_new_tokens: int | None,
    eos: int | None = None,
) -> list[list[Continued]]:
    """The best targets of each source that a beam search finds, the best first."""
    longest = _checked(model, sources, starts, max_new_tokens)
    last, state = _begun(model, sources, starts)
    logits = model.logits(last)[:, 0]
    return beam_search(model, logits, state, beams, max_new_tokens=longest, eos=eos)


def _begun(
    model: EncoderDecoder, sources: Sequence[Sequence[int]], starts: Sequence[int]
) -> tuple[Tensor, State]:
    """What the head reads after the starts, b 1 d, and the state after them."""
    model.eval()
    device = model.embedding.weight.device
    tokens, real = left_padded(sources, device)
    state = model.initial_state(len(sources), model.encode(tokens, real), real)
    return model.extend_hidden(torch.tensor([[start] for start in starts], device=device), state)


def _checked(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[int],
    max_new_tokens: int | None,
) -> int:
    """How many tokens a target may have."""
    architecture = model.architecture
    if architecture.input != "tokens" or architecture.head.type != "vocabulary":
        raise UsageError(f"{architecture.name} writes no text: that takes tokens to a vocabulary")
    if not sources or len(sources) != len(starts):
        raise UsageError(f"{len(sources)} sources were given, and {len(starts)} starts")
    check_length(max_new_tokens)
    limit = model.max_positions
    longest = max_new_tokens if max_new_tokens is not None else limit
    if longest is None:
        raise UsageError("max_new_tokens is needed: nothing in this model limits a text")
    encoder = architecture.encoder
    assert encoder is not None, "a model without an encoder was asked for targets"
    read = encoder.vocab_size or architecture.vocab_size
    for number, (source, start) in enumerate(zip(sources, starts, strict=True), 1):
        if not source:
            raise UsageError(f"source {number} is empty")
        if not 0 <= min(source) <= max(source) < read:
            raise UsageError(f"source {number} has token ids outside of 0 to {read - 1}")
        if not 0 <= start < architecture.vocab_size:
            raise UsageError(f"start {number} is outside of 0 to {architecture.vocab_size - 1}")
        if limit is not None and max(len(source), longest) > limit:
            raise UsageError(
                f"source {number} has {len(source)} tokens and {longest} are to be written, "
                f"but the learned positions end at {limit}"
            )
    return longest
