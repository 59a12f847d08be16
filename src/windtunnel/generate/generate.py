"""Text from a model, through its state: ragged prompts in one batch, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from windtunnel.arch import Architecture, Model
from windtunnel.errors import UsageError
from windtunnel.generate.sampling import SamplingConfig, choose
from windtunnel.nn.component import reorder


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The prompts as one batch (b, t), ending together, and which tokens are real (b, t)."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        real[row, longest - len(prompt) :] = True
    return tokens, real


def can_continue(architecture: Architecture) -> bool:
    """Whether the architecture continues text: it gives the next token after tokens alone."""
    return (
        architecture.type == "decoder"
        and architecture.input == "tokens"
        and architecture.head.type == "vocabulary"
        and not architecture.reads_memory
    )


def _checked(model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if not can_continue(model.architecture):
        raise UsageError(
            f"{model.architecture.name} does not continue text: that takes a decoder from tokens "
            "to a vocabulary, without cross-attention"
        )
    if not prompts:
        raise UsageError("no prompt was given")
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be ≥ 1, not {max_new_tokens}")
    vocabulary = model.architecture.vocab_size
    limit = model.max_positions
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise UsageError(
                f"prompt {number} is empty, and the tokenizer has no bos to begin with"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise UsageError(f"prompt {number} has token ids outside of 0 to {vocabulary - 1}")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise UsageError(
                f"prompt {number} has {len(prompt)} tokens and {max_new_tokens} are to follow, but "
                f"the learned positions end at {limit}; ask for fewer"
            )


@torch.no_grad()
def stream(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    seed: int = 0,
) -> Iterator[dict[int, int]]:
    """Yields after each step the new token of every row that still runs: {row: token}.

    A row ends with ``eos`` (which is yielded). The model is put in eval mode. Rows do not touch
    each other: a row of a batch gives the tokens that it gives alone, up to rounding.

    Raises:
        UsageError: an empty prompt, ids outside of the vocabulary, or learned positions that end.
    """
    sampling = sampling or SamplingConfig()
    _checked(model, prompts, max_new_tokens)
    model.eval()
    device = model.embedding.weight.device
    tokens, real = left_padded(prompts, device)
    histories = [list(prompt) for prompt in prompts]
    rows = list(range(len(prompts)))
    state = model.initial_state(len(prompts))
    hidden, state = model.extend_hidden(tokens, state, real)
    last = hidden[:, -1:]
    for step in range(max_new_tokens):
        logits = model.logits(last)[:, 0]
        by_row = _choose_rows(logits, sampling, histories, rows, seed, step)
        yield by_row
        for row, token in by_row.items():
            histories[row].append(token)
        going = [i for i, row in enumerate(rows) if by_row[row] != eos]
        if not going or step + 1 == max_new_tokens:
            return
        if len(going) < len(rows):
            state = reorder(state, torch.tensor(going, device=device))
            rows = [rows[i] for i in going]
        following = torch.tensor([[by_row[row]] for row in rows], device=device)
        last, state = model.extend_hidden(following, state)


def _choose_rows(
    logits: Tensor,
    sampling: SamplingConfig,
    histories: list[list[int]],
    rows: list[int],
    seed: int,
    step: int,
) -> dict[int, int]:
    tokens = choose(
        logits, sampling, [histories[row] for row in rows], seed=seed, step=step, rows=rows
    )
    return dict(zip(rows, tokens, strict=True))


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """The new tokens of each prompt, without the prompt and without the final ``eos``."""
    results: list[list[int]] = [[] for _ in prompts]
    for tokens in stream(
        model, prompts, max_new_tokens=max_new_tokens, sampling=sampling, eos=eos, seed=seed
    ):
        for row, token in tokens.items():
            if token != eos:
                results[row].append(token)
    return results
