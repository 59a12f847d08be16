"""Parameters for any architecture: predicted where it is small enough, grown where it is larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.arch import Architecture, cost
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.errors import UsageError
from windtunnel.hyper.anatomy import Slot, anatomy_of
from windtunnel.hyper.grow import grown, growth_of
from windtunnel.hyper.stored import Stored


@dataclass(frozen=True)
class Prediction:
    """The parameters of one architecture."""

    weights: dict[str, Tensor]
    """By the names of ``named_parameters()``; those that are missing keep their initial values."""
    values: int
    """How many numbers are predicted."""
    params: int
    """How many the architecture has."""
    notes: tuple[str, ...] = ()
    """What was grown or left out, in words."""


def predict(
    stored: Stored, architecture: Architecture, *, tokenizer: Tokenizer | None = None, seed: int = 0
) -> Prediction:
    """The parameters that a hypernetwork gives an architecture.

    Args:
        tokenizer: the architecture's, where it is not the hypernetwork's own.
        seed: of what breaks the symmetry of grown channels.

    Raises:
        UsageError: nothing of the architecture can be predicted.
    """
    large = anatomy_of(architecture)
    limits, layers = stored.network.reach(large)
    growth = growth_of(architecture, limits, layers or stored.n_layer)
    if growth is None:
        raise UsageError(
            f"{architecture.name}: its sizes (d_model {large.d_model}, {large.n_layer} layers) "
            f"cannot be grown from what {stored.name} knows (d_model {stored.d_model}); wider ones "
            "need layers that are alike and no rope, deeper ones layers that add to a stream"
        )
    with torch.no_grad():
        small = stored.network.weights(growth.small)
        weights = grown(small, growth, seed)
        notes = list(growth.notes)
        notes += _fit_rows(weights, stored, large.slots, tokenizer)
    shapes = {slot.name: slot.shape for slot in large.slots}
    wrong = [name for name, value in weights.items() if tuple(value.shape) != shapes[name]]
    assert not wrong, f"wrong shapes: {wrong}"
    params = int(cost(architecture).total.params)
    values = sum(value.numel() for value in weights.values())
    if large.unknown:
        notes.append(f"predicted in part at most: {', '.join(large.unknown)}")
    strange = stored.network.limits.strange(large)
    if strange:
        notes.append(f"never seen by {stored.name}: {', '.join(strange)}")
    missing = sorted({slot.role for slot in large.slots} - {s.role for s in growth.small.slots
                     if s.name in small})  # fmt: skip
    if missing:
        notes.append(f"not known to {stored.name}: {', '.join(missing)}")
    if not values:
        raise UsageError(f"{architecture.name}: {stored.name} knows none of its parameters")
    return Prediction(weights, values, params, tuple(notes))


def _fit_rows(
    weights: dict[str, Tensor], stored: Stored, slots: Sequence[Slot], tokenizer: Tokenizer | None
) -> list[str]:
    """Tables of tokens and positions with as many rows as the architecture has."""
    notes = []
    for slot in slots:
        if slot.name not in weights:
            continue
        value = weights[slot.name]
        if slot.role == "position" and len(value) < slot.shape[0]:
            more = value[-1:].expand(slot.shape[0] - len(value), -1)
            weights[slot.name] = torch.cat([value, more])
            notes.append(f"positions beyond {len(value)} are as the last")
        if slot.role in ("embedding", "head"):
            other = tokenizer is not None and not same_ids(tokenizer, stored.tokenizer)
            if other:
                assert tokenizer is not None
                value = rows_by_pieces(value, stored.tokenizer, tokenizer)
                if slot.role == "embedding":
                    notes.append("tokens of another vocabulary are means of their pieces")
            rows = slot.shape[0]
            if len(value) < rows:  # padded vocabularies: rows that stand for no text
                value = torch.cat(
                    [value, value.mean(0, keepdim=True).expand(rows - len(value), -1)]
                )
            weights[slot.name] = value[:rows].clone()
    return notes


def same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers give each id the same text."""
    if one.vocab_size != other.vocab_size:
        return False
    return all(one.decode([i]) == other.decode([i]) for i in range(one.vocab_size))


def rows_by_pieces(table: Tensor, known: Tokenizer, wanted: Tokenizer) -> Tensor:
    """A table for another vocabulary: the row of a token is the mean of the rows of the pieces that
    the known tokenizer cuts its text into (Gee et al. 2022, arXiv 2402.09977).

    A token that is also known keeps its row: by its bytes, or by its name where it is special.
    """
    mean = table.mean(0)
    same = {piece: number for number, piece in enumerate(known.pieces) if piece}
    special = {number: known.specials.get(name) for name, number in wanted.specials.items()}
    rows = []
    for number, piece in enumerate(wanted.pieces):
        own = same.get(piece) if piece else special.get(number)
        if own is not None:
            rows.append(table[own])
            continue
        pieces = known.encode(wanted.decode([number])) if piece else []
        rows.append(table[list(pieces)].mean(0) if len(pieces) else mean)
    return torch.stack(rows)
