"""What a model is trained to do: objectives, one file each. Their configs need no torch."""

from windtunnel.train.objectives.config import (
    AutoConfig,
    ClassificationConfig,
    DiffusionConfig,
    MaskedTokenConfig,
    NextTokenConfig,
    ObjectiveConfig,
    Seq2SeqConfig,
    chosen,
)

__all__ = [
    "AutoConfig",
    "ClassificationConfig",
    "DiffusionConfig",
    "MaskedTokenConfig",
    "NextTokenConfig",
    "ObjectiveConfig",
    "Seq2SeqConfig",
    "chosen",
]
