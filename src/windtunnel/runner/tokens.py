"""A model's own tokenizer, whichever it is: tiktoken's or one of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.data.forms import DecoderForm, Encoded, SampleRows
from windtunnel.data.samples import Marks
from windtunnel.errors import UsageError


@dataclass(frozen=True)
class Codec:
    """Text to ids and back, and the id that ends a text."""

    tokenizer: Any
    end: int

    @classmethod
    def of(cls, tokenizer: Any) -> Codec:
        """Raises UsageError where it has no id for the end of a text."""
        end = getattr(tokenizer, "eot_token", None)
        if end is None:
            end = getattr(tokenizer, "eos", None)
        if end is None:
            raise UsageError("the tokenizer has no end-of-text token (eot_token or eos)")
        return cls(tokenizer, int(end))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: whatever it spells, nothing in it is a special token."""
        plain = getattr(self.tokenizer, "encode_ordinary", None)
        return list(self.tokenizer.encode(text) if plain is None else plain(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without the end."""
        return str(self.tokenizer.decode([i for i in ids if i != self.end]))

    def encoded(self, sample: dict[str, Any]) -> Encoded:
        """A sample's prompt and truth."""
        for key in ("prompt", "truth"):
            if key not in sample:
                raise UsageError(f"a sample needs the text {key!r}; this one has {sorted(sample)}")
            if not isinstance(sample[key], str):
                raise UsageError(f"a sample's {key!r} must be a text, not {sample[key]!r:.60}")
        prompt, truth = self.encode(sample["prompt"]), self.encode(sample["truth"])
        return Encoded(np.array(prompt, dtype=np.int64), np.array(truth, dtype=np.int64))

    def form(self, max_len: int, *, loss_on_all: bool) -> DecoderForm:
        """How samples become rows of at most ``max_len`` inputs."""
        return DecoderForm(Marks(self.end, self.end), max_len, loss_on_all=loss_on_all)


def check_samples(samples: Any) -> None:
    """Raises UsageError where these are no list of mappings."""
    listed = isinstance(samples, Sequence) and not isinstance(samples, str)
    if not listed or not all(isinstance(sample, Mapping) for sample in samples):
        raise UsageError(
            "samples must be a list of mappings with 'prompt' and 'truth', "
            f"not {type(samples).__name__} {samples!r:.60}"
        )


@dataclass(frozen=True)
class Rows:
    """Samples as rows, and what became of those that did not fit."""

    rows: SampleRows | None
    """None where no sample is left."""
    kept: tuple[int, ...]
    """The places of the samples that have a row."""
    cut: int
    """How many lost the end of their truth (never its end mark)."""
    starts: tuple[int, ...] = ()
    """Of each kept sample, the place in its row at which its truth is predicted first."""
    truths: tuple[str, ...] = ()
    """The truths of the kept samples, as far as their rows hold them."""

    @property
    def targets(self) -> int:
        """Tokens that count."""
        return 0 if self.rows is None else int((self.rows.targets >= 0).sum())


def rows_of(codec: Codec, samples: Sequence[dict[str, Any]], form: DecoderForm) -> Rows:
    """``[end] prompt truth [end]`` of each sample whose prompt leaves room for some truth."""
    encoded = [codec.encoded(sample) for sample in samples]
    p = np.array([len(sample.prompt) for sample in encoded], dtype=np.int64)
    q = np.array([len(sample.truth) for sample in encoded], dtype=np.int64)
    kept = tuple(int(place) for place in np.flatnonzero(form.targets(p, q)))
    whole = form.whole(p, q)
    truths = []
    for place in kept:
        held = encoded[place].truth[: max(0, form.seq_len - int(p[place]) - 1)]
        truths.append(samples[place]["truth"] if whole[place] else codec.decode(held.tolist()))
    return Rows(
        rows=form.batch([encoded[place] for place in kept]) if kept else None,
        kept=kept,
        cut=sum(not whole[place] for place in kept),
        starts=tuple(int(p[place]) for place in kept),
        truths=tuple(truths),
    )
