"""One whole run in its folder: train, evaluate, log, save, stop when asked, go on from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from windtunnel.errors import RunError, UsageError
from windtunnel.runs import Event, EventLog, RunFolder, code_digest, environment, git_state
from windtunnel.train.accumulate import halve, may_halve
from windtunnel.train.average import ema_weights, result_weights
from windtunnel.train.batch import BatchSource, TokenBatch, TokenLengths
from windtunnel.train.checkpoint import load_newest, save_checkpoint
from windtunnel.train.config import TrainConfig
from windtunnel.train.distributed.parallel import whole_model
from windtunnel.train.distributed.world import ALONE, World
from windtunnel.train.evaluation import Evaluation, evaluate, evaluation_mode, finite
from windtunnel.train.figures import parameter_count, totals, what_it_took
from windtunnel.train.holding import events_of, lock_of, threads
from windtunnel.train.identity import check_same_run
from windtunnel.train.interrupts import Interrupted, Paused, StopRequest
from windtunnel.train.loop import StepInfo, TrainState, create_train_state, train_steps
from windtunnel.train.memory import forget_peak, is_out_of_memory, out_of_memory, peak_memory
from windtunnel.train.precision import computing
from windtunnel.train.restore import Beginning
from windtunnel.train.stages import stage_rows

OnEvent = Callable[[Event], None]
OnStep = Callable[[StepInfo], None]
Samples = Callable[[nn.Module], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class RunParts:
    """What a run is made of, once it is built.

    ``valid`` is gone through at every evaluation, so it must not be an iterator. ``identity`` is
    compared on a resume (``run_identity``). ``facts`` go into the record as they are, such as
    ``arch_digest`` and ``data_fingerprint``. ``samples`` makes the record's texts at the end.
    """

    model: nn.Module
    batches: BatchSource
    valid: Iterable[TokenBatch]
    tokenizer: TokenLengths
    train: TrainConfig
    identity: Mapping[str, Any]
    flops_per_token: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    samples: Samples | None = None
    scores: Callable[[nn.Module], Mapping[str, float]] | None = None
    """Of what the model writes, at each evaluation."""
    world: World = ALONE
    """The processes that train together; the first one writes."""
    beginning: Beginning | None = None


def train_run(
    parts: RunParts,
    folder: RunFolder,
    *,
    resume: bool = False,
    until: int | None = None,
    on_event: OnEvent | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train to the end, or to a signal; the record. With ``until``, to that step at most, where it
    is evaluated and saved; what follows later is the same to the bit.

    Evaluates before the first step, every ``eval_every`` steps and at the end. With ``resume`` the
    run goes on from its newest whole checkpoint (from the start if there is none) and ends with the
    same bits as if it had never stopped; so does the record, but for times and memory.

    Raises:
        Paused: ``until`` is reached, and is not the end.
        Interrupted: on SIGINT, SIGTERM or SIGUSR1, after a checkpoint; its exit code is 130, or 75
            where the same command should be started again.
        UsageError: the run has ended already, has begun and ``resume`` is not set, or its config
            has changed since.
        RunError: another process writes the run, a file cannot be written, or memory is too small.
        CheckpointError: no checkpoint is whole.
        DataError: there is nothing to train or evaluate on.
    """
    world = parts.world
    with lock_of(folder, world) as lock, threads(parts.train.threads):
        if folder.read_record() is not None:
            raise UsageError(f"{folder.path}: this run has ended; its record is final")
        began = folder.read_start()
        if began is not None and not resume:
            raise UsageError(f"{folder.path}: this run has begun; resume it")
        warnings = [] if began is None else check_same_run(began["identity"], parts.identity)
        world.wait()  # nothing is written before all have read
        with events_of(folder, lock) as log, StopRequest() as stop:
            session = _Session.create(parts, folder, log, stop, on_event, on_step)
            session.until = until
            try:
                return session.run(warnings, begun=began is not None)
            except (Interrupted, Paused):
                raise
            except Exception as error:
                explained = world.explained(error)
                with suppress(RunError):  # the disk may be full: then the log stays as it is
                    text = f"{type(explained).__name__}: {' '.join(str(explained).split())}"
                    session.log_event("end", status="failed", error=text)
                if is_out_of_memory(error):
                    size = session.state.progress.micro_batch_size
                    size = size or parts.train.largest_micro_batch
                    raise out_of_memory(str(folder.path), size) from error
                raise explained from error


@dataclass
class _Session:
    """One process's part of a run."""

    parts: RunParts
    folder: RunFolder
    log: EventLog | None
    stop: StopRequest
    on_event: OnEvent | None
    on_step: OnStep | None
    state: TrainState
    evaluations: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """The values of each standing evaluation, by step."""
    saved_step: int = 0
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """What the start event says of the run's origin."""
    until: int | None = None

    @classmethod
    def create(
        cls,
        parts: RunParts,
        folder: RunFolder,
        log: EventLog | None,
        stop: StopRequest,
        on_event: OnEvent | None,
        on_step: OnStep | None,
    ) -> _Session:
        state = create_train_state(
            parts.model, parts.batches, parts.train,
            flops_per_token=parts.flops_per_token, world=parts.world,
        )  # fmt: skip
        forget_peak(state.device)
        return cls(parts, folder, log, stop, on_event, on_step, state)

    def run(self, warnings: Sequence[str], *, begun: bool) -> dict[str, Any]:
        if begun:
            self._resume(warnings)
        else:
            self._start()
        self._evaluate_if_due()
        if self.state.progress.step == self._first_step:
            self._save()  # from here on, the run needs no other one's folder
        self._stop_if_asked()
        for info in train_steps(self.state):
            self._log_step(info)
            self._evaluate_if_due()
            self._save_if_due()
            if self.on_step is not None:
                self.on_step(info)
            self._stop_if_asked()
        return self._finish()

    def log_event(self, kind: str, **values: Any) -> None:
        if self.log is None:  # another process writes
            return
        event = self.log.append(kind, **values)
        if self.on_event is not None:
            self.on_event(event)

    @property
    def _over(self) -> bool:
        return self.state.diverged or self.state.progress.step == self.parts.train.steps

    @property
    def _first_step(self) -> int:
        return self.parts.beginning.step if self.parts.beginning else 0

    def _begin(self, tell: Callable[[str], None]) -> None:
        """The state in which the run begins."""
        if self.parts.beginning is not None:
            self.saved_step = -1
            self.parts.beginning.restore(self.state, tell)

    def _start(self) -> None:
        found: list[str] = []
        self._begin(found.append)
        if self.parts.beginning is not None:
            self.lineage = {"origin": dict(self.parts.beginning.lineage)}
        self.log_event(
            "start",
            key=self.folder.key,
            name=self.folder.name,
            steps=self.parts.train.steps,
            params=parameter_count(self.state),
            device=str(self.state.device),
            identity=dict(self.parts.identity),
            **self.lineage,
            **self._provenance(),
        )
        steps = self.parts.train.steps
        beyond = [step for step in self.parts.train.checkpoint_at if step > steps]
        if beyond:
            found.append(f"train.checkpoint_at: the run has {steps} steps, and none is {beyond}")
        for text in found:
            self.log_event("warning", message=text)

    def _resume(self, warnings: Sequence[str]) -> None:
        found = list(warnings)
        step = load_newest(self.folder.checkpoints, self.state, found.append)
        self.saved_step = step or 0
        if step is None:
            self._begin(found.append)
            found.append("there is no checkpoint yet: the run starts again from its first step")
        # The resume comes first: it supersedes what lies behind the checkpoint.
        self.log_event("resume", **totals(self.state.progress), **self._provenance())
        for text in found:
            self.log_event("warning", message=text)
        self.parts.world.wait()  # until it is written
        began = self.folder.read_start() or {}
        self.lineage = {"origin": began["origin"]} if "origin" in began else {}
        standing = self.folder.read_events()
        self.evaluations = {e.values["step"]: e.values for e in standing if e.kind == "eval"}
        if self.state.compiling is not None:
            self.state.compiling.resume([e.values for e in standing if e.kind == "compile"])

    def _log_step(self, info: StepInfo) -> None:
        self._log_notes()
        if info.skipped and not info.empty:
            self.log_event(
                "nonfinite",
                step=info.step,
                loss=info.loss,
                grad_norm=info.grad_norm,
                what="loss" if not math.isfinite(info.loss) else "gradient",
                in_a_row=self.state.progress.skipped_in_a_row,
                total=self.state.progress.skipped,
            )
        if info.watched is not None:
            self.log_event("watch", step=info.step, **info.watched)
        if info.step == 1 or info.step % self.parts.train.log_every == 0 or self._over:
            self.log_event(
                "step",
                **totals(self.state.progress),
                loss=info.loss,
                lr=info.lr,
                grad_norm=info.grad_norm,
                skipped=info.skipped,
            )

    def _evaluate_if_due(self) -> None:
        step = self.state.progress.step
        scheduled = self._scheduled(step)
        if not (scheduled or step == self.until) or step in self.evaluations:
            return
        with result_weights(self.state), evaluation_mode(self.state.model):
            found = self._evaluation()
            scores = {} if self.parts.scores is None else self.parts.scores(self.state.model)
        self._log_notes()
        if found.unknown and not self.evaluations:
            self.log_event(
                "warning",
                message=f"{found.unknown:,} of {found.tokens:,} validation tokens are characters "
                "that the tokenizer does not know: there are no bits per byte",
            )
        values = {
            **totals(self.state.progress),
            **found.values(),
            **self._of_the_average(),
            **scores,
            **({} if scheduled else {"unscheduled": True}),
        }
        self.evaluations[step] = values
        if (stage := self.parts.train.stage_at(max(0, step - 1))) is not None:
            self.evaluations[step] = values | {"stage": stage[0].name, "stages": self._stages()}
        self.log_event("eval", **self.evaluations[step])

    def _scheduled(self, step: int) -> bool:
        """Whether the run is evaluated here wherever it pauses: what is chosen as best is chosen
        from these evaluations, so that pauses change nothing."""
        often = step % self.parts.train.eval_every == 0 or self._over
        return often or step in (self._first_step, *self.parts.train.borders)

    def _evaluation(self) -> Evaluation:
        """In smaller pieces where memory is too small and the recipe allows it."""
        state, config = self.state, self.parts.train
        while True:
            try:
                with computing(config.precision, state.device):
                    return evaluate(
                        state.model, self.parts.valid, self.parts.tokenizer, state.objective,
                        rows=state.progress.micro_batch_size or None, world=self.parts.world,
                    )  # fmt: skip
            except Exception as error:
                size = state.progress.micro_batch_size or config.largest_micro_batch
                if not may_halve(state, error, size):
                    raise
            halve(state, size)

    def _of_the_average(self) -> dict[str, Any]:
        """How good the average of the weights is, where the recipe has one."""
        if self.state.ema is None:
            return {}
        with ema_weights(self.state):
            found = self._evaluation()
        return {
            "ema_loss": found.loss,
            "ema_perplexity": found.perplexity,
            "ema_bits_per_byte": found.bits_per_byte,
            "ema_accuracy": found.accuracy,
        }

    def _log_notes(self) -> None:
        for note in self.state.notes:
            self.log_event(note.kind, message=note.message, **note.values)
        self.state.notes.clear()

    def _save_if_due(self) -> None:
        if self.parts.train.saves_at(self.state.progress.step) or self._over:
            self._save()

    def _save(self) -> None:
        progress = self.state.progress
        if progress.step == self.saved_step:
            return
        now, _ = peak_memory(self.state.device)
        progress.peak_memory_bytes = max(progress.peak_memory_bytes, now)
        if self.log is not None:
            self.log.sync()  # a checkpoint never knows more than the events before it
        found = self.evaluations.get(progress.step, {})
        path = save_checkpoint(
            self.folder.checkpoints,
            self.state,
            keep=self.parts.train.keep_checkpoints,
            keep_every=self.parts.train.keep_every,
            keep_at=self.parts.train.checkpoint_at,
            validation_loss=None if found.get("unscheduled") else finite(found.get("loss")),
            guard=None if self.log is None else self.log.check,
        )
        self.saved_step = progress.step
        self.log_event("checkpoint", step=progress.step, folder=path.name)

    def _stop_if_asked(self) -> None:
        if self._over:
            return
        signum = self.parts.world.largest(self.stop.signum or 0)  # one is asked: all stop
        step = self.state.progress.step
        paused = self.until is not None and step >= self.until
        if not signum and not paused:
            return
        self._save()
        if paused:
            self.log_event("end", status="paused", step=step)
            raise Paused(f"{self.folder.path}: paused after step {step}; resume it to go on")
        self.log_event("end", status="interrupted", step=step, signal=signum)
        raise Interrupted(
            f"{self.folder.path}: interrupted after step {step} of {self.parts.train.steps}; "
            "nothing is lost, resume it to go on",
            signum,
        )

    def _finish(self) -> dict[str, Any]:
        self._save()
        status = "diverged" if self.state.diverged else "finished"
        self.log_event("end", status=status, step=self.state.progress.step)
        record = self._record(status)
        if self.log is not None:
            self.log.sync()
            self.folder.write_record(record, guard=self.log.check)
        self.parts.world.wait()
        written = self.folder.read_record()
        assert written is not None
        return written

    def _record(self, status: str) -> dict[str, Any]:
        progress, parts = self.state.progress, self.parts
        took = what_it_took(self.state)  # before samples, whose memory is not training's
        known = [
            found for found in self.evaluations.values()
            if finite(found["loss"]) is not None and not found.get("unscheduled")
        ]  # fmt: skip
        with result_weights(self.state), whole_model(self.state.model) as model:
            samples: Sequence[Mapping[str, Any]] = ()
            if parts.samples is not None and self.log is not None:
                with evaluation_mode(model):
                    samples = parts.samples(model)
        return {
            "key": self.folder.key,
            "name": self.folder.name,
            "status": status,
            "seed": parts.train.seed,
            **parts.facts,
            **self.lineage,
            **({"stages": self._stages()} if parts.train.stages else {}),
            **({} if self.state.compiling is None else {"compile": self.state.compiling.told}),
            "final": self.evaluations[progress.step],
            "best": min(known, key=lambda e: (e["loss"], e["step"]), default=None),
            **took,
            **self._provenance(),
            "code_digest": code_digest(),
            "samples": list(samples),
            **({"processes": parts.world.size} if parts.world.size > 1 else {}),
        }

    def _stages(self) -> list[dict[str, Any]]:
        return stage_rows(self.parts.train, self.state.progress, self.evaluations)

    def _provenance(self) -> dict[str, Any]:
        return {"environment": environment(torch.get_num_threads()), "git": git_state()}
