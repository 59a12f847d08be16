"""Beam search: the most probable of many continuations, by their length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from windtunnel.config import Config
from windtunnel.generate.sampling import check_finite
from windtunnel.nn.component import State, reorder
from windtunnel.nn.ops.widest import widest

_NEVER = float("-inf")


class BeamConfig(Config):
    """How a beam search goes."""

    num_beams: int = Field(4, ge=1)
    """Continuations kept of each prompt; 1 is greedy."""
    length_penalty: float = Field(0.6, ge=0)
    """α: a continuation of n tokens counts by log p / ((5 + n)/6)^α (Wu et al. 2016,
    arXiv:1609.08144, eq. 14). 0 prefers short ones, 1 goes by the mean."""

    def penalty(self, length: int) -> float:
        """What log p of so many tokens is divided by."""
        return float(((5 + length) / 6) ** self.length_penalty)


class Continued(NamedTuple):
    """A continuation that a beam search has found."""

    tokens: list[int]
    """Without the final eos."""
    log_probability: float
    """ln p of all of it, in nats, its eos included."""
    score: float
    """With the length's penalty."""


class Decoder(Protocol):
    """What a beam search needs of a model: the next step from its state."""

    def extend(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (b, t, V) after each of the tokens (b, t), and the state after them."""
        ...


@dataclass
class _Prompt:
    """One prompt's search."""

    config: BeamConfig
    longest: int
    done: list[Continued] = field(default_factory=list)
    over: bool = False

    def end(self, tokens: list[int], log_probability: float, length: int) -> None:
        score = log_probability / self.config.penalty(length)
        self.done.append(Continued(tokens, log_probability, score))
        self.done.sort(key=lambda found: -found.score)
        del self.done[self.config.num_beams :]

    def look(self, best_live: float) -> None:
        """Ends the search where no live beam can come before the last of those that are kept: ln p
        only falls, and the longest has the mildest penalty."""
        full = len(self.done) == self.config.num_beams
        reachable = best_live / self.config.penalty(self.longest)
        self.over = best_live == _NEVER or (full and reachable <= self.done[-1].score)


@torch.no_grad()
def beam_search(
    model: Decoder,
    logits: Tensor,
    state: State,
    config: BeamConfig,
    *,
    max_new_tokens: int,
    eos: int | None = None,
) -> list[list[Continued]]:
    """The ``num_beams`` best continuations of each prompt that were found, the best first.

    Args:
        model: goes on from a state whose rows can be picked.
        logits: (b, V) after each prompt.
        state: that of the prompts.
        max_new_tokens: a beam that reaches it ends there, without eos.
        eos: what ends a continuation; None: only the length does.

    Continuations are scored together, so that with ``num_beams`` at least V^max_new_tokens the best
    of all is found. A prompt does not depend on those beside it.

    Raises:
        NotFiniteError: logits that are not finite.
    """
    b, vocabulary = logits.shape
    beams = config.num_beams
    prompts = [_Prompt(config, max_new_tokens) for _ in range(b)]
    rows = torch.arange(b, device=logits.device).repeat_interleave(beams)
    state = reorder(state, rows)
    scores = widest(logits.new_full((b, beams), _NEVER))
    scores[:, 0] = 0.0  # the beams of a prompt begin alike: only one of them counts
    following = logits.repeat_interleave(beams, 0)
    texts: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(b)]
    for length in range(1, max_new_tokens + 1):
        check_finite(following)
        steps = widest(following).log_softmax(-1).view(b, beams, vocabulary)
        totals = (scores[:, :, None] + steps).view(b, beams * vocabulary)
        # Twice as many as beams: as many may end, and still every beam is filled.
        best, places = totals.topk(min(2 * beams, totals.shape[1]), dim=1)
        candidates = zip(prompts, texts, best.tolist(), places.tolist(), strict=True)
        picked = [
            _advance(prompt, own, found, where, vocabulary, eos, length)
            for prompt, own, found, where in candidates
        ]
        texts = [[text for text, _, _ in chosen] for chosen in picked]
        scores = scores.new_tensor([[score for _, score, _ in chosen] for chosen in picked])
        if length == max_new_tokens or all(prompt.over for prompt in prompts):
            break
        state = reorder(state, _rows(picked, beams, logits.device))
        tokens = torch.tensor([[text[-1] if text else 0] for chosen in texts for text in chosen])
        more, state = model.extend(tokens.to(logits.device), state)
        following = more[:, -1]
    return [prompt.done for prompt in prompts]


_Beam = tuple[list[int], float, int]
"""Its tokens, ln p, and the beam that it goes on from."""


def _advance(
    prompt: _Prompt,
    texts: Sequence[list[int]],
    scores: Sequence[float],
    places: Sequence[int],
    vocabulary: int,
    eos: int | None,
    length: int,
) -> list[_Beam]:
    """The beams after one more token, from the candidates, the best first; those that end are
    kept by the prompt."""
    beams, last = prompt.config.num_beams, length == prompt.longest
    chosen: list[_Beam] = []
    if not prompt.over:
        for rank, (score, place) in enumerate(zip(scores, places, strict=True)):
            beam, token = divmod(place, vocabulary)
            if score == _NEVER or len(chosen) == beams:
                break
            if token == eos:
                if rank < beams:
                    prompt.end(texts[beam], score, length)
            elif last:
                prompt.end([*texts[beam], token], score, length)
            else:
                chosen.append(([*texts[beam], token], score, beam))
        prompt.look(max((score for _, score, _ in chosen), default=_NEVER))
    empty: _Beam = (texts[0], _NEVER, 0)
    return chosen + [empty] * (beams - len(chosen))


def _rows(picked: Sequence[Sequence[_Beam]], beams: int, device: torch.device) -> Tensor:
    """The rows of the state that the chosen beams go on from."""
    rows = [i * beams + beam for i, chosen in enumerate(picked) for _, _, beam in chosen]
    return torch.tensor(rows, device=device)
