"""A search as a sequence of rounds: batches asked, trained to each rung, judged; then confirmed."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from windtunnel.config import digest
from windtunnel.errors import StudyError
from windtunnel.study.arms import Ground, as_arm, plain_plan
from windtunnel.study.execute import says_out_of_memory
from windtunnel.study.plan import Arm, Plan
from windtunnel.study.planning import recipe_notes
from windtunnel.study.rounds import Recall, Round
from windtunnel.study.search.gate import (
    Room,
    candidate,
    costs_of,
    make_trial,
    pass_gate,
    smaller_micro_batch,
)
from windtunnel.study.search.knob import Params
from windtunnel.study.search.pareto import pareto_front
from windtunnel.study.search.prior import Prior, first_points
from windtunnel.study.search.pruning import Judged, go_on, rungs_of
from windtunnel.study.search.result import search_result
from windtunnel.study.search.sampling import Asker
from windtunnel.study.search.space import Search, same_point
from windtunnel.study.search.trial import Book, Gate, Trial
from windtunnel.study.tune import TUNING_SEED
from windtunnel.train.run_config import LoadedRun

KIND, CONFIRM = "search", "confirm"
"""The kinds of its rounds."""
BASE = "file"
"""The arm of the file as it stands."""

Script = Generator[Plan, Round, None]


class Searching:
    """The inquiry of ``search``.

    Rounds: a batch of trials to the first rung, its survivors to the next, …, to the end; the next
    batch; last the best ones and the file as it stands, on seeds that no trial has seen.

    Args:
        base: the run's file.
        book: where what is asked is kept; what stands in it already is not asked anew.
        memory_bytes: what a run's process may take, enforced; None: what is free now, by
            prediction alone.
        prior: what ranks architectures, so that the best are asked first; None: the sampler alone.
        on_notice: told, in words, of what is refused or corrected.
    """

    kind = KIND

    def __init__(
        self,
        search: Search,
        base: LoadedRun,
        *,
        ground: Ground,
        book: Book,
        memory_bytes: int | None = None,
        prior: Prior | None = None,
        on_notice: Any = lambda text: None,
    ) -> None:
        self.search, self.base, self.book = search, as_arm(base, base.name), book
        self.ground, self._limit, self._notice = ground, memory_bytes, on_notice
        self.prior = prior
        self.config = search.config
        self.rungs = rungs_of(self.config.pruning, base.config.train.steps)
        made, key = candidate(self.base, ground)
        self.base_costs = costs_of(made)
        many = "knob" if len(search.space) == 1 else "knobs"
        self.question = f"the best of {base.name} by {len(search.space)} {many}"
        self.digest = digest(
            {"kind": KIND, "base": key, "search": self.config.model_dump(mode="json"),
             "limit": memory_bytes, **({"prior": prior.facts()} if prior is not None else {})}
        )  # fmt: skip
        self.speed: float | None = None
        """Steps a second of the file's own run, for the time left; None: not known."""
        self._begin()

    def _begin(self) -> None:
        self.trials: list[Trial] = []
        self.room = Room(self._limit)
        self.confirmed: list[Trial] = []
        self._batches = 0
        self._script = self._rounds()
        self._seen: list[Round] = []
        self._waiting: Plan | None = None

    @property
    def is_enforced(self) -> bool:
        """Whether runs are kept to the limit of memory."""
        return self._limit is not None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of every trial: far from those of the confirmation, which are 0, 1, …"""
        return tuple(TUNING_SEED + i for i in range(self.config.seeds))

    def next(self, past: Sequence[Round], recall: Recall) -> Plan | None:
        known = len(self._seen)
        if len(past) < known or any(a is not b for a, b in zip(self._seen, past, strict=False)):
            self._begin()
        if not self._seen and self._waiting is None:
            self._waiting = next(self._script, None)
        for one in past[len(self._seen) :]:
            self._seen.append(one)
            try:
                self._waiting = self._script.send(one)
            except StopIteration:
                self._waiting = None
        if self._waiting is None:
            return None
        return recall(self._waiting.digest) or self._waiting

    def result(self, past: Sequence[Round]) -> dict[str, Any]:
        last = past[-1] if past and past[-1].plan.kind == CONFIRM else None
        return search_result(self, last, len(past) - 1)

    def _rounds(self) -> Script:
        self.room.limit_bytes = self.room_bytes
        asker = Asker(self.config, self.first_points())
        while batch := self._asked(asker):
            yield from self._train([t for t in batch if t.status == "open" and not is_copy(t)])
            for trial in batch:
                if trial.gate.same_as is not None:
                    trial.take(self.trials[trial.gate.same_as])
            asker.tell([trial.told(self.config.objectives) for trial in batch])
        if all(trial.status in ("invalid", "too_large") for trial in self.trials):
            raise StudyError(nothing_to_train(self.trials))
        yield from self._confirm()

    def first_points(self) -> list[Params]:
        """What the prior asks first: found once, and kept in the book."""
        if self.prior is None:
            return []
        if "prior" not in self.book.facts:
            points = first_points(self.prior, self)
            self.book.facts["prior"] = [dict(point) for point in points]
        found: list[Params] = self.book.facts["prior"]
        return found

    def fits(self, predicted: int) -> bool:
        """Whether a run of that predicted peak may be trained, as far as is known now."""
        return replace(self.room, limit_bytes=self.room_bytes).fits(predicted)

    @property
    def room_bytes(self) -> int | None:
        """The limit of memory: what was asked for, or what was free when the search began."""
        if self._limit is not None:
            return self._limit
        if "room_bytes" not in self.book.facts:
            self.book.facts["room_bytes"] = self.ground.memory_room(self.base.config.train)
        found: int | None = self.book.facts["room_bytes"]
        return found

    def _asked(self, asker: Asker) -> list[Trial]:
        """The next batch, as the book has it or as the sampler asks it."""
        first = len(self.trials)
        asked = asker.ask(min(self.config.batch, self.config.trials - first))
        if not asked:  # all trials, or all points of a grid
            return []
        number, self._batches = self._batches, self._batches + 1
        kept = self.book.batches[number] if number < len(self.book.batches) else None
        if kept is not None:
            self._tell_differences(first, asked, [params for params, _ in kept])
        rows = kept if kept is not None else [(params, Gate()) for params in asked]
        earlier = {t.key: t.number for t in self.trials if t.key and not is_copy(t)}
        batch: list[Trial] = []
        for params, gate in rows:
            trial = make_trial(
                len(self.trials), params, self.base, seed=self.seeds[0], ground=self.ground,
                gate=gate,
            )  # fmt: skip
            if kept is None:
                pass_gate(trial, earlier, self.room)
            if trial.key:
                earlier.setdefault(trial.key, trial.number)
            self._tell_refusal(trial, new=kept is None)
            self.trials.append(trial)
            batch.append(trial)
        if kept is None:
            self.book.keep([(trial.params, trial.gate) for trial in batch])
        return batch

    def _tell_differences(self, first: int, asked: Sequence[Any], kept: Sequence[Any]) -> None:
        pairs = zip(asked, kept, strict=False)
        other = [first + i for i, (a, b) in enumerate(pairs) if not same_point(a, b)]
        if other or len(asked) != len(kept):
            names = ", ".join(map(str, other or range(first, first + len(kept))))
            self._notice(
                f"trials {names}: the sampler would now ask other parameters (another version of "
                "Optuna?); those that were asked first are kept"
            )

    def _tell_refusal(self, trial: Trial, *, new: bool) -> None:
        if new and trial.status in ("invalid", "too_large"):
            self._notice(f"{trial.name}: {trial.status.replace('_', ' ')}: {trial.reason}")

    def _train(self, batch: Sequence[Trial]) -> Generator[Plan, Round, None]:
        """A batch's new trials to their ends, or to the rung at which they are pruned."""
        alive = list(batch)
        for place, rung in enumerate((*self.rungs, None)):
            if not alive:
                return
            yield from self._train_until(alive, rung)
            alive = [trial for trial in alive if trial.status == "open"]
            if rung is not None:
                self._prune(alive, place, rung)
                alive = [trial for trial in alive if trial.status == "open"]

    def _train_until(
        self, trials: Sequence[Trial], rung: int | None
    ) -> Generator[Plan, Round, None]:
        """All of them to a step (None: the end), smaller micro-batches included."""
        waiting = list(trials)
        while waiting:
            found = yield self._plan(waiting, rung)
            short = [trial for trial in waiting if self._read(trial, found, rung)]
            waiting = [trial for trial in short if self._try_smaller(trial)]

    def _plan(self, trials: Sequence[Trial], until: int | None) -> Plan:
        numbers = [trial.number for trial in trials]
        which = f"trials {min(numbers)} to {max(numbers)}" if len(numbers) > 1 else trials[0].name
        where = "to their end" if until is None else f"to step {until:,}"
        named = [(trial.name, self.run_of(trial)) for trial in trials]
        return self._limited(
            plain_plan(
                KIND, f"{which} {where}", named, seeds=self.seeds, ground=self._quiet_ground,
                speeds=[self._speed_of(trial) for trial in trials],
            ),
            until,
        )  # fmt: skip

    def _limited(self, plan: Plan, until: int | None = None) -> Plan:
        runs = tuple(replace(r, until=until, limit_bytes=self._limit) for r in plan.runs)
        asked = digest({"plan": plan.digest, "until": until, "limit": self._limit})
        arms = plan.arms if until is None else tuple(up_to(arm, until) for arm in plan.arms)
        return replace(plan, arms=arms, runs=runs, digest=asked)

    @property
    def _quiet_ground(self) -> Ground:
        """Whether a trial fits was decided before, and is not asked again."""
        return replace(self.ground, memory_room=lambda train: None)

    def run_of(self, trial: Trial) -> LoadedRun:
        """The trial's run, with the micro-batch that it came down to."""
        assert trial.run is not None
        if trial.micro_batch_size is None:
            return trial.run
        train = trial.run.config.train.replace(micro_batch_size=trial.micro_batch_size)
        return replace(trial.run, config=trial.run.config.replace(train=train))

    def _speed_of(self, trial: Trial) -> float | None:
        """By the speed of the file's run and the FLOPs of both."""
        if self.speed is None or trial.costs is None or trial.run is None:
            return None
        own = self.base_costs.flops / self.base.config.train.steps
        return self.speed * own / (trial.costs.flops / trial.run.config.train.steps)

    def _read(self, trial: Trial, found: Round, rung: int | None) -> bool:
        """Notes what a round says of a trial. True where it was out of memory."""
        records = [found.records[key] for key in found.plan.keys_of(trial.name)]
        failed = [str(r.get("reason", "")) for r in records if r["status"] == "failed"]
        if any(map(says_out_of_memory, failed)):
            return True
        if failed:
            trial.end("failed", failed[0].splitlines()[0] if failed[0] else "")
            return False
        losses = tuple(loss_of(record) for record in records)
        if any(r["status"] == "diverged" for r in records) or None in losses:
            trial.losses = losses
            steps = [r.get("steps") for r in records if r["status"] == "diverged"]
            trial.end("diverged", f"after step {steps[0]}" if steps else "its loss is not finite")
        elif rung is None or all(r["status"] == "finished" for r in records):
            # Stages in epochs may end before the rung, where a knob makes batches larger.
            trial.losses = losses
            trial.end("complete")
        else:
            trial.rungs[rung] = mean(losses)
        return False

    def _try_smaller(self, trial: Trial) -> bool:
        """Corrects the prediction; whether the trial is tried with a smaller micro-batch."""
        run = self.run_of(trial)
        predicted = costs_of(candidate(run, self.ground)[0]).memory_bytes
        size = run.config.train.largest_micro_batch
        self.room.ran_out(trial.number, predicted, size)
        smaller = smaller_micro_batch(trial, self.room, self.ground)
        said = f"out of memory with {size} sequences at once and {predicted:,} bytes predicted"
        self._notice(
            f"{trial.name}: {said}; predictions are now multiplied by {self.room.factor:.2f}"
            + (f"; tried again with {smaller}" if smaller else "")
        )
        if smaller is None:
            trial.end("out_of_memory", said)
            return False
        trial.micro_batch_size = smaller
        return True

    def _prune(self, alive: Sequence[Trial], place: int, rung: int) -> None:
        """Ends those of a batch that do not go on after a rung."""
        now = {t.number for t in alive}
        reached = [t for t in self.trials if rung in t.rungs and not is_copy(t)]
        judged = {t.number: Judged(t.number, as_loss(t.rungs[rung])) for t in reached}
        kept = go_on(
            self.config.pruning,
            place,
            [judged[number] for number in sorted(now)],
            [one for number, one in judged.items() if number not in now],
            rungs=len(self.rungs),
        )
        for trial in alive:
            if trial.number not in kept:
                trial.end("pruned", f"at step {rung:,}")

    def best(self) -> list[Trial]:
        """Complete trials, each configuration once: with one objective by the loss; with several
        those that no other dominates, by the loss."""
        own = [t for t in self.trials if t.status == "complete" and not is_copy(t)]
        values = {t.number: t.values(self.config.objectives) or () for t in own}
        if len(self.config.objectives) > 1:
            return [self.trials[number] for number in pareto_front(values)]
        return sorted(own, key=lambda t: (as_loss(t.loss), t.number))

    def _confirm(self) -> Generator[Plan, Round, None]:
        wanted, seeds = self.config.confirm.best, tuple(range(self.config.confirm.seeds))
        self.confirmed = self.best()[:wanted]
        if not self.confirmed:
            return
        named = [(BASE, self.base), *((t.name, self.run_of(t)) for t in self.confirmed)]
        many = f"the best {len(self.confirmed)}" if len(self.confirmed) > 1 else "the best"
        yield self._limited(
            plain_plan(
                CONFIRM, f"{many} against the file as it stands", named, seeds=seeds,
                ground=self._quiet_ground,
                speeds=[self.speed, *(self._speed_of(trial) for trial in self.confirmed)],
                notes=recipe_notes([as_arm(run, name) for name, run in named]),
            )
        )  # fmt: skip


def up_to(arm: Arm, step: int) -> Arm:
    """The arm as far as it is trained to a rung, so that the time left is that of the rung."""
    return replace(arm, steps=step, tokens=round(arm.tokens * step / arm.steps))


def is_copy(trial: Trial) -> bool:
    """Whether an earlier trial has the same configuration."""
    return trial.gate.same_as is not None


def nothing_to_train(trials: Sequence[Trial]) -> str:
    """What to tell where no configuration could be trained."""
    reasons = list(dict.fromkeys(trial.reason for trial in trials))
    shown = "; ".join(reasons[:3]) + ("; …" if len(reasons) > 3 else "")
    return f"none of {len(trials)} configurations is valid and fits into memory: {shown}"


def loss_of(record: Any) -> float | None:
    """A run's last validation loss; None where it is not a number."""
    loss = (record.get("final") or {}).get("loss")
    return float(loss) if loss is not None and math.isfinite(loss) else None


def mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return math.fsum(known) / len(known) if len(known) == len(losses) and known else None


def as_loss(loss: float | None) -> float:
    return math.inf if loss is None else loss
