"""What is written in the file of an evaluation. No torch."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator

from windtunnel.config import Config

Split = Literal["in_distribution", "wide", "deep", "left_out", "large"]

Candidate = Literal["default", "gpt2", "gpt2_wide", "torch", "orthogonal", "unigram", "mup"]
CANDIDATES: tuple[Candidate, ...] = get_args(Candidate)
"""Initialisations of which the best is the strong one; see ``inits``."""


class TextConfig(Config):
    """Which documents of the corpus are for what. None may be the hypernetwork's."""

    train: str = Field(pattern=r"^\d*:\d*$")
    """Those that architectures are trained on, such as `24:34`."""
    test: str = Field(pattern=r"^\d*:\d*$")
    """Those that all losses are measured on."""
    tune: str = Field(pattern=r"^\d*:\d*$")
    """Those that learning rates and initialisations are chosen on."""


class EvaluationConfig(Config):
    """An evaluation: which architectures, from which parameters, for how long."""

    name: str = Field("evaluation", min_length=1, max_length=100)
    """What it is called."""
    ghn: str
    """The folder of the hypernetwork's run, relative to this file."""
    others: dict[str, str] = Field(default_factory=dict)
    """Folders of further hypernetworks or rivals by name, with the same tokenizer: `table` (the
    token table alone), `crop` (single trained models), `tiled`, `low_rank`."""
    text: TextConfig
    """The documents."""
    splits: dict[Split, int] = Field(min_length=1)
    """How many architectures of each split are measured."""
    ranking: int = Field(0, ge=0)
    """Further architectures of in_distribution that are trained from the strong initialisation
    alone, and ranked by what is known before: predictions at step 0, log parameters."""
    early: tuple[int, ...] = ()
    """Steps of short trainings that architectures of in_distribution are also ranked by, from the
    strong initialisation and from the hypernetwork; with signs of the first gradient."""
    tune_members: int = Field(2, ge=1)
    """Architectures of each split and kind that rates are tuned on; they are measured nowhere."""
    steps: tuple[int, ...] = (0, 10, 50, 100, 300)
    """Where losses are measured; the last one is the length of training."""
    batch_size: int = Field(16, ge=1)
    """Sequences of an update."""
    first_lr: float = Field(1e-3, gt=0)
    """The first rate that is tried."""
    lr_factor: float = Field(3.0, gt=1)
    """From one rate of the grid to the next."""
    candidates: tuple[Candidate, ...] = Field(CANDIDATES, min_length=1)
    """Initialisations of which the strong one is chosen, for each kind."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Of initial weights and of the order of the text."""
    eval_tokens: int = Field(16_384, ge=1)
    """Targets that a loss is measured on."""

    @field_validator("steps")
    @classmethod
    def _rise(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)) or len(steps) < 2 or steps[0] != 0:
            raise ValueError("steps must rise from 0")
        return steps

    @field_validator("early")
    @classmethod
    def _rise_above_0(cls, early: tuple[int, ...]) -> tuple[int, ...]:
        if list(early) != sorted(set(early)) or min(early, default=1) < 1:
            raise ValueError("steps must rise, and begin above 0")
        return early

    @field_validator("others")
    @classmethod
    def _are_free(cls, others: dict[str, str]) -> dict[str, str]:
        taken = {"strong", "ghn", *CANDIDATES} & others.keys()
        if taken:
            raise ValueError(f"{', '.join(sorted(taken))} is taken; give it another name")
        return others
