"""The base of runners: making a model, training it, saving it, going on."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from windtunnel.config import Document, decode
from windtunnel.errors import CheckpointError, RunError, UsageError
from windtunnel.generate.scores import word_accuracy
from windtunnel.runner.checkpoint import read_checkpoint, write_checkpoint
from windtunnel.runner.folder import standing
from windtunnel.runner.model import MBase
from windtunnel.runner.optimizer_state import (
    Wishes,
    restore_optimizer,
    restore_schedule,
    result_weights,
)
from windtunnel.runner.pieces import Answer, Learning, Reading, Sample, cut
from windtunnel.runner.statistics import Statistics
from windtunnel.runner.tokens import check_samples
from windtunnel.train.config import TrainConfig
from windtunnel.train.loop import resolve_device
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.optimizers.together import build_optimizer
from windtunnel.train.precision import exact_float32

logger = logging.getLogger(__name__)
DEFAULT_BLOCKS, DEFAULT_LR = 6, 6e-4
OPTIMIZER_ARGUMENTS = ("optimizer", "lr", "weight_decay", "secondary_optimizer")
"""Parameters of ``initialize`` that the optimizer gets, and not the model."""


class LMRunnerBase(ABC):
    """Trains a model on prompt/truth pairs; see the module's page for the names.

    Args:
        max_batch_size: samples computed at once; a larger batch is cut, and the gradient is the
            same to rounding. Where memory does not suffice it is halved, and that is said.
        on_note: is told what a person should know; also logged, and kept in ``notes``.
        seed: of dropout, and of what parts of a model draw after an update.
    """

    def __init__(
        self,
        max_batch_size: int = 25,
        on_note: Callable[[str], None] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(max_batch_size, int) or max_batch_size < 1:
            raise UsageError(f"max_batch_size must be a whole number ≥ 1, not {max_batch_size!r}")
        self.max_batch_size, self.seed = max_batch_size, seed
        self.notes: list[str] = []
        self._on_note = on_note
        self._model: MBase | None = None
        self.optimizer: Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self.model_args: dict[str, Any] = {}
        self.optimizer_args: dict[str, Any] = {}
        self.current_step = "train"
        """The stage of a plan; its statistics are kept apart."""
        self.stats = Statistics()
        self.step_stats: dict[str, Statistics] = {}

    @property
    def model(self) -> MBase:
        """Raises UsageError before :meth:`initialize`."""
        if self._model is None:
            raise UsageError("this runner has no model yet: call initialize first")
        return self._model

    def initialize(
        self,
        device: str,
        locations: Sequence[str | Path] | str | Path | None = None,
        for_train: bool = True,
        load_optimizer: bool = True,
        num_blocks: int = DEFAULT_BLOCKS,
        *,
        strict: bool = True,
        **parameters: Any,
    ) -> None:
        """Makes the model on a device, anew or as it was saved.

        Args:
            device: auto, cpu, cuda, cuda:N or mps.
            locations: a checkpoint, or several of which the first that is there and whole is used.
            for_train: with an optimizer; otherwise the model is put in eval mode.
            load_optimizer: whether the optimizer goes on as it was.
            num_blocks: layers; a checkpoint's own number stands where this is left at 6.
            strict: a weight that is missing or unexpected is an error; otherwise it is told.
            parameters: go to the model, but for those of the optimizer: ``optimizer``, ``lr``,
                ``weight_decay``, ``secondary_optimizer``.

        Raises:
            UsageError, CheckpointError: with what is missing, unexpected or does not fit.
        """
        place = resolve_device(device)
        exact_float32()
        saved = None if locations is None else self._first_whole(locations)
        known = {} if saved is None else dict(saved["model_args"])
        if num_blocks != DEFAULT_BLOCKS or "num_blocks" not in known:
            parameters["num_blocks"] = num_blocks
        of_model = {k: v for k, v in parameters.items() if k not in OPTIMIZER_ARGUMENTS}
        made = self._made(place, saved, known, strict, of_model)
        self._model, self.model_args = made[0], dict(made[1])
        missing, unexpected = (list(names) for names in (made[2:4] or ((), ())))
        self._tell_misfits(missing, unexpected)
        if saved is not None:
            self._recall(saved)
        if not for_train:
            self.model.eval()
            return
        self._make_optimizer(
            place, saved if load_optimizer else None, missing, unexpected, parameters
        )

    @abstractmethod
    def _construct_model(
        self,
        device: Any,
        model_weights: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
        strict: bool = False,
        **parameters: Any,
    ) -> tuple[Any, ...]:
        """The model on the device and the arguments that make it again; where it has loaded
        ``model_weights`` also the names of missing and of unexpected ones."""

    def construct_optimizer(
        self,
        device: Any,
        model: MBase,
        missing: Sequence[str] | None = None,
        unexpected: Sequence[str] | None = None,
        load_optimizer: bool = True,
        optimizer_weights: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> tuple[Optimizer, dict[str, Any], LRScheduler | None]:
        """The optimizer, the arguments that make it again, and a schedule or None.

        Adagrad at 6e-4 without decay, unless ``optimizer`` (a name), ``lr``, ``weight_decay`` or
        ``secondary_optimizer`` (a name, for parameters whose ``secondary_optimizer`` is True) say
        otherwise. Its saved state is put in afterwards, where it fits.
        """
        arguments: dict[str, Any] = {"optimizer": "adagrad", "lr": DEFAULT_LR, "weight_decay": 0.0}
        arguments |= {k: parameters[k] for k in OPTIMIZER_ARGUMENTS if k in parameters}
        config = decode(Document(arguments, source="initialize"), TrainConfig)
        moved = {n: p for n, p in model.named_parameters() if p.requires_grad}
        tagged = [n for n, p in moved.items() if getattr(p, "secondary_optimizer", False)]
        if tagged and config.secondary_optimizer is None:
            config = config.replace(secondary_optimizer=config.optimizer)
        optimizer = build_optimizer(config, moved, tagged)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group.get("lr_factor", 1.0)
        return optimizer, arguments, None

    def train(self, prompts: Sequence[Sample], actual_samples_read: int | None = None) -> Answer:
        """One update of the weights from all the samples, however they are cut.

        Args:
            prompts: mappings with ``prompt`` and ``truth``.
            actual_samples_read: what is counted as read; as many as there are prompts if left out.

        A batch in which no token counts, or whose loss or gradient is not finite, changes no
        weight; ``stats`` counts it.
        """
        model, optimizer = self.model, self.optimizer
        if optimizer is None:
            raise UsageError("this runner was initialized with for_train=False")
        check_samples(prompts)
        model.train()
        found = model.rows(prompts)
        read = len(prompts) if actual_samples_read is None else actual_samples_read
        done = self.stats.steps + self.stats.skipped_steps
        learning = Learning(model, optimizer, found.targets, self.seed, done)
        texts, nats = self._in_pieces(prompts, learning)
        loss = nats / found.targets if found.targets else math.nan
        whole = self._take_step(optimizer, learning, loss)
        if found.targets and not whole:
            self._note(f"the loss {loss} or a gradient is not finite: the update is skipped")
        for stats in self._counters():
            stats.steps += whole
            stats.skipped_steps += not whole
            stats.samples += read
            stats.left_out += len(prompts) - len(found.kept)
            stats.cut += found.cut
            if whole:
                stats.tokens += found.targets
                stats.nats += nats
        return texts, torch.tensor(loss), found.targets

    @torch.no_grad()
    def validate(self, prompts: Sequence[Sample], actual_samples_read: int | None = None) -> Answer:
        """The loss and the texts of samples, without gradients and without dropout."""
        check_samples(prompts)
        model, was = self.model, self.model.training
        model.eval()
        found = model.rows(prompts)
        try:
            with result_weights(self.optimizer):
                texts, nats = self._in_pieces(prompts, Reading(model))
        finally:
            model.train(was)
        kept = found.kept
        words = sum(
            word_accuracy([texts[place].removeprefix(prompts[place]["prompt"])], [truth])
            for place, truth in zip(kept, found.truths, strict=True)
        )
        for stats in self._counters():
            stats.validated_samples += len(kept)
            stats.validated_tokens += found.targets
            stats.validated_nats += nats
            stats.validated_words += words
        loss = nats / found.targets if found.targets else math.nan
        return texts, torch.tensor(loss), found.targets

    def generate(self, prompts: Sequence[str], max_len: int | None = None) -> list[str]:
        """What follows each prompt; see :meth:`MBase.generate_prompts`."""
        if isinstance(prompts, str) or not all(isinstance(text, str) for text in prompts):
            raise UsageError(f"prompts must be a list of texts, not {prompts!r:.60}")
        with result_weights(self.optimizer):
            return self.model.generate_prompts([{"prompt": text} for text in prompts], max_len)

    def save(self, location: str | Path, prod_save: bool = False) -> None:
        """Writes a checkpoint; with ``prod_save`` only what is needed to generate.

        Its weights are those that :meth:`validate` and :meth:`generate` use.

        Raises:
            UsageError: something else stands there.
            RunError: it cannot be written; what was there is as it was.
        """
        state = {
            "model_args": self.model_args,
            "optimizer_args": {} if prod_save else self.optimizer_args,
            "current_step": self.current_step,
            "stats": self.stats.to_dict(),
            "step_stats": {name: stats.to_dict() for name, stats in self.step_stats.items()},
        }
        optimizer = None if prod_save else self.optimizer
        with result_weights(self.optimizer):
            write_checkpoint(Path(location), self.model, state, optimizer, self.scheduler)

    def _take_step(self, optimizer: Optimizer, learning: Learning, loss: float) -> bool:
        """Moves the weights, unless the loss or a gradient is not finite; whether it did."""
        if not math.isfinite(loss) or not _finite_gradients(optimizer):
            learning.forget()
            return False
        optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        learning.updated()
        optimizer.zero_grad(set_to_none=True)
        return True

    def _in_pieces(self, prompts: Sequence[Sample], reading: Reading) -> tuple[list[str], float]:
        """The texts of all samples and their summed loss in nats; where memory runs out all begins
        again with pieces half as large."""
        while True:
            pieces = cut(prompts, self.max_batch_size)
            texts: list[str] = []
            nats = 0.0
            try:
                reading.begin(pieces)
                for number, piece in enumerate(pieces):
                    written, loss, count = reading.piece(number, piece)
                    texts += written
                    if count:
                        nats += float(loss) * count
                return texts, nats
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reading.forget()
                self._halve(min(self.max_batch_size, len(prompts)), error)

    def _halve(self, size: int, error: Exception) -> None:
        if size <= 1:
            raise RunError("out of memory with one sample at a time") from error
        self.max_batch_size = size // 2
        self._note(
            f"out of memory with {size} samples at a time; from here on {self.max_batch_size} "
            "(the gradient stays the same)"
        )

    def _first_whole(self, locations: Sequence[str | Path] | str | Path) -> dict[str, Any]:
        wanted = [locations] if isinstance(locations, str | Path) else list(locations)
        problems = []
        for location in wanted:
            try:
                found = read_checkpoint(location)
            except CheckpointError as error:
                problems.append(str(error))
                if len(wanted) > 1:
                    self._note(f"passed over: {error}")
                continue
            if standing(Path(location)) != Path(location):
                self._note(f"{location}: a save was killed there: this is the one before it")
            return found
        raise CheckpointError("; ".join(problems) or "no location was given")

    def _made(
        self,
        device: torch.device,
        saved: Mapping[str, Any] | None,
        known: Mapping[str, Any],
        strict: bool,
        parameters: Mapping[str, Any],
    ) -> tuple[Any, ...]:
        weights = None if saved is None else saved["model"]
        try:
            return self._construct_model(
                device, model_weights=weights, model_args=dict(known), strict=strict, **parameters
            )
        except RuntimeError as error:  # torch names the weights that are missing or unexpected
            if weights is None or is_out_of_memory(error):
                raise
            raise CheckpointError(" ".join(str(error).split())) from error

    def _tell_misfits(self, missing: Sequence[str], unexpected: Sequence[str]) -> None:
        for names, what in ((missing, "missing in"), (unexpected, "unexpected in")):
            if names:
                self._note(f"{what} the checkpoint: {', '.join(names)}")

    def _recall(self, saved: Mapping[str, Any]) -> None:
        self.current_step = saved["current_step"]
        self.stats = Statistics.from_dict(saved["stats"])
        stages = saved["step_stats"].items()
        self.step_stats = {name: Statistics.from_dict(stats) for name, stats in stages}

    def _make_optimizer(
        self,
        device: torch.device,
        saved: Mapping[str, Any] | None,
        missing: Sequence[str],
        unexpected: Sequence[str],
        parameters: Mapping[str, Any],
    ) -> None:
        state = None if saved is None else saved["optimizer"]
        known = {} if saved is None else saved["optimizer_args"]
        optimizer, arguments, scheduler = self.construct_optimizer(
            device, self.model, missing=missing, unexpected=unexpected,
            load_optimizer=state is not None, optimizer_weights=state, **{**known, **parameters},
        )  # fmt: skip
        self.optimizer, self.optimizer_args = optimizer, dict(arguments)
        # The guide's own example leaves the schedule open with an ellipsis.
        self.scheduler = scheduler if hasattr(scheduler, "step") else None
        if saved is None:
            return
        if state is None:
            self._note("the checkpoint has no optimizer: it starts clean")
            return
        given = {k: v for k, v in parameters.items() if k in OPTIMIZER_ARGUMENTS}
        self._go_on(optimizer, saved, Wishes.of(given, known))

    def _go_on(self, optimizer: Optimizer, saved: Mapping[str, Any], wishes: Wishes) -> None:
        """Lets a new optimizer and its schedule go on as they were saved."""
        state = saved["optimizer"]
        going, notes = restore_optimizer(
            self.model, optimizer, state,
            {name: value.shape for name, value in saved["model"].items()},
            wishes, scheduled=self.scheduler is not None,
        )  # fmt: skip
        told = restore_schedule(self.scheduler, optimizer, state["scheduler"] if going else None)
        for text in [*wishes.notes(), *notes, *([told] if told else [])]:
            self._note(text)

    def _counters(self) -> Iterator[Statistics]:
        yield self.stats
        yield self.step_stats.setdefault(self.current_step, Statistics())

    def _note(self, text: str) -> None:
        self.notes.append(text)
        logger.warning(text)
        if self._on_note is not None:
            self._on_note(text)


def _finite_gradients(optimizer: Optimizer) -> bool:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None)
