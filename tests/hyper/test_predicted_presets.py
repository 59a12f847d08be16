"""A hypernetwork of the five families, asked for every preset: right names and shapes, or a no."""

from pathlib import Path

import pytest
import torch
from tests.hyper.test_predict import tokenizer
from tests.hyper.tiny import config, limits
from torch.func import functional_call

from windtunnel.arch import (
    Architecture,
    ArchSpec,
    build,
    cost,
    preset_document,
    preset_names,
    resolve,
)
from windtunnel.config import decode
from windtunnel.errors import UsageError
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.network import HyperNetwork
from windtunnel.hyper.predict import Prediction, predict
from windtunnel.hyper.stored import Stored

KNOWN = limits(d_model=128, n_head=4, ff_ratio=4, n_layer=2, max_seq_len=16, vocab_size=8)
SPECS = {name: decode(preset_document(name), ArchSpec) for name in preset_names()}
SMALL = {
    name: architecture
    for name, spec in SPECS.items()
    if spec.vocab_size == "auto" and spec.type == "decoder"
    for architecture in [resolve(spec, 8)]
    if int(cost(architecture).total.params) < 2_000_000
}


def stored() -> Stored:
    given = config()
    torch.manual_seed(0)
    network = HyperNetwork(given.encoder, given.decoder, KNOWN)
    return Stored(network, tokenizer(), 128, 2, "tiny", Path())


@pytest.mark.parametrize("name", SMALL)
def test_a_preset_gets_what_is_its_own_or_nothing(name: str) -> None:
    architecture, known = SMALL[name], stored()
    anatomy = anatomy_of(architecture)
    found = tried(known, architecture)
    if isinstance(found, UsageError):
        assert "cannot be grown" in str(found) or "knows none" in str(found)
        assert anatomy.unknown or len(set(architecture.layers)) > 1
        return
    model = build(architecture, seed=0).eval()
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    for key, value in found.weights.items():
        assert tuple(value.shape) == shapes[key], key
    assert found.values == sum(value.numel() for value in found.weights.values())
    if found.values < found.params:
        assert any(note.startswith(("predicted in part", "not known")) for note in found.notes)
    strange = KNOWN.strange(anatomy)
    assert strange == () or f"never seen by tiny: {', '.join(strange)}" in found.notes
    logits = functional_call(model, found.weights, (torch.arange(8).view(1, 8),))
    assert torch.isfinite(logits).all()


def test_most_presets_get_something() -> None:
    known = stored()
    found = {name: tried(known, architecture) for name, architecture in SMALL.items()}
    refused = [str(one) for one in found.values() if isinstance(one, UsageError)]
    assert len(refused) < 0.3 * len(SMALL)  # hybrids, and norms after the branch: not exact
    assert all("cannot be grown" in reason for reason in refused)
    assert len(SMALL) > 25


def tried(known: Stored, architecture: Architecture) -> Prediction | UsageError:
    """What is predicted, or why nothing is."""
    try:
        return predict(known, architecture)
    except UsageError as error:
        return error
