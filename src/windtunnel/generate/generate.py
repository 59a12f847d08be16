"""Text from a model, through its state: ragged prompts in one batch, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import index
from typing import Any, TypeAlias

import torch
from torch import Tensor

from windtunnel.arch import Architecture, Model
from windtunnel.errors import UsageError
from windtunnel.generate.beam import BeamConfig, Continued, beam_search
from windtunnel.generate.sampling import SamplingConfig, choose
from windtunnel.nn.component import State, reorder

Stop = Callable[[int, int], bool]
"""(row, new token) -> whether the row ends with it; asked once for each new token, in order."""

Prompts: TypeAlias = Sequence[Sequence[int]] | Tensor
"""The token ids of each prompt; as a tensor (b, t), those of prompts of one length."""


def _rows_of(prompts: Any) -> list[list[int]]:
    """The ids of each prompt as plain numbers."""
    found = _listed(prompts)
    if found is None:
        raise UsageError(
            f"prompts are a list of token ids for each prompt, not {_type_of(prompts)}"
        )
    return [_ids_of(row, f"prompt {number}") for number, row in enumerate(found, 1)]


def _ids_of(row: Any, place: str) -> list[int]:
    ids = _listed(row)
    if ids is None:
        raise UsageError(
            f"{place} is {_type_of(row)}, not a list of token ids: one prompt alone is [[1, 2, 3]]"
        )
    return [_id(value, place) for value in ids]


def _id(value: Any, place: str) -> int:
    try:
        return index(value)
    except TypeError:
        raise UsageError(f"{place} holds {value!r}, which is no token id") from None


def _listed(value: Any) -> list[Any] | None:
    """The items of a list, a tensor or an array; None where it is none of them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None


def _type_of(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | str) else type(value).__name__


def check_length(max_new_tokens: Any) -> None:
    """Raises UsageError where ``max_new_tokens`` is given and no whole number from 1 on."""
    if max_new_tokens is None:
        return
    if not hasattr(max_new_tokens, "__index__") or isinstance(max_new_tokens, bool):
        raise UsageError(f"max_new_tokens must be a whole number ≥ 1, not {max_new_tokens!r}")
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens must be ≥ 1, not {max_new_tokens}")


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


def _limits(
    model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int | None
) -> list[int]:
    """How many tokens may follow each prompt."""
    if not can_continue(model.architecture):
        raise UsageError(
            f"{model.architecture.name} does not continue text: that takes a decoder from tokens "
            "to a vocabulary, without cross-attention"
        )
    if not prompts:
        raise UsageError("no prompt was given")
    vocabulary = model.architecture.vocab_size
    limit = model.max_positions
    if max_new_tokens is None and limit is None:
        raise UsageError("max_new_tokens is needed: nothing in this model limits a text")
    check_length(max_new_tokens)
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise UsageError(
                f"prompt {number} is empty, and the tokenizer has no bos to begin with"
            )
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise UsageError(f"prompt {number} has token ids outside of 0 to {vocabulary - 1}")
        wanted = max_new_tokens or 1
        if limit is not None and len(prompt) + wanted > limit:
            raise UsageError(
                f"prompt {number} has {len(prompt)} tokens and {wanted} are to follow, but "
                f"the learned positions end at {limit}; ask for fewer"
            )
    if max_new_tokens is not None:
        return [max_new_tokens] * len(prompts)
    assert limit is not None, "asked for above"
    return [limit - len(prompt) for prompt in prompts]


@torch.no_grad()
def stream(
    model: Model,
    prompts: Prompts,
    *,
    max_new_tokens: int | None,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    stop: Stop | None = None,
    seed: int = 0,
) -> Iterator[dict[int, int]]:
    """Yields after each step the new token of every row that still runs: {row: token}.

    A row ends with ``eos`` (which is yielded), where ``stop(row, token)`` says so, after
    ``max_new_tokens``, or where that is None at the end of the learned positions. The model is put
    in eval mode. Rows do not touch each other: a row of a batch gives the tokens that it gives
    alone, up to rounding.

    Raises:
        UsageError: an empty prompt, what is no id or one outside of the vocabulary, learned
            positions that end, or (NotFiniteError) logits that are not finite.
    """
    histories = _rows_of(prompts)
    limits = _limits(model, histories, max_new_tokens)
    model.eval()
    tokens, real = left_padded(histories, model.embedding.weight.device)
    hidden, state = model.extend_hidden(tokens, model.initial_state(len(histories)), real)
    yield from written(
        model,
        hidden[:, -1:],
        state,
        histories,
        limits,
        sampling=sampling,
        eos=eos,
        stop=stop,
        seed=seed,
    )


def written(
    model: Model,
    last: Tensor,
    state: State,
    histories: list[list[int]],
    limits: Sequence[int],
    *,
    sampling: SamplingConfig | None,
    eos: int | None,
    stop: Stop | None,
    seed: int,
) -> Iterator[dict[int, int]]:
    """What :func:`stream` yields, from the state of rows that have read ``histories``.

    Args:
        last: what the head is to read, b 1 d.
        limits: how many tokens each row may get.
    """
    sampling = sampling or SamplingConfig()
    rows = list(range(len(histories)))
    for step in range(max(limits)):
        logits = model.logits(last)[:, 0]
        by_row = _choose_rows(logits, sampling, histories, rows, seed, step)
        yield by_row
        ended = {
            row
            for row, token in by_row.items()
            if token == eos or step + 1 == limits[row] or (stop is not None and stop(row, token))
        }
        for row, token in by_row.items():
            histories[row].append(token)
        going = [i for i, row in enumerate(rows) if row not in ended]
        if not going:
            return
        if len(going) < len(rows):
            state = reorder(state, torch.tensor(going, device=last.device))
            rows = [rows[i] for i in going]
        following = torch.tensor([[by_row[row]] for row in rows], device=last.device)
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
    prompts: Prompts,
    *,
    max_new_tokens: int | None,
    sampling: SamplingConfig | None = None,
    eos: int | None = None,
    stop: Stop | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """The new tokens of each prompt, without the prompt and without the final ``eos``; see
    :func:`stream`."""
    rows = _rows_of(prompts)
    steps = stream(
        model, rows, max_new_tokens=max_new_tokens, sampling=sampling, eos=eos, stop=stop,
        seed=seed,
    )  # fmt: skip
    return by_rows(steps, len(rows), eos)


def by_rows(steps: Iterable[Mapping[int, int]], count: int, eos: int | None) -> list[list[int]]:
    """The tokens of each of ``count`` rows, without the final ``eos``."""
    results: list[list[int]] = [[] for _ in range(count)]
    for tokens in steps:
        for row, token in tokens.items():
            if token != eos:
                results[row].append(token)
    return results


@torch.no_grad()
def search(
    model: Model,
    prompts: Prompts,
    beams: BeamConfig,
    *,
    max_new_tokens: int | None,
    eos: int | None = None,
) -> list[list[Continued]]:
    """The best continuations of each prompt that a beam search finds, the best first.

    Raises:
        UsageError: see :func:`stream`.
    """
    # All prompts are searched to one length, so that a prompt's result does not hang on others
    # only where ``max_new_tokens`` is told.
    rows = _rows_of(prompts)
    longest = min(_limits(model, rows, max_new_tokens))
    model.eval()
    tokens, real = left_padded(rows, model.embedding.weight.device)
    hidden, state = model.extend_hidden(tokens, model.initial_state(len(rows)), real)
    logits = model.logits(hidden[:, -1:])[:, 0]
    return beam_search(model, logits, state, beams, max_new_tokens=longest, eos=eos)
