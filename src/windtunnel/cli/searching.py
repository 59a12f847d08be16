"""``windtunnel search``: read the space, say what it will take, conduct, report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from windtunnel.arch import Architecture
from windtunnel.cli.comparing import asked_often
from windtunnel.cli.conducting import conduct_verb
from windtunnel.cli.corpora import prepare_with_progress
from windtunnel.cli.options import note
from windtunnel.cli.reporting import report_study
from windtunnel.cli.tracking import check_trackers
from windtunnel.config import digest
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.report.search_view import search_view
from windtunnel.report.units import bytes_text, duration_text
from windtunnel.study.arms import Ground
from windtunnel.study.engines import Capacity, Engine, open_engine
from windtunnel.study.folder import StudyFolder
from windtunnel.study.ground import local_ground
from windtunnel.study.machine import shares_gpus
from windtunnel.study.search.inquiry import Searching
from windtunnel.study.search.outlook import Outlook, look_ahead
from windtunnel.study.search.prior import Prior, architecture_knobs
from windtunnel.study.search.result import notes_of
from windtunnel.study.search.space import Search, load_search
from windtunnel.study.search.trial import BOOK, Book
from windtunnel.study.starts import START_SECONDS, recall_start, start_seconds
from windtunnel.train.run_config import LoadedRun, load_run


@dataclass(frozen=True)
class PriorRequest:
    """What ranks architectures beforehand; nothing where no file is given."""

    file: Path | None = None
    ghn: str | None = None
    trials: int = 6
    sample: int = 256

    def words(self) -> list[str]:
        """The options again."""
        if self.file is None:
            return []
        found = ["--prior", str(self.file), "--prior-ghn", str(self.ghn)]
        usual = PriorRequest()
        if self.trials != usual.trials:
            found += ["--prior-trials", str(self.trials)]
        return found + (["--prior-sample", str(self.sample)] if self.sample != usual.sample else [])


@dataclass(frozen=True)
class Request:
    """What the user asked ``search`` for."""

    file: Path
    space: Path
    edits: tuple[str, ...]
    trials: int | None
    memory: int | None
    out: Path
    runs: Path
    workers: int | None
    dry_run: bool
    engine: str = "local"
    prior: PriorRequest = field(default_factory=PriorRequest)
    track: tuple[str, ...] = ()


def search_verb(request: Request) -> dict[str, Any]:
    """Does all of it; the search as plain JSON (the plan, for a dry run)."""
    check_trackers(request.track)
    with open_engine(request.engine) as engine:
        return _search(request, engine)


def _search(request: Request, engine: Engine) -> dict[str, Any]:
    base, search = load_both(request.file, request.edits, request.space)
    if request.trials is not None:
        search = replace(search, config=search.config.replace(trials=request.trials))
    prior = prior_of(request, search)
    prepare_with_progress(base.config.data)
    ground = local_ground()
    inquiry = Searching(
        search, base, ground=ground, book=Book(None), memory_bytes=request.memory, prior=prior,
        on_notice=note,
    )  # fmt: skip
    begun = StudyFolder(request.out).holds(inquiry.digest)
    inquiry.book = Book(request.out / BOOK if begun or not request.dry_run else None)
    inquiry.speed = _speed(inquiry, base, ground)
    for line in outlook_lines(inquiry, look_ahead(inquiry), request.workers, engine.capacity()):
        note(line)
    if request.dry_run:
        return _first_batch(inquiry)
    conduct_verb(
        inquiry, request.out, runs=request.runs, workers=request.workers, engine=engine,
        track=request.track,
    )  # fmt: skip
    result, page = report_study(request.out, command=_command(request))
    note(f"report: {page}")
    return result


def prior_of(request: Request, search: Search) -> Prior | None:
    """What ranks architectures: the mean of a predictor, by the hypernetwork that it belongs to.

    Raises:
        UsageError: one of the two options without the other, files that cannot be read or do not
            belong together, or a space without architectures.
    """
    asked = request.prior
    if asked.file is None or asked.ghn is None:
        if asked.file is not None or asked.ghn is not None:
            raise UsageError("--prior and --prior-ghn go together: the predictor reads its encoder")
        return None
    from windtunnel.hyper.initial import find_stored
    from windtunnel.hyper.predictor import Subject, encoder_of, read_predictor

    architecture_knobs(search.config)
    predictor = read_predictor(asked.file)
    encoder = encoder_of(find_stored(asked.ghn, request.runs))
    predictor.check(encoder)

    def rank(architectures: Sequence[Architecture]) -> list[float]:
        means, _ = predictor.predict(encoder, [Subject.of(one) for one in architectures])
        return [float(mean) for mean in means]

    source = {"predictor": digest(predictor.to_dict()), "hypernetwork": predictor.name}
    return Prior(rank, source, asked.trials, asked.sample)


def load_both(file: Path, edits: Sequence[str], space: Path) -> tuple[LoadedRun, Search]:
    """The run's file and the search's, or the mistakes of both at once."""
    problems: list[Problem] = []
    base = search = None
    try:
        base = load_run(file, edits)
    except ConfigError as error:
        problems += error.problems
    try:
        search = load_search(space, base)
    except ConfigError as error:
        problems += error.problems
    if problems or base is None or search is None:
        raise ConfigError(problems)
    return base, search


def _speed(inquiry: Searching, base: LoadedRun, ground: Ground) -> float | None:
    """Steps a second of the file's own run, and the start of a process: measured once, or as the
    search's folder has them."""
    facts = inquiry.book.facts
    if "steps_per_second" not in facts:
        room = inquiry.room_bytes
        if ground.speeds is None or ((room or 0) < inquiry.base_costs.memory_bytes and room):
            facts["steps_per_second"] = None
        else:
            note("measuring the speed …")
            facts["steps_per_second"] = ground.speeds([inquiry.base.config])[0]
            facts["start_seconds"] = start_seconds()
    recall_start([facts.get("start_seconds", START_SECONDS)])
    found: float | None = facts["steps_per_second"]
    return found


def outlook_lines(
    inquiry: Searching, outlook: Outlook, workers: int | None, there: Capacity
) -> list[str]:
    """What will be done, how long it takes and what will not fit."""
    config, room = inquiry.config, inquiry.room_bytes
    seeds = f" of {config.seeds} seeds" if config.seeds > 1 else ""
    pieces = f", {config.batch} at a time" if config.batch < outlook.trials else ", all at once"
    shape = seeds + (pieces if outlook.trials > 1 else "")
    fresh = f", and {outlook.confirming} to confirm the best" if outlook.confirming else ""
    lines = [
        f"search: {inquiry.question}; {config.sampler.type}, {_many(outlook.trials, 'trial')}"
        f"{shape}: at most {_many(outlook.runs, 'run')}{fresh}"
    ]
    refused = [
        f"{count} {text}"
        for count, text in ((outlook.invalid, "are not valid"), (outlook.too_large, "do not fit"))
        if count
    ]
    spread = _spread(outlook)
    others = "the others " if refused and spread else ""
    said = "; ".join([*refused, *([others + spread] if spread else [])])
    lines.append(f"  of {_many(outlook.drawn, 'configuration')} drawn at random: {said}")
    if inquiry.prior is not None:
        lines.append(
            f"  prior: {len(inquiry.first_points())} architectures are tried first, the best of "
            f"{inquiry.prior.sample} points by {inquiry.prior.source['hypernetwork']}'s predictor"
        )
    if inquiry.rungs:
        share = "" if outlook.share is None else f", about {outlook.share:.0%} of all steps"
        lines.append(
            f"  pruning: {config.pruning.type} after steps {', '.join(map(str, inquiry.rungs))} "
            f"of {inquiry.base.config.train.steps}{share}"
        )
    if room is not None:
        how = "kept to it" if inquiry.is_enforced else "free now, by prediction alone"
        lines.append(f"  memory of a run: at most {bytes_text(room)} ({how})")
    lines += [f"  note: {text}" for text in notes_of(config)]
    return [*lines, _time_line(inquiry, outlook, workers, there)]


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _spread(outlook: Outlook) -> str:
    """What the configurations cost that were drawn, beside the file's own run."""
    if not outlook.ratios:
        return ""
    low, high = (f"{ratio:.2g}" for ratio in (outlook.ratios[0], outlook.ratios[-1]))
    if low == high == "1":
        return "take as many FLOPs as the file's own run"
    if low == high:
        return f"take {low} times the FLOPs of the file's own run"
    return (
        f"take {low} to {high} times the FLOPs of the file's own run "
        f"({outlook.ratio:.2g} on average)"
    )


def _time_line(inquiry: Searching, outlook: Outlook, workers: int | None, there: Capacity) -> str:
    if outlook.seconds is None:
        return "  time: not known"
    fitting = there.cores
    if there.memory_bytes is not None:
        fitting = min(fitting, there.memory_bytes // inquiry.base_costs.memory_bytes)
    if there.gpus and shares_gpus(inquiry.base.config.train.device):
        fitting = min(fitting, there.gpus)
    side = max(1, min(workers or fitting, inquiry.config.batch, outlook.trials))
    time = duration_text(outlook.seconds / side)
    more = "" if outlook.share is not None else ", at most"
    return (
        f"  time: about {time}{more}, {side} at a time, by FLOPs and the speed of the file's own "
        f"run ({inquiry.speed:.3g} steps/s)"
    )


def _first_batch(inquiry: Searching) -> dict[str, Any]:
    """What a dry run prints: the question, and the trials that would be asked first."""
    inquiry.book.keep_nothing()
    inquiry.next([], lambda digest: None)
    return {
        "question": inquiry.config.model_dump(mode="json"),
        "rungs": list(inquiry.rungs),
        "first_trials": [trial.to_dict() for trial in inquiry.trials],
    }


def _command(request: Request) -> str:
    parts = ["windtunnel", "search", str(request.file), "--space", str(request.space)]
    parts += asked_often("--set", request.edits)
    if request.trials is not None:
        parts += ["--trials", str(request.trials)]
    if request.memory is not None:
        parts += ["--memory", str(request.memory)]
    parts += request.prior.words()
    return shlex.join([*parts, "--out", str(request.out)])


def print_search(result: dict[str, Any]) -> None:
    """What was found, for the terminal."""
    Console().print(search_view(result))
