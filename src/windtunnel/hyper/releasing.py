"""From a hypernetwork's run to a folder that others can use: a few megabytes and a card."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from windtunnel.data.dataset import Dataset
from windtunnel.errors import UsageError
from windtunnel.hyper.launch import ReadyGhn, ghn_parts, load_ghn, ready_ghn
from windtunnel.hyper.network import HyperNetwork
from windtunnel.hyper.rounded import Precision, packed, unpacked
from windtunnel.hyper.stored import NETWORK, RELEASE, WEIGHTS, Stored, open_stored
from windtunnel.runs import RunFolder
from windtunnel.runs.durable import strict_json
from windtunnel.runs.folder import RECORD
from windtunnel.train.evaluation import evaluate
from windtunnel.train.launch import TOKENIZER
from windtunnel.train.restore import kept_tensors
from windtunnel.train.tensors import write_tensors

README = "README.md"
Card: TypeAlias = Callable[[ReadyGhn, Mapping[str, Any], Mapping[str, Any]], str]
_FORMAT = 1


@dataclass(frozen=True)
class Rounding:
    """What it costs to store the weights with fewer bits: the mean loss of held-out
    architectures, in nats a token."""

    whole: float
    stored: float


def release(
    run: RunFolder,
    out: Path,
    card: Card,
    *,
    precision: Precision = "float16",
    name: str | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Writes a release of a finished run; what stands in its ``release.json``.

    Args:
        out: a new folder.
        card: the text of its card, from the run, its record and the release's facts.
        precision: of the stored weights; they are used in float32.
        name: what it is called; None: as the run.
        dataset: the run's text; prepared where it is left out.

    Raises:
        UsageError: the folder exists, or the run is none of a hypernetwork or has not ended.
        DataError: the run's text is gone.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already; nothing was written")
    stored = open_stored(run.path)
    record = run.read_record()
    if record is None or not isinstance(stored.network, HyperNetwork):
        raise UsageError(f"{run.path}: holds no hypernetwork whose training has ended")
    config = load_ghn(run.config_path)
    weights = packed(kept_tensors(stored.network), precision)
    ready = ready_ghn(config, dataset=dataset)
    rounding = None
    if precision != "float32":
        parts = ghn_parts(ready)
        network = parts.model  # knows the space, unlike the stored one
        assert isinstance(network, HyperNetwork)
        network.load_state_dict(stored.network.state_dict())
        rounding = _rounding(network, weights, parts.valid, parts.tokenizer)
    facts: dict[str, Any] = {
        "format": _FORMAT,
        "name": name or stored.name,
        "run": run.key,
        "record_sha256": hashlib.sha256((run.path / RECORD).read_bytes()).hexdigest(),
        "precision": precision,
        "params": sum(tensor.numel() for tensor in unpacked(weights).values()),
        "loss": None if rounding is None else rounding.whole,
        "loss_as_stored": None if rounding is None else rounding.stored,
    }
    return _written(out, stored, weights, facts, lambda more: card(ready, record, more))


@torch.no_grad()
def _rounding(
    network: HyperNetwork, weights: Mapping[str, Tensor], valid: Any, tokenizer: Any
) -> Rounding:
    """The loss before and after; the network then has the stored weights."""
    judge = network.own_objective()
    whole = evaluate(network, valid, tokenizer, judge).loss
    values = unpacked(weights)
    for name, tensor in kept_tensors(network).items():
        tensor.copy_(values[name])
    return Rounding(whole, evaluate(network, valid, tokenizer, judge).loss)


def _written(
    out: Path,
    stored: Stored,
    weights: Mapping[str, Tensor],
    facts: dict[str, Any],
    card: Callable[[Mapping[str, Any]], str],
) -> dict[str, Any]:
    """The whole folder, or none."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
        try:
            facts = facts | {"weights_sha256": write_tensors(draft / WEIGHTS, weights)}
            facts["weights_bytes"] = (draft / WEIGHTS).stat().st_size
            network = json.loads((stored.path / NETWORK).read_bytes()) | {"name": facts["name"]}
            (draft / NETWORK).write_text(strict_json(network, indent=1) + "\n", encoding="utf-8")
            shutil.copytree(stored.path / TOKENIZER, draft / TOKENIZER)
            (draft / README).write_text(card(facts), encoding="utf-8")
            (draft / RELEASE).write_text(strict_json(facts, indent=2) + "\n", encoding="utf-8")
            draft.chmod(0o755)
            draft.rename(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    return facts
