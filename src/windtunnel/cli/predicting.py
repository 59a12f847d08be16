"""``windtunnel ghn predictor``: fit one, rank by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.arch import Architecture, resolve
from windtunnel.cli.options import note, print_table
from windtunnel.config import load_document
from windtunnel.errors import UsageError
from windtunnel.hyper.initial import find_stored
from windtunnel.hyper.predictor import Subject, encoder_of, read_predictor
from windtunnel.hyper.predictor_fit import fit_predictor
from windtunnel.hyper.predictor_results import from_store, read_results, space_for
from windtunnel.hyper.stored import Stored
from windtunnel.report.units import count_text
from windtunnel.spaces import Space
from windtunnel.train.run_config import counted_vocab_size, load_run

_TITLES = {
    "predictor": "predictor", "log_params": "log parameters", "ghn_step_0": "GHN at step 0",
    "with_early": "with early losses",
}  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """What the user asked ``fit`` for."""

    network: str
    out: Path
    results: Path | None
    store: Path | None
    space: str | None
    recipe: str | None
    seed: int
    runs: Path


def fit_verb(asked: Fit) -> dict[str, Any]:
    """Fits and writes a predictor; what cross-validation says, as plain JSON."""
    if (asked.results is None) == (asked.store is None):
        raise UsageError("give --results FILE or --from STORE, one of the two")
    if asked.store is None and asked.recipe is not None:
        raise UsageError("--recipe chooses among runs: it goes with --from")
    if asked.out.exists():
        raise UsageError(f"{asked.out}: exists already; nothing was written")
    stored = find_stored(asked.network, asked.runs)
    encoder_of(stored)
    source: dict[str, Any] = {}
    if asked.results is not None:
        measured = read_results(asked.results, stored, space=asked.space, tell=note)
    else:
        assert asked.store is not None
        measured, source["recipe"] = from_store(asked.store, recipe=asked.recipe, tell=note)
    made = fit_predictor(stored, measured, seed=asked.seed, source=source)
    made.write(asked.out)
    return {
        "hypernetwork": made.name,
        "encoder": made.encoder,
        "kernel": made.kernel._asdict(),
        "source": dict(made.source),
        **made.quality,
    }


def print_fit(told: Mapping[str, Any], out: Path) -> None:
    """The same for the terminal."""
    print_quality(told)
    if told["structures"] < 100:
        note(f"few structures ({told['structures']}): intervals are wide, and 100 are better")
    note(f"wrote {out}")


def print_quality(told: Mapping[str, Any]) -> None:
    """What a predictor is worth, as a table and two lines."""
    names = list(told["parts"]["overall"]["tau"])
    header = ["Kendall's τ", "structures", *(_TITLES[name] for name in names)]
    header += [f"above {_TITLES[name]}" for name in names[1:]]
    rows = []
    for part, row in told["parts"].items():
        taus = row["tau"]
        cells = [_interval(taus[name]) for name in names]
        cells += [_interval(taus["predictor"][f"above_{name}"]) for name in names[1:]]
        rows.append([part, str(row["structures"]), *cells])
    print_table(header, rows, texts=1)
    print(
        f"\nleft-out error {_interval(told['rmse'])} nats/token (losses spread by "
        f"{told['spread']:.3f}); {_interval(told['coverage_95'])} of the results lie in the 95% "
        "that was told"
    )
    for row in told.get("picks", ()):
        gain, k = row["gain"], row["k"]
        print(
            f"{'the one' if k == 1 else f'the best of the {k}'} ranked first among {row['of']} "
            f"left out: {row['predictor']:.3f} above the lowest loss; "
            f"{'one' if k == 1 else f'of {k}'} at random "
            f"{row['random']:.3f}, gain {_interval(gain, 3)}"
        )
    print(
        f"{told['structures']} structures, {told['folds']} folds drawn {told['repeats']} times; "
        "intervals: 95%, bootstrap over structures"
    )


def _interval(told: Mapping[str, float | None], digits: int = 2) -> str:
    value, low, high = (told[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return ""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


@dataclass(frozen=True)
class Ranking:
    """What the user asked ``rank`` for."""

    file: Path
    sources: tuple[str, ...]
    network: str
    top: int
    where: tuple[str, ...]
    sample: int
    seed: int
    runs: Path


@dataclass(frozen=True)
class _Candidate:
    name: str
    source: str
    index: int | None
    subject: Subject


def rank_verb(asked: Ranking) -> dict[str, Any]:
    """Candidates by predicted loss, as plain JSON."""
    predictor = read_predictor(asked.file)
    stored = find_stored(asked.network, asked.runs)
    encoder = encoder_of(stored)
    predictor.check(encoder)
    candidates = _candidates(asked, stored)
    means, sds = predictor.predict(encoder, [one.subject for one in candidates])
    rows = []
    for place in np.argsort(means, kind="stable")[: asked.top].tolist():
        one = candidates[place]
        rows.append(
            {"name": one.name, "source": one.source, "index": one.index,
             "family": one.subject.family, "params": one.subject.params,
             "loss": float(means[place]), "sd": float(sds[place]),
             "beyond": predictor.beyond(one.subject)}
        )  # fmt: skip
    return {"hypernetwork": predictor.name, "ranked": len(candidates), "architectures": rows}


def _candidates(asked: Ranking, stored: Stored) -> list[_Candidate]:
    """Run files as they are; of spaces one member of each structure."""
    found, spaces = [], 0
    for source in asked.sources:
        if _is_run(source):
            architecture = _of_run(source)
            found.append(_Candidate(architecture.name, source, None, Subject.of(architecture)))
            continue
        spaces += 1
        space = space_for(stored, source)
        for text in asked.where:
            space = space.where(text)
        for member in structures_of(space, asked.sample, asked.seed):
            subject = Subject.of(member.architecture)
            found.append(_Candidate(member.name, source, member.index, subject))
    if asked.where and not spaces:
        raise UsageError("--where chooses members of a space, and only run files are given")
    if not found:
        raise UsageError("there is nothing to rank: no member fulfils the conditions")
    return found


def _is_run(source: str) -> bool:
    path = Path(source)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    return "arch" in load_document(path).tree


def _of_run(source: str) -> Architecture:
    config = load_run(Path(source)).config
    return resolve(config.arch, counted_vocab_size(config))


def structures_of(space: Space, most: int, seed: int) -> Space:
    """One member of each structure; where there are more than ``most``, a sample of them."""
    _, first = np.unique(space.structures(), return_index=True)
    alone = space[np.sort(first)]
    if len(alone) <= most:
        return alone
    note(f"{most:,} of {len(alone):,} structures of {space.name} are looked at (--sample)")
    return alone.sample(most, seed)


def print_ranking(told: Mapping[str, Any]) -> None:
    """The same for the terminal."""
    rows: list[Sequence[str]] = []
    for row in told["architectures"]:
        index = "" if row["index"] is None else f"{row['index']:,}"
        rows.append(
            [row["name"], row["family"], index, count_text(row["params"]), f"{row['loss']:.3f}",
             f"{row['sd']:.3f}", ", ".join(row["beyond"])]
        )  # fmt: skip
    header = ["name", "layers", "index", "parameters", "loss", "sd", "beyond what was measured"]
    print_table(header, rows, texts=2)
    print(f"\n{told['ranked']:,} ranked; sd: of one training's loss about what is predicted")
