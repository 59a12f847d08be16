"""From a hypernetwork's file to its run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from windtunnel.arch import Architecture, cost
from windtunnel.config import annotated_yaml, decode, load_document, suggestion
from windtunnel.data.dataset import Dataset, prepare
from windtunnel.data.progress import Progress
from windtunnel.errors import ConfigError, Problem, UsageError
from windtunnel.hyper.config import GhnConfig, misfits
from windtunnel.hyper.members import HyperBatches, Members, with_members
from windtunnel.hyper.network import HyperBatch, HyperNetwork
from windtunnel.hyper.stored import NETWORK, network_facts
from windtunnel.nn.initialize import keyed_generator
from windtunnel.runs import RunFolder, code_digest, run_key
from windtunnel.runs.provenance import DECIDING_LAYERS
from windtunnel.spaces.declared import load_space
from windtunnel.spaces.grids import GRIDS
from windtunnel.train.distributed.world import ALONE, World
from windtunnel.train.feed import Again, Feed, feed_of
from windtunnel.train.identity import run_identity
from windtunnel.train.launch import TOKENIZER, absolute_data
from windtunnel.train.loop import resolve_device
from windtunnel.train.run_config import RunConfig
from windtunnel.train.runner import OnEvent, OnStep, RunParts, train_run

CODE = (*DECIDING_LAYERS, "hyper", "spaces")
"""The layers of the package that a hypernetwork's result hangs on."""
_COUNTED = 200
"""Steps whose architectures the mean cost of a token is counted over."""


@dataclass(frozen=True)
class ReadyGhn:
    """A hypernetwork that only needs to be trained."""

    config: GhnConfig
    """With absolute paths."""
    members: Members
    dataset: Dataset
    identity: Mapping[str, Any]
    key: str

    @property
    def name(self) -> str:
        return self.config.name


def load_ghn(path: Path, edits: Sequence[str] = ()) -> GhnConfig:
    """Reads a hypernetwork's file; paths in it become absolute.

    Raises:
        ConfigError: every mistake at once, with its place.
    """
    document = load_document(path)
    if "arch" in document.tree and "space" not in document.tree:
        raise UsageError(
            f"{path}: is a run's file (it holds arch), not that of a hypernetwork; train it with "
            "windtunnel train"
        )
    for edit in edits:
        document = document.edit(edit)
    config = decode(document, GhnConfig, misfits)
    if config.space not in GRIDS:
        file = path.parent / config.space
        if not file.is_file():
            text = f"there is no file {file}{suggestion(config.space, GRIDS)}"
            text += "; a space of your own is a YAML file, relative to this one"
            raise ConfigError([Problem("space", text, document.place(("space",)))])
        config = config.replace(space=str(file.absolute()))
    return config.replace(data=absolute_data(config.data))


def ready_ghn(
    config: GhnConfig, *, progress: Progress | None = None, dataset: Dataset | None = None
) -> ReadyGhn:
    """Prepares the data and the space. The space's vocabulary is the tokenizer's, its longest
    sequence that of training.

    Raises:
        ConfigError, DataError, UsageError: what does not fit, before anything is written.
    """
    problems = misfits(config)
    if problems:
        raise UsageError("\n".join(f"{'.'.join(path)}: {text}" for path, text in problems))
    dataset = dataset or prepare(config.data, progress)
    space = load_space(
        config.space, vocab_size=dataset.tokenizer.vocab_size, max_seq_len=config.train.seq_len
    )
    members = Members.of(config, space)
    written = config.model_dump(mode="json", exclude={"name", "space", "data", "train"})
    device = resolve_device(config.train.device)
    identity = run_identity(
        arch={"ghn": written, "space": space_digest(members)},
        data=dataset.fingerprint,
        train=config.train,
        code=code_digest(layers=CODE),
        torch_version=version("torch"),
        device_type=device.type,
    )
    return ReadyGhn(config, members, dataset, identity, run_key(identity))


def space_digest(members: Members) -> str:
    """What identifies the architectures that are trained on, and those of the validation loss."""
    total = hashlib.sha256()
    for block in members.space.blocks:
        axes = [(axis.name, axis.values, axis.paths) for axis in block.axes]
        total.update(repr((block.family.name, block.vocab_size, block.max_seq_len, axes)).encode())
        for digit in block.product.digits:  # which combinations there are
            total.update(repr([axis.name for axis in digit.axes]).encode() + digit.table.tobytes())
        if block.size:
            first = block.document(block.values(0), "first").tree["arch"]
            total.update(repr(first).encode())
    for name in ("train", "in_distribution"):
        total.update(members.parts[name].indices().tobytes())
    return total.hexdigest()


def create_ghn_folder(ready: ReadyGhn, path: Path) -> RunFolder:
    """A new folder for the run, with config, tokenizer and what the network is made from.

    Raises:
        UsageError: the folder exists already, or cannot be made.
    """
    text = annotated_yaml(ready.config)
    folder = RunFolder.create(path, key=ready.key, name=ready.name, config=text)
    try:
        _fill(path, ready)
    except UsageError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return folder


def remake_ghn_folder(folder: RunFolder, ready: ReadyGhn) -> RunFolder:
    """The folder of a run that was made and has never begun, as that of ``ready``.

    Raises:
        UsageError: it has begun, or cannot be written.
        RunError: another process is about to begin it.
    """
    with folder.lock():
        if not folder.has_begun():
            shutil.rmtree(folder.path / TOKENIZER, ignore_errors=True)
            _fill(folder.path, ready)
        text = annotated_yaml(ready.config)
        return folder.remake(key=ready.key, name=ready.name, config=text)


def _fill(path: Path, ready: ReadyGhn) -> None:
    """Writes the tokenizer, and what the network is made from."""
    try:
        (path / TOKENIZER).mkdir()
        ready.dataset.tokenizer.save(path / TOKENIZER)
        facts = network_facts(ready.config, ready.members.limits)
        (path / NETWORK).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def train_ghn(
    folder: RunFolder,
    *,
    ready: ReadyGhn | None = None,
    resume: bool = False,
    until: int | None = None,
    on_event: OnEvent | None = None,
    on_step: OnStep | None = None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Trains the hypernetwork of a folder to its end; its record. What may be raised: see
    ``train_run``."""
    ready = ready or ready_ghn(load_ghn(folder.config_path))
    if not folder.has_begun() and ready.key != folder.key:
        raise UsageError(
            f"{folder.path}: was made for another config, or another version of the code or the "
            "data, and has not begun; choose another folder"
        )
    parts = replace(ghn_parts(ready), world=world)
    return train_run(parts, folder, resume=resume, until=until, on_event=on_event, on_step=on_step)


def new_network(ready: ReadyGhn) -> HyperNetwork:
    """The network with its initial weights, which hang on the seed alone."""
    config, members = ready.config, ready.members
    with torch.random.fork_rng([]):
        seed = keyed_generator(config.train.seed, "hypernetwork").initial_seed()
        torch.manual_seed(seed)
        return HyperNetwork(config.encoder, config.decoder, members.limits, members.space.whole)


def ghn_parts(ready: ReadyGhn) -> RunParts:
    """Network, batches and the rest of the run, built."""
    config, members = ready.config, ready.members
    feed = text_feed(config, ready.dataset, members.parts["train"][0].architecture)
    held_out = members.held_out()

    def valid() -> Iterator[HyperBatch]:
        for number, batch in enumerate(feed.valid):
            yield with_members(batch, [held_out[number % len(held_out)]])

    flops = _mean_flops(members)
    return RunParts(
        model=new_network(ready).to(resolve_device(config.train.device)),
        batches=HyperBatches(feed.batches, members.draws),
        valid=Again(valid),
        tokenizer=ready.dataset.tokenizer,
        train=config.train,
        identity=ready.identity,
        flops_per_token=flops,
        facts={
            "data_fingerprint": ready.dataset.fingerprint,
            "flops_per_token": int(flops),
            "architectures": {name: len(part) for name, part in members.parts.items()},
        },
    )


def text_feed(config: GhnConfig, dataset: Dataset, architecture: Architecture) -> Feed:
    """The text as rows of a run; the architecture only completes a run's config."""
    run = RunConfig(arch=architecture.to_spec(), data=config.data, train=config.train)
    return feed_of(dataset, run)


def _mean_flops(members: Members) -> float:
    """Of training, for each token of the first steps' architectures; without the network's own."""
    counted: dict[int, float] = {}
    total = 0.0
    count = 0
    for position in range(_COUNTED):
        for index in members.draws.at(position + members.config.largest_first):
            if index not in counted:
                architecture = members.space.whole[index].architecture
                found = cost(architecture, members.config.train.seq_len)
                counted[index] = float(found.train_flops_per_token)
            total += counted[index]
            count += 1
    return total / count
