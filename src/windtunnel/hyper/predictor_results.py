"""Measured results of architectures: from lines of JSON, a store of runs, or an evaluation."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from windtunnel.arch import Architecture, ArchSpec, expand_preset, resolve
from windtunnel.config import Document, decode, digest
from windtunnel.data.tokenizers import load_tokenizer
from windtunnel.errors import RunError, UsageError, WindtunnelError
from windtunnel.hyper.stored import NETWORK, Stored
from windtunnel.runs import RunFolder, RunStore
from windtunnel.spaces import Space
from windtunnel.spaces.declared import load_space
from windtunnel.train.identity import WITHOUT_EFFECT
from windtunnel.train.launch import TOKENIZER
from windtunnel.train.run_config import RunConfig, extra_ids, load_run, objective_config

Tell = Callable[[str], None]

_SHARED = ("objective", "steps", "batch_size", "seq_len", "stages", "eval_tokens")
"""Keys of a recipe that must be the same for losses to be compared; the rest is tuned for an
architecture, or changes no loss."""

_SAME_LOSS = WITHOUT_EFFECT | {
    "micro_batch_size",
    "activation_checkpointing",
    "loss_chunk",
    "threads",
}
"""Keys that change no loss but in its last digits: runs that differ in these alone are seeds of one
setting, not settings of which the best counts."""


@dataclass(frozen=True)
class Measured:
    """One result."""

    architecture: Architecture
    loss: float
    """After training, in nats a token."""
    ghn_loss: float | None = None
    """With the hypernetwork's parameters, before the first step."""
    early: Mapping[str, float] = field(default_factory=dict)
    """Losses after short trainings, by name; each result of a fit has the same."""


def space_for(stored: Stored, source: str | Path) -> Space:
    """A space with the vocabulary and the longest sequence of a hypernetwork."""
    return load_space(
        source,
        vocab_size=stored.tokenizer.vocab_size,
        max_seq_len=stored.network.limits.max_seq_len or None,
    )


# Lines of JSON


def read_results(
    path: Path, stored: Stored, *, space: str | None = None, tell: Tell = lambda text: None
) -> list[Measured]:
    """The results of a file of JSON lines, or of the folder of an evaluation.

    A line has ``arch`` (what stands under ``arch:`` in a run file, or ``{space, index, name}`` of a
    member), ``loss`` and maybe ``ghn_loss``; other keys count for nothing. A line without a finite
    loss is left out and told.

    Args:
        space: of lines that name none.

    Raises:
        UsageError: a line cannot be read; the message tells which.
    """
    if path.is_dir():
        return _of_evaluation(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read: not UTF-8 text") from error
    reader = _Lines(stored, path, space, {})
    found = [reader.read(text, n) for n, text in enumerate(lines, 1) if text.strip()]
    kept = [one for one in found if math.isfinite(one.loss)]
    if left := len(found) - len(kept):
        noun, verb = ("line", "is") if left == 1 else ("lines", "are")
        tell(f"{path}: {left} {noun} without a finite loss {verb} left out")
    return kept


@dataclass(frozen=True)
class _Lines:
    stored: Stored
    path: Path
    space: str | None
    spaces: dict[str, Space]

    def read(self, text: str, number: int) -> Measured:
        place = f"{self.path}:{number}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{place}: is no JSON ({error})") from None
        if not isinstance(row, dict) or not isinstance(row.get("arch"), dict) or "loss" not in row:
            raise UsageError(f"{place}: needs the keys arch (a mapping) and loss")
        loss, step = (self._number(row, key, place) for key in ("loss", "ghn_loss"))
        try:
            architecture = self._architecture(row["arch"], place)
        except WindtunnelError as error:
            told = str(error)
            raise UsageError(told if told.startswith(str(place)) else f"{place}: {told}") from None
        return Measured(architecture, math.nan if loss is None else loss, step)

    def _number(self, row: Mapping[str, Any], key: str, place: str) -> float | None:
        value = row.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{place}: {key}: {value!r} is no number")
        return float(value)

    def _architecture(self, tree: dict[str, Any], place: str) -> Architecture:
        if "index" not in tree:
            document = expand_preset(Document({"arch": tree}, source=place))
            spec = decode(Document(document.tree["arch"], source=place), ArchSpec)
            known = self.stored.tokenizer.vocab_size
            return resolve(spec, known if spec.vocab_size == "auto" else None)
        source = tree.get("space", self.space)
        if source is None:
            raise UsageError("an index needs a space: add the key or give --space")
        source = str(source)
        if source not in self.spaces:
            self.spaces[source] = space_for(self.stored, source)
        space, index = self.spaces[source], tree["index"]
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(space):
            raise UsageError(f"{space.name} has {len(space):,} members, none at {index!r}")
        member = space[index]
        name = tree.get("name", member.name)
        if name != member.name:
            raise UsageError(f"member {index} of {space.name} is {member.name}, not {name}")
        return member.architecture


# An evaluation


def _of_evaluation(folder: Path) -> list[Measured]:
    """Architectures that an evaluation trained from its strong initialisation, at the last step;
    with the hypernetwork's loss at step 0, and those after short trainings where there are any."""
    from windtunnel.hyper.evaluation.config import EvaluationConfig
    from windtunnel.hyper.evaluation.run import UNITS, Context

    path = folder / "evaluation.json"
    if not path.is_file() or not (folder / UNITS).is_file():
        raise UsageError(f"{folder}: holds no evaluation ({UNITS} is not there)")
    try:
        pinned = json.loads(path.read_bytes())
        config = EvaluationConfig.model_validate_json(json.dumps(pinned["config"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is damaged ({error})") from error
    last = str(config.steps[-1])
    ends: dict[int, list[float]] = {}
    starts: dict[int, list[float]] = {}
    early: dict[int, dict[str, float]] = {}
    for text in (folder / UNITS).read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        unit, losses = row["unit"], row["loss"]
        if unit["side"] == "early":
            start = "ghn" if unit["init"] == "ghn" else "strong"
            found = {f"{start}_{s}": math.inf if v is None else v for s, v in losses.items()}
            early.setdefault(unit["index"], {}).update(found)
        if unit["side"] != "test":
            continue
        if unit["init"] in config.candidates and losses.get(last) is not None:
            ends.setdefault(unit["index"], []).append(losses[last])
        if unit["init"] == "ghn" and losses.get("0") is not None:
            starts.setdefault(unit["index"], []).append(losses["0"])
    space = Context(config).members.space.whole
    return [
        Measured(
            space[index].architecture,
            fmean(losses),
            fmean(starts[index]) if index in starts else None,
            early.get(index, {}),
        )
        for index, losses in sorted(ends.items())
    ]


# Runs


@dataclass(frozen=True)
class _Run:
    config: RunConfig
    architecture: Architecture
    loss: float
    recipe: str
    """What must be the same for losses to be compared."""
    tuned: str
    """The rest of the recipe that changes a loss, but for the seed."""


def from_store(
    root: Path, *, recipe: str | None = None, tell: Tell = lambda text: None
) -> tuple[list[Measured], str]:
    """The finished runs of a store that were trained for as long on the same text, and the digest
    of that recipe. Rates, optimizers and seeds may differ: of each architecture the mean over seeds
    counts, with those settings that were best for it.

    Args:
        recipe: how its digest begins, where the store has several.

    Raises:
        UsageError: there are none, or they are of several recipes.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: is not there; --from takes a folder of runs")
    found, left = _runs_in(root, tell)
    recipes: dict[str, list[_Run]] = {}
    for run in found:
        recipes.setdefault(run.recipe, []).append(run)
    fitting = [key for key in recipes if recipe is None or key.startswith(recipe)]
    said = ", ".join(f"{count} {reason}" for reason, count in left.items())
    if not recipes:
        there = f"; left out: {said}" if said else ""
        none = "holds no finished runs of language models with a validation loss"
        raise UsageError(f"{root}: {none}{there}")
    if len(fitting) != 1:
        raise UsageError(_which(root, recipes, recipe))
    if said:
        tell(f"{root}: left out: {said}")
    runs = recipes[fitting[0]]
    by_tuned: dict[Architecture, dict[str, list[float]]] = {}
    for run in runs:
        nameless = run.architecture.replace(name="-")
        by_tuned.setdefault(nameless, {}).setdefault(run.tuned, []).append(run.loss)
    best = {a: min(map(fmean, groups.values())) for a, groups in by_tuned.items()}
    return [Measured(a, loss) for a, loss in best.items()], fitting[0]


def _runs_in(root: Path, tell: Tell) -> tuple[list[_Run], Counter[str]]:
    """The runs of a store that may be compared; how many others there are, by reason."""
    found: list[_Run] = []
    left: Counter[str] = Counter()
    for summary in RunStore(root).list():
        if summary.status != "finished" or summary.loss is None:
            left["not finished" if summary.status != "finished" else "without a loss"] += 1
            continue
        try:
            run = _read_run(RunFolder.open(summary.path), summary.loss)
        except (WindtunnelError, OSError) as error:
            tell(f"{summary.path}: left out: {str(error).splitlines()[0]}")
            left["that cannot be read"] += 1
            continue
        if isinstance(run, str):
            left[run] += 1
        else:
            found.append(run)
    return found, left


def _which(root: Path, recipes: Mapping[str, list[_Run]], asked: str | None) -> str:
    rows = []
    for key, runs in sorted(recipes.items(), key=lambda item: -len(item[1])):
        train = runs[0].config.train
        rows.append(
            f"  {key[:10]}: {len(runs)} runs of {train.steps} steps, {train.batch_size} × "
            f"{train.seq_len} tokens"
        )
    none = f"none of its recipes begins with {asked}" if asked else "its runs have several recipes"
    return f"{root}: {none}; choose one by --recipe:\n" + "\n".join(rows)


def _read_run(folder: RunFolder, loss: float) -> _Run | str:
    """Or why it is no run of a language model from scratch."""
    if (folder.path / NETWORK).exists():
        return "of hypernetworks"
    config = load_run(folder.config_path).config
    if config.origin is not None:
        return "begun with other weights"
    if objective_config(config).type != "next_token":
        return "of another objective"
    vocabulary = load_tokenizer(folder.path / TOKENIZER).vocab_size + extra_ids(config)
    architecture = resolve(config.arch, vocabulary)
    train = config.train.model_dump(mode="json")
    shared = {
        "data": config.data.model_dump(mode="json"),
        "train": {key: value for key, value in train.items() if key in _SHARED},
    }
    other = {*_SHARED, *_SAME_LOSS, "seed"}
    tuned = {key: value for key, value in train.items() if key not in other}
    return _Run(config, architecture, loss, digest(shared), digest(tuned))
