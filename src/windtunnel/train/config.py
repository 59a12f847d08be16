"""How a model is trained: the ``train:`` part of a run's file. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from windtunnel.config import Choice, Config
from windtunnel.train.group_config import EmaConfig, GroupConfig, MupConfig
from windtunnel.train.objectives.config import AutoConfig, ObjectiveConfig
from windtunnel.train.optimizers.config import AdamWConfig, OptimizerConfig, ScheduleFreeConfig
from windtunnel.train.schedule_config import ScheduleConfig, ScheduleType
from windtunnel.train.stage_config import StageConfig

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
DEVICES = "auto, cpu, cuda, cuda:0, mps"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _named(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _decay(value: Any) -> Any:
    return {"decay": float(value)} if isinstance(value, float | int) else value


def _device(name: str) -> str:
    if not DEVICE.fullmatch(name):
        raise ValueError(f"{name!r} is no device; allowed: {DEVICES}")
    return name


class TrainConfig(Config):
    """The recipe of one run.

    >>> TrainConfig(steps=100, schedule="linear").schedule.type
    'linear'
    """

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {
            "objective",
            "keep_every",
            "checkpoint_at",
            "optimizer",
            "secondary_optimizer",
            "groups",
            "mup",
            "ema",
        }
        | {
            "watch_every",
            "activation_checkpointing",
            "loss_chunk",
            "distributed",
            "processes",
            "stages",
            "compile",
            "scores",
            "score_samples",
        }
    )

    objective: Annotated[ObjectiveConfig, Choice("objective")] = AutoConfig()
    """What is learned: next_token, masked_token or seq2seq; auto: what suits the architecture."""
    steps: int = Field(default=1000, gt=0, le=10**12)
    """Updates of the weights."""
    batch_size: int = Field(default=32, gt=0)
    """Sequences in one update."""
    seq_len: int = Field(default=256, gt=0)
    """Tokens in one sequence; with learned positions at most the architecture's max_seq_len."""
    micro_batch_size: Count | Literal["auto"] | None = None
    """Sequences computed at once: a batch is cut into pieces of at most this size to save memory.
    The gradient is that of the whole batch. None: the batch in one piece; auto: in one piece, or in
    halves, quarters, … where memory is too small."""
    lr: Positive = 1e-3
    """The highest learning rate."""
    schedule: Annotated[
        ScheduleConfig,
        BeforeValidator(
            _named,
            json_schema_input_type=ScheduleType | ScheduleConfig,
        ),
    ] = ScheduleConfig()
    """The learning rate over the steps."""
    stages: tuple[StageConfig, ...] = ()
    """A plan: parts of the run with data, batch and schedule of their own, one after the other."""
    optimizer: Annotated[OptimizerConfig, Choice("optimizer", "adamw")] = AdamWConfig()
    """What moves the weights."""
    secondary_optimizer: Annotated[OptimizerConfig, Choice("optimizer")] | None = None
    """What moves the parameters that ask for it, and the groups that name it. None: as the rest."""
    groups: tuple[GroupConfig, ...] = ()
    """Rules for parameters by name: learning rate, decay, frozen, optimizer."""
    mup: MupConfig | None = None
    """Rates and initial weights by muP, so that the best `lr` is the same at every width."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Of matrices, times the learning rate; not of norms, biases, vectors, embeddings."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW: how long the averages of the gradient and of its square remember."""
    eps: Positive = 1e-8
    """AdamW: added to the root of the averaged square."""
    clip: Positive | None = 1.0
    """The gradient's norm is cut to this. None: never."""
    ema: (
        Annotated[EmaConfig, BeforeValidator(_decay, json_schema_input_type=float | EmaConfig)]
        | None
    ) = None
    """An average of the weights, evaluated and saved beside them. None: there is none."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the initial weights, the order of the data and dropout."""
    eval_every: int = Field(default=100, gt=0)
    """Steps between evaluations; there is one before the first step and one at the end besides."""
    eval_tokens: int | None = Field(default=100_000, gt=0)
    """Tokens of the validation split to evaluate on, always the same. None: the whole split."""
    scores: tuple[Literal["exact_match", "word_accuracy", "bleu", "chrf"], ...] = ()
    """Scores of the likeliest texts for validation prompts, at each evaluation; pairs only."""
    score_samples: int = Field(default=32, gt=0)
    """Validation pairs that are written and scored, evenly spread over them."""
    checkpoint_every: int = Field(default=250, gt=0)
    """Steps between checkpoints; there is one at the end and one on an interrupt besides."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Checkpoints to keep: the newest ones; that of the best validation loss is kept besides."""
    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints of steps that are multiples of this are kept for good. None: none are."""
    checkpoint_at: tuple[Count, ...] = ()
    """Steps after which there is a checkpoint besides, kept for good: where other runs begin."""
    log_every: int = Field(default=10, gt=0)
    """Steps between `step` events; the first and the last step are logged besides."""
    watch_every: int | None = Field(default=None, gt=0)
    """Steps between `watch` events: norms of gradients, weights and updates by part of the model,
    sizes of activations by layer. None: never."""
    precision: Literal["float32", "bfloat16", "autocast", "float16"] = "float32"
    """bfloat16: computes with bfloat16 copies of float32 weights; autocast: torch chooses for each
    operation between bfloat16 and float32; float16: the same with float16 and a scaled loss."""
    activation_checkpointing: bool = False
    """Whether each layer keeps its input alone and is computed again in the backward."""
    loss_chunk: Count | Literal["auto"] | None = None
    """The logits of so many tokens exist at once. None: those of all; auto: where it pays."""
    compile: Literal["off", "on", "auto"] = "off"
    """Whether training steps are compiled by torch.compile. auto: where a measurement during the
    run's first steps says that it pays back."""
    distributed: Literal["ddp", "fsdp"] | None = None
    """Several processes under torchrun: each holds the whole model (ddp) or a part of it (fsdp)."""
    processes: Count = 1
    """So many processes train a run of a study together, under torchrun; needs `distributed`."""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:N or mps."""
    threads: int | None = Field(default=None, gt=0, le=4096)
    """Processor threads to compute with. None: what torch chooses, all cores as a rule."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.processes > 1 and self.distributed is None:
            raise ValueError(
                f"processes: {self.processes} need `distributed`, which says how they share the "
                "run: ddp or fsdp"
            )
        if self.scores and self.distributed is not None:
            raise ValueError("scores are written by one process alone; leave out `distributed`")
        if self.precision == "float16" and self.loss_chunk is not None:
            raise ValueError(
                "loss_chunk computes gradients before the loss can be scaled, so not with "
                "precision float16; choose autocast, or leave loss_chunk out"
            )
        if self.micro_batch_size == "auto" and self.distributed is not None:
            raise ValueError(
                "micro_batch_size auto is found by one process; give a number where the run is "
                "distributed"
            )
        if self.compile != "off":
            self._check_compile()
        if self.largest_micro_batch > self.largest_batch:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) must be at most "
                f"batch_size ({self.batch_size})"
            )
        if self.ema is not None and isinstance(self.optimizer, ScheduleFreeConfig):
            raise ValueError("ema: schedule_free_adamw keeps an average of its own; give one")
        if self.stages:
            self._check_stages()
        in_use = not self.stages or any(stage.schedule is None for stage in self.stages)
        misfit = self.schedule.misfit(self.steps) if in_use and self.settled else None
        if misfit is not None:
            raise ValueError(misfit)
        return self

    def _check_compile(self) -> None:
        against = {
            "activation_checkpointing": "recomputes layers in a way that torch does not compile",
            "watch_every": "looks into layers, and compiled ones cannot be looked into",
            "distributed": "has not been worked out for compiled steps",
        }
        for key, why in against.items():
            if getattr(self, key):
                raise ValueError(f"{key} {why}; set compile: off, or leave {key} out")

    def _check_stages(self) -> None:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have one name: {', '.join(names)}")
        steps = [stage.known_steps(self.batch_size) for stage in self.stages]
        known = sum(count or 0 for count in steps)
        written = "steps" in self.model_fields_set
        if not self.settled:
            if written and self.steps != type(self).model_fields["steps"].default:
                raise ValueError("leave steps out: the stages say how long the run is")
        elif self.steps != known:
            if written:
                raise ValueError(f"leave steps ({self.steps}) out: the stages have {known}")
            object.__setattr__(self, "steps", known)  # what follows from the stages
        for stage, count in zip(self.stages, steps, strict=True):
            misfit = stage.schedule.misfit(count) if stage.schedule and count else None
            if misfit is not None:
                raise ValueError(f"stage {stage.name}: {misfit}")

    def with_stages(self, stages: Sequence[StageConfig]) -> Self:
        """A copy with other stages, and the steps that they have."""
        kept = type(self).model_fields.keys() - {"steps"}
        values = {name: getattr(self, name) for name in kept}
        return type(self)(**(values | {"stages": tuple(stages)}))

    @property
    def settled(self) -> bool:
        """Whether the number of steps is known without the data."""
        return all(stage.known_rows(self.batch_size) is not None for stage in self.stages)

    def saves_at(self, step: int) -> bool:
        """Whether there is a checkpoint after so many steps."""
        return step % self.checkpoint_every == 0 or step in self.checkpoint_at

    def stage_at(self, step: int) -> tuple[StageConfig, int] | None:
        """The stage of the update number ``step``, counted from 0, and its first update; None
        without stages."""
        first = 0
        for stage in self.stages:
            count = stage.known_steps(self.batch_size) or 0
            if step < first + count or stage is self.stages[-1]:
                return stage, first
            first += count
        return None

    @property
    def borders(self) -> tuple[int, ...]:
        """The steps after which each stage is over."""
        steps = [stage.known_steps(self.batch_size) or 0 for stage in self.stages]
        return tuple(accumulate(steps))

    @property
    def batch_rows(self) -> tuple[int, ...]:
        """The sizes that batches have: those of stages, and of their last batches."""
        sizes = [
            (stage.batch_size or self.batch_size, stage.known_rows(self.batch_size) or 0)
            for stage in self.stages
        ]
        found = [n for size, rows in sizes for n in (min(size, rows), rows % size) if n]
        return tuple(found) or (self.batch_size,)

    @property
    def largest_batch(self) -> int:
        """Sequences of the largest update."""
        sizes = [stage.batch_size or self.batch_size for stage in self.stages]
        return max(sizes, default=self.batch_size)

    @property
    def warmup_steps(self) -> int:
        """Steps below the highest learning rate at the start."""
        return self.schedule.steps_of(self.schedule.warmup, self.steps)

    @property
    def decay_steps(self) -> int:
        """wsd: steps of the final decay, at least 1; 0 for other schedules."""
        return self.schedule.decay_steps(self.steps)

    @property
    def largest_micro_batch(self) -> int:
        """Sequences computed at once, as far as it is known before the run."""
        size = self.micro_batch_size
        return size if isinstance(size, int) else self.largest_batch

    @property
    def tokens(self) -> int:
        """Tokens of the whole run, for rows that are full."""
        rows = [stage.known_rows(self.batch_size) or 0 for stage in self.stages]
        return (sum(rows) if rows else self.steps * self.batch_size) * self.seq_len
