"""What a hypernetwork is made from, as JSON beside its weights; opening one again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import nn

from windtunnel.arch import ArchSpec, resolve
from windtunnel.config import Document, decode, load_document
from windtunnel.data.tokenizers import Tokenizer, load_tokenizer
from windtunnel.errors import CheckpointError, ConfigError, RunError, UsageError
from windtunnel.hyper.config import DecoderConfig, EncoderConfig, GhnConfig
from windtunnel.hyper.limits import Limits, Role
from windtunnel.hyper.network import HyperNetwork
from windtunnel.hyper.rounded import unpacked
from windtunnel.hyper.singles import Singles
from windtunnel.runs import RunFolder
from windtunnel.runs.folder import IDENTITY
from windtunnel.train.checkpoint import load_weights
from windtunnel.train.launch import TOKENIZER
from windtunnel.train.restore import copy_values, kept_tensors
from windtunnel.train.shards import tensors_in

NETWORK = "network.json"
WEIGHTS = "weights.safetensors"
RELEASE = "release.json"
_FORMAT = 1

logger = logging.getLogger(__name__)


def network_facts(config: GhnConfig, limits: Limits) -> dict[str, Any]:
    """All that is needed to build the network again, as plain values."""
    return {
        "format": _FORMAT,
        "name": config.name,
        "predicts": config.predicts,
        "encoder": config.encoder.model_dump(mode="json"),
        "decoder": config.decoder.model_dump(mode="json"),
        "limits": asdict(limits),
        "largest": {"d_model": config.split.d_model, "n_layer": config.split.n_layer},
    }


@dataclass(frozen=True)
class Stored:
    """A hypernetwork read from a folder: its network, tokenizer and the sizes that it has seen."""

    network: HyperNetwork | Singles
    tokenizer: Tokenizer
    d_model: int
    """The largest width that it was trained on."""
    n_layer: int
    """The largest depth."""
    name: str
    path: Path


def singles_facts(name: str, singles: Singles, largest: Mapping[str, int]) -> dict[str, Any]:
    """The same of single models that others are cut out of."""
    sources = {key: a.to_spec().model_dump(mode="json") for key, a in singles.sources.items()}
    return {"format": _FORMAT, "name": name, "singles": sources, "largest": dict(largest)}


def network_from(facts: Mapping[str, Any]) -> HyperNetwork | Singles:
    """The network of :func:`network_facts`, or of :func:`singles_facts`, with arbitrary weights."""
    if "singles" in facts:
        written = {key: Document(a, source=NETWORK) for key, a in facts["singles"].items()}
        specs = {key: decode(document, ArchSpec) for key, document in written.items()}
        return Singles({key: resolve(spec) for key, spec in specs.items()})
    limits = dict(facts["limits"])
    roles = tuple(Role(**{**role, "axes": tuple(role["axes"])}) for role in limits.pop("roles"))
    if limits.get("traits") is not None:
        limits["traits"] = tuple(limits["traits"])
    decoder: Any = TypeAdapter(DecoderConfig).validate_python(facts["decoder"])
    encoder = EncoderConfig.model_validate(facts["encoder"])
    return HyperNetwork(encoder, decoder, Limits(**limits, roles=roles))


def no_network(path: Path) -> str:
    """Why a path without :data:`NETWORK` holds no hypernetwork, for the end of a message."""
    if path.is_dir():
        return f"{path}: holds no hypernetwork ({NETWORK} is not there)"
    return f"{path}: is a file; give its folder" if path.exists() else f"{path}: is not there"


def ghn_run(path: Path) -> RunFolder:
    """The run in a folder that holds a hypernetwork.

    Raises:
        UsageError: it holds none, or is a release or single models, which know no run.
    """
    if not (path / NETWORK).is_file():
        raise UsageError(no_network(path))
    if (path / IDENTITY).is_file():
        return RunFolder.open(path)
    found = "is a release"
    with suppress(ValueError):
        found = "holds single models" if "singles" in _facts(path) else found
    raise UsageError(f"{path}: {found}; give the folder of a hypernetwork's run")


def _facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((path / NETWORK).read_bytes())
    return facts


def open_stored(path: Path) -> Stored:
    """The hypernetwork of a run's folder (its newest whole checkpoint, the average where the run
    keeps one) or of a release.

    Raises:
        UsageError: there is none.
        RunError: a file of it is damaged.
    """
    if not (path / NETWORK).is_file():
        raise UsageError(no_network(path))
    try:
        facts = _facts(path)
        if facts["format"] != _FORMAT:
            raise UsageError(f"{path / NETWORK}: format {facts['format']}, and {_FORMAT} is known")
        network = network_from(facts)
        name = str(facts["name"])
        d_model, n_layer = int(facts["largest"]["d_model"]), int(facts["largest"]["n_layer"])
    except KeyError as error:
        raise RunError(f"{path / NETWORK}: is damaged ({error} is missing)") from error
    except (ValueError, TypeError, AttributeError, ConfigError, RuntimeError) as error:
        raise RunError(f"{path / NETWORK}: is damaged ({error})") from error
    load_network_weights(path, network)
    tokenizer = load_tokenizer(path / TOKENIZER)
    return Stored(network.eval(), tokenizer, d_model, n_layer, name, path)


def computing_seconds(record: Mapping[str, Any]) -> float:
    """Of the processors of all processes, as a run's record tells; by the clock, and so at least as
    much with one thread, where it does not."""
    own = record.get("cpu_seconds")
    seconds = float(record["train_seconds"] if own is None else own)
    return seconds * int(record.get("processes", 1))


def training_seconds(path: Path) -> float | None:
    """Seconds of computing that the training in a folder took: of a hypernetwork's run, or of
    single models with the search of their rates. None where the folder does not tell."""
    record = None if (path / WEIGHTS).is_file() else RunFolder.open(path).read_record()
    if record is not None:
        return computing_seconds(record)
    trained = _facts(path).get("training", {}).values()
    parts = [one["seconds"] + one.get("search_seconds", 0) for one in trained]
    return float(sum(parts)) if parts else None


def _check_digest(path: Path) -> None:
    """Raises CheckpointError where a release's weights are not those that it was made with."""
    if not (path / RELEASE).is_file():
        return  # single models have none
    try:
        wanted = json.loads((path / RELEASE).read_bytes())["weights_sha256"]
    except KeyError as error:
        raise RunError(f"{path / RELEASE}: is damaged ({error} is missing)") from error
    except (ValueError, TypeError) as error:
        raise RunError(f"{path / RELEASE}: is damaged ({error})") from error
    if hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest() != wanted:
        raise CheckpointError(f"{path / WEIGHTS}: is damaged: {RELEASE} has another SHA-256")


def load_network_weights(path: Path, network: nn.Module) -> None:
    """Puts the weights of a release, or those of a run's newest checkpoint, into a network.

    Raises:
        CheckpointError: no checkpoint is whole, or they do not fit.
    """
    if (path / WEIGHTS).is_file():
        if isinstance(network, HyperNetwork) and not (path / RELEASE).is_file():
            logger.warning("%s: %s is not there, so the weights are not checked", path, RELEASE)
        _check_digest(path)
        try:
            values = unpacked(tensors_in([path / WEIGHTS]))
        except (ValueError, SafetensorError) as error:
            raise CheckpointError(f"{path / WEIGHTS}: is damaged ({error})") from error
        copy_values(kept_tensors(network), values, path / WEIGHTS)
        return
    if not (path / IDENTITY).is_file():
        raise CheckpointError(f"{path}: is a release without its weights ({WEIGHTS} is not there)")
    folder = RunFolder.open(path)
    document = load_document(folder.config_path)
    averaged = document.get(("train", "ema"), None) is not None
    load_weights(folder.checkpoints, network, logger.warning, ema=averaged)
