"""Targets from an encoder_decoder: each source is read once, its target written token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from windtunnel.arch import EncoderDecoder
from windtunnel.errors import UsageError
from windtunnel.generate.generate import left_padded
from windtunnel.generate.sampling import SamplingConfig, choose
from windtunnel.nn.component import reorder


@torch.no_grad()
def stream_targets(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    seed: int = 0,
) -> Iterator[dict[int, int]]:
    """Yields after each step the new token of every row that still runs: {row: token}.

    Args:
        sources: what the encoder reads of each row; they may differ in length.
        starts: the token after which each row's target begins.

    A row ends with ``eos`` (which is yielded). The model is put in eval mode. A row of a batch
    gives the tokens that it gives alone, up to rounding.

    Raises:
        UsageError: an empty source, ids outside of the vocabulary, or learned positions that end.
    """
    sampling = sampling or SamplingConfig()
    _check(model, sources, starts, max_new_tokens)
    model.eval()
    device = model.embedding.weight.device
    tokens, real = left_padded(sources, device)
    histories = [[start] for start in starts]
    rows = list(range(len(sources)))
    state = model.initial_state(len(sources), model.encode(tokens, real), real)
    following = torch.tensor([[start] for start in starts], device=device)
    for step in range(max_new_tokens):
        hidden, state = model.extend_hidden(following, state)
        logits = model.logits(hidden)[:, 0]
        chosen = choose(
            logits, sampling, [histories[row] for row in rows], seed=seed, step=step, rows=rows
        )
        by_row = dict(zip(rows, chosen, strict=True))
        yield by_row
        for row, token in by_row.items():
            histories[row].append(token)
        going = [place for place, token in enumerate(chosen) if token != eos]
        if not going:
            return
        if len(going) < len(rows):
            state = reorder(state, torch.tensor(going, device=device))
            rows = [rows[place] for place in going]
        following = torch.tensor([[by_row[row]] for row in rows], device=device)


def generate_targets(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """The target of each source, without its start and without the final ``eos``."""
    results: list[list[int]] = [[] for _ in sources]
    for tokens in stream_targets(
        model, sources, starts, max_new_tokens=max_new_tokens, sampling=sampling, eos=eos, seed=seed
    ):
        for row, token in tokens.items():
            if token != eos:
                results[row].append(token)
    return results


def _check(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[int],
    max_new_tokens: int,
) -> None:
    architecture = model.architecture
    if architecture.input != "tokens" or architecture.head.type != "vocabulary":
        raise UsageError(f"{architecture.name} writes no text: that takes tokens to a vocabulary")
    if not sources or len(sources) != len(starts):
        raise UsageError(f"{len(sources)} sources were given, and {len(starts)} starts")
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be ≥ 1, not {max_new_tokens}")
    encoder = architecture.encoder
    assert encoder is not None, "a model without an encoder was asked for targets"
    read = encoder.vocab_size or architecture.vocab_size
    limit = model.max_positions
    for number, (source, start) in enumerate(zip(sources, starts, strict=True), 1):
        if not source:
            raise UsageError(f"source {number} is empty")
        if not 0 <= min(source) <= max(source) < read:
            raise UsageError(f"source {number} has token ids outside of 0 to {read - 1}")
        if not 0 <= start < architecture.vocab_size:
            raise UsageError(f"start {number} is outside of 0 to {architecture.vocab_size - 1}")
        if limit is not None and max(len(source), max_new_tokens) > limit:
            raise UsageError(
                f"source {number} has {len(source)} tokens and {max_new_tokens} are to be written, "
                f"but the learned positions end at {limit}"
            )
