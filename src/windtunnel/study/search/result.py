"""A search's answer as plain JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from windtunnel.config import parse_path
from windtunnel.study.compare import judge
from windtunnel.study.folder import VERDICT_ROUNDS
from windtunnel.study.rounds import Round
from windtunnel.study.search.config import SearchConfig
from windtunnel.study.search.importance import importance
from windtunnel.study.search.pareto import pareto_front
from windtunnel.study.search.trial import Trial

if TYPE_CHECKING:
    from windtunnel.study.search.inquiry import Searching

OPTIMISM = (
    "A trial that looks best on its own seed looks better there than it is: the losses of the "
    "trials chose, those of the confirmation judge."
)
UNTUNED = (
    "The file was not tuned as the trials were: a verdict says what the search was worth, not that "
    "one architecture is better than another; for that, `compare --tune` tunes each alike."
)

CONTEXT = (
    "train.seq_len is searched: a longer context has a lower loss for reasons beside the "
    "architecture, and the losses of trials with different ones are not measured alike."
)


def notes_of(config: SearchConfig) -> list[str]:
    """What the reader of the trials' losses must know."""
    paths = map(parse_path, config.space)
    return [CONTEXT] if parse_path("train.seq_len") in paths else []


def search_result(inquiry: Searching, confirmation: Round | None, number: int) -> dict[str, Any]:
    """All that a search found; with the verdicts of its confirmation, where there was one."""
    verdicts: dict[str, Any] = {}
    if confirmation is not None:
        verdicts = judge(confirmation.plan, confirmation.records).to_dict()
        verdicts |= {"match": "", "budget": None, VERDICT_ROUNDS: [number]}  # nothing was matched
        verdicts["note"] = "\n".join(text for text in (verdicts["note"], UNTUNED) if text)
    return {**verdicts, "search": _tree(inquiry, verdicts)}


def _tree(inquiry: Searching, verdicts: Mapping[str, Any]) -> dict[str, Any]:
    config, trials = inquiry.config, inquiry.trials
    complete = [trial for trial in trials if trial.status == "complete"]
    axes = list(config.objectives) if len(config.objectives) > 1 else ["loss", "flops"]
    values = {t.number: v for t in complete if (v := t.values(axes)) and t.gate.same_as is None}
    scored = [(t.params, t.loss) for t in complete if t.loss is not None]
    return {
        "question": config.model_dump(mode="json"),
        "rungs": list(inquiry.rungs),
        "seeds": list(inquiry.seeds),
        "trials": [trial.to_dict() for trial in trials],
        "counts": dict(sorted(Counter(trial.status for trial in trials).items())),
        "copies": sum(trial.gate.same_as is not None for trial in trials),
        "best": [trial.number for trial in inquiry.best()],
        "front": {"axes": axes, "trials": pareto_front(values)},
        "importance": importance(config.space, scored, seed=config.sampler.seed),
        "memory": {
            "limit_bytes": inquiry.room.limit_bytes,
            "enforced": inquiry.is_enforced,
            "factor": inquiry.room.factor,
            "corrections": inquiry.room.corrections,
        },
        "confirmed": [_confirmed(trial, verdicts) for trial in inquiry.confirmed if verdicts],
        "note": OPTIMISM,
        "notes": notes_of(config),
        **_prior(inquiry),
    }


def _prior(inquiry: Searching) -> dict[str, Any]:
    """What ranked architectures beforehand, and what it asked first; nothing without a prior."""
    if inquiry.prior is None:
        return {}
    first = [dict(point) for point in inquiry.first_points()]
    return {"prior": {**inquiry.prior.facts(), "first": first}}


def _confirmed(trial: Trial, verdicts: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's loss in the search beside its loss on fresh seeds."""
    arm = next(arm for arm in verdicts["arms"] if arm["name"] == trial.name)
    fresh = arm["loss"]["mean"]
    known = fresh is not None and trial.loss is not None
    return {
        "trial": trial.number,
        "searched": trial.loss,
        "confirmed": {name: arm["loss"][name] for name in ("mean", "low", "high")},
        "optimism": fresh - trial.loss if known else None,
        "delta": arm["delta"],
        "verdict": arm["verdict"],
    }
