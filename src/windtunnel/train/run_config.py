"""A whole run as one typed file: ``arch:``, ``data:`` and ``train:``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from windtunnel.arch import (
    Architecture,
    ArchSpec,
    build,
    diff,
    expand_preset,
    resolve,
    settled,
    try_resolve,
)
from windtunnel.arch.plugins import load_entry_points, load_plugins
from windtunnel.config import Config, Document, annotated_yaml, decode, load_document, parse_path
from windtunnel.config import Path as ConfigPath
from windtunnel.config.document import EDIT
from windtunnel.config.nearest import suggestion
from windtunnel.data.config import BpeConfig, BytesConfig, DataConfig, Gpt2Config
from windtunnel.data.probe import ProbeSource
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.train.config import TrainConfig
from windtunnel.train.groups import rule_problems
from windtunnel.train.mup import mup_misfit
from windtunnel.train.objectives.config import ObjectiveConfig, chosen
from windtunnel.train.objectives.make import data_misfit, misfit
from windtunnel.train.origin_config import OriginConfig

GPT2_VOCABULARY = 50_257
UNKNOWN_VOCABULARY = 256


class RunConfig(Config):
    """One architecture, one corpus, one recipe."""

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset({"origin"})

    arch: ArchSpec
    """What is trained."""
    data: DataConfig = DataConfig()
    """What it is trained on."""
    train: TrainConfig = TrainConfig()
    """How it is trained."""
    origin: OriginConfig | None = None
    """Another run, or a file of weights, that it begins with. None: with weights drawn anew."""
    plugins: tuple[str, ...] = Field(())
    """Python files with components of your own, relative to this file."""


@dataclass(frozen=True)
class LoadedRun:
    """A run config together with where each of its values came from."""

    config: RunConfig
    document: Document
    plugin_digests: dict[str, str]
    base: Path
    """The folder that paths of plugins are relative to."""

    @property
    def name(self) -> str:
        return self.config.arch.name

    def annotated(self) -> str:
        """The config as YAML, every number filled in; each value says where it came from.

        Characters have no known vocabulary before the text is read; it then stays ``auto``.
        """
        vocabulary = vocab_size_of(self.config)
        spec = self.config.arch
        if spec.vocab_size == "auto" and vocabulary is None:
            return annotated_yaml(self.config, self.document)
        final = self.config.replace(arch=settled(spec, resolve(spec, vocabulary)))
        derived = {parse_path(d.path) for d in diff(self.config, final)}
        return annotated_yaml(final, self.document, derived)


def load_run(path: Path | str, edits: Sequence[str] = ()) -> LoadedRun:
    """Reads a run's file, applies ``edits`` such as ``train.lr=3e-4``, and checks everything.

    Raises:
        ConfigError: every mistake at once, each with file, line, column, path and what is allowed.
            Those of the edits stand at ``--set``.
    """
    return load_run_document(load_document(path), edits, base=Path(path).parent)


def load_run_document(
    document: Document, edits: Sequence[str] = (), *, base: Path = Path()
) -> LoadedRun:
    """As :func:`load_run`, from a document; plugins are looked for below ``base``."""
    if "space" in document.tree and "arch" not in document.tree:
        raise UsageError(
            f"{document.source}: is of a hypernetwork (or of a space of architectures), and not of "
            "a language model; see windtunnel ghn"
        )
    early = [edit for edit in edits if _comes_first(edit)]
    for edit in early:
        document = document.edit(edit)
    load_entry_points()
    digests = load_plugins(_plugin_paths(document), base)
    plain = document = expand_preset(document)
    for edit in edits:
        if edit not in early:
            document = document.edit(edit)
    try:
        return LoadedRun(_decoded(document), document, digests, base)
    except ConfigError as error:
        raise _at_edits(error, plain) if document is not plain else error from None


def _decoded(document: Document) -> RunConfig:
    return decode(document, RunConfig, lambda run: _misfits(run, document))


def _at_edits(error: ConfigError, plain: Document) -> ConfigError:
    """The mistakes of a document with edits: where it has none without them, they are the edits',
    though some stand at another key of the file that no longer goes with the edited one."""
    try:
        _decoded(plain)
    except ConfigError:
        return error
    return ConfigError([replace(problem, place=EDIT) for problem in error.problems])


def _comes_first(edit: str) -> bool:
    """Whether an edit decides what presets and plugins there are."""
    path = edit.partition("=")[0].strip()
    return path in ("arch", "plugins") or path.startswith(("arch.preset", "arch.set"))


def _plugin_paths(document: Document) -> Iterable[str]:
    paths = document.get(("plugins",), ())
    if not isinstance(paths, tuple | list) or not all(isinstance(p, str) for p in paths):
        place = document.place(("plugins",))
        raise ConfigError([Problem("plugins", "expected a list of Python files", place)])
    return paths


def known_vocab_size(data: DataConfig) -> int | None:
    """The vocabulary as far as it is known before the text is read; None for characters."""
    tokenizer = data.tokenizer
    if isinstance(data.source, ProbeSource):
        return len(data.source.symbols)
    if isinstance(tokenizer, BytesConfig):
        return 256 + len(tokenizer.specials)
    if isinstance(tokenizer, BpeConfig):
        return tokenizer.vocab_size
    return GPT2_VOCABULARY if isinstance(tokenizer, Gpt2Config) else None


def objective_config(config: RunConfig) -> ObjectiveConfig:
    """The objective of a run; for ``auto`` what suits its architecture and data."""
    classifies = config.arch.head.type == "classification"
    data = "labels" if classifies else config.data.kind
    return chosen(config.train.objective, config.arch.type, data)


def extra_ids(config: RunConfig) -> int:
    """Ids that the objective needs besides the tokenizer's, such as the mask; they are the last."""
    return objective_config(config).extra_ids


def vocab_size_of(config: RunConfig) -> int | None:
    """The model's vocabulary as far as it is known before the text is read."""
    known = known_vocab_size(config.data)
    return None if known is None else known + extra_ids(config)


def _rule_misfits(
    config: RunConfig, architecture: Architecture | None
) -> list[tuple[ConfigPath, str]]:
    """Rules for parameters that the architecture does not have."""
    mup = config.train.mup
    if architecture is None or (not config.train.groups and mup is None):
        return []
    reason = None if mup is None else mup_misfit(architecture, mup)
    if reason is not None:
        return [(("train", "mup"), reason)]
    names = [name for name, _ in build(architecture, device="meta").named_parameters()]
    return [
        (("train", *parse_path(path)), text) for path, text in rule_problems(config.train, names)
    ]


def _stage_misfits(config: RunConfig) -> list[tuple[ConfigPath, str]]:
    """Stages that name sources which are not there."""
    known = config.data.sources or {}
    found: list[tuple[ConfigPath, str]] = []
    for index, stage in enumerate(config.train.stages):
        for name in stage.data or ():
            if name not in known:
                text = f"unknown source {name!r}{suggestion(name, known)}"
                text += "" if known else "; name sources under data.sources"
                found.append((("train", "stages", index, "data"), text))
    return found


def counted_vocab_size(config: RunConfig) -> int | None:
    """What to count and trace with before the text is read: where the architecture asks for the
    tokenizer's vocabulary and that is unknown, :data:`UNKNOWN_VOCABULARY`."""
    known = vocab_size_of(config)
    unknown = known is None and config.arch.vocab_size == "auto"
    return UNKNOWN_VOCABULARY if unknown else known


def _packing_misfits(config: RunConfig) -> list[tuple[ConfigPath, str]]:
    """What cannot keep documents apart that share a row."""
    found: list[tuple[ConfigPath, str]] = []
    objective = objective_config(config)
    if objective.type != "next_token":
        found.append((("data", "packing"), f"{objective.type} has one sample, or row, at a time"))
    elif getattr(objective, "source", 0):
        found.append((("train", "objective"), "source cuts rows, and data.packing fills them"))
    for index, layer in enumerate(config.arch.layers):
        if layer.depth is not None:
            path = ("arch", "layers", index, "depth")
            found.append((path, "cannot keep apart documents that share a row"))
    return found


def _probe_misfits(task: ProbeSource, train: TrainConfig) -> list[tuple[ConfigPath, str]]:
    """What a synthetic task does not go with."""
    found: list[tuple[ConfigPath, str]] = []
    if train.seq_len < task.longest:
        text = f"{train.seq_len} tokens, but sequences of {task.type} have up to {task.longest}"
        found.append((("train", "seq_len"), text))
    if train.distributed is not None:
        text = f"{task.type} is scored by one process alone; leave it out"
        found.append((("train", "distributed"), text))
    return found


def _misfits(config: RunConfig, document: Document) -> list[tuple[ConfigPath, str]]:
    """What the parts' own types cannot see."""
    width = f"; d_model is written at {document.place(('arch', 'd_model'))}"
    vocabulary = vocab_size_of(config)
    arch = config.arch
    placeholder = vocabulary if vocabulary is not None else UNKNOWN_VOCABULARY
    resolved, problems = try_resolve(arch, placeholder if arch.vocab_size == "auto" else vocabulary)
    found: list[tuple[ConfigPath, str]] = [
        (("arch", *path), text + width * ("d_model" in text)) for path, text in problems
    ]
    if arch.embedding.position.type == "learned" and config.train.seq_len > arch.max_seq_len:
        found.append(
            (
                ("train", "seq_len"),
                f"{config.train.seq_len} tokens, but the learned positions end at "
                f"arch.max_seq_len = {arch.max_seq_len}",
            )
        )
    found += _rule_misfits(config, resolved)
    found += _stage_misfits(config)
    objective = objective_config(config)
    reason = misfit(objective, arch) or data_misfit(objective, config.data.kind)
    if reason is not None:
        found.append((("train", "objective"), reason))
    if config.data.packing is not None:
        found += _packing_misfits(config)
    if config.train.groups and objective.type == "diffusion":
        text = "no rules with diffusion: its parameters are not named as the architecture's"
        found.append((("train", "groups"), text))
    if config.train.scores and config.data.kind != "pairs":
        text = f"only pairs have a truth to score a text by; the data are {config.data.kind}"
        found.append((("train", "scores"), text))
    read = arch.encoder.vocab_size if arch.encoder is not None else None
    if read is not None and vocabulary is not None and read < vocabulary:
        text = f"{read}, but the tokenizer has {vocabulary} ids, and it is the source's too"
        found.append((("arch", "encoder", "vocab_size"), text))
    if isinstance(config.data.source, ProbeSource):
        return found + _probe_misfits(config.data.source, config.train)
    marked = "eos" in getattr(config.data.tokenizer, "specials", ("eos",))
    if config.data.kind != "text" and not marked:
        found.append((("data", "tokenizer"), "samples end with eos: add it to specials"))
    return found
