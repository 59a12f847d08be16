"""What a runner counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Statistics:
    """Sums over the samples so far: of a run, or of one of its stages."""

    steps: int = 0
    """Updates."""
    skipped_steps: int = 0
    """Updates that were not made: the loss or a gradient was not finite, or no token counted."""
    samples: int = 0
    """Read for training."""
    left_out: int = 0
    """Of those, samples whose prompt left no room for any truth."""
    cut: int = 0
    """Of those, samples whose truth lost tokens."""
    tokens: int = 0
    """That counted in training."""
    nats: float = 0.0
    """Of all those tokens."""
    validated_samples: int = 0
    validated_tokens: int = 0
    validated_nats: float = 0.0
    validated_words: float = 0.0
    """Word accuracies of all validated samples, summed."""

    @property
    def loss(self) -> float | None:
        """Nats a token in training; None before the first."""
        return self.nats / self.tokens if self.tokens else None

    @property
    def validation_loss(self) -> float | None:
        """Nats a token in validation."""
        return self.validated_nats / self.validated_tokens if self.validated_tokens else None

    @property
    def word_accuracy(self) -> float | None:
        """1 − edits / words in validation, as a mean over samples."""
        return self.validated_words / self.validated_samples if self.validated_samples else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the means."""
        means = ("loss", "validation_loss", "word_accuracy")
        return {**asdict(self), **{name: getattr(self, name) for name in means}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Statistics:
        """What :meth:`to_dict` gave."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})
