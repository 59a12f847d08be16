"""Runs and grids without a file: four families at three sizes, each with the grid of its ablation.

The sizes are presets (``gpt-small``); the recipe is AdamW at 3e-4, 1000 steps of warm-up, then
constant, weight decay 0.01, dropout 0.1, gradients cut to norm 1, with rows and batches by size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from windtunnel.arch.presets import preset_names
from windtunnel.config import Document, parse_document, parse_path, suggestion
from windtunnel.errors import UsageError
from windtunnel.study.vary import Factor, Level, parse_factors
from windtunnel.train.objectives.config import NextTokenConfig, Seq2SeqConfig
from windtunnel.train.run_config import LoadedRun, load_run_document, objective_config

SIZES: Mapping[str, tuple[int, int]] = {
    "small": (256, 16),
    "default": (512, 32),
    "large": (1024, 8),
}
"""Tokens in a row, and rows in a batch."""
STEPS = 5000
_LEARNED_RATES = "train.lr=[1e-4, 3e-4, 1e-3]"
_LAYERS, _DROPOUT, _HEADS = "[2, 4, 6]", "[0.1, 0.2, 0.3]", "[4, 8, 16]"
_WIDTHS = "[256, 512, 768]"
_GRIDS: Mapping[str, Mapping[str, str]] = {
    "gpt": {
        "lr": _LEARNED_RATES,
        "num_layers": f"arch.layers[0].repeat={_LAYERS}",
        "dropout": "arch.embedding.dropout, arch.layers[*].dropout, "
        f"arch.layers[*].mixer.dropout={_DROPOUT}",
        "num_heads": f"arch.layers[*].mixer.num_heads={_HEADS}",
        "d_model": f"arch.d_model={_WIDTHS}",
    },
    "transformer": {
        "lr": _LEARNED_RATES,
        "num_layers": f"arch.encoder.layers[0].repeat, arch.decoder.layers[0].repeat={_LAYERS}",
        "dropout": "arch.embedding.dropout, arch.encoder.layers[*].dropout, "
        f"arch.decoder.layers[*].dropout={_DROPOUT}",
        "num_heads": "arch.encoder.layers[*].mixer.num_heads, "
        "arch.decoder.layers[*].mixer.num_heads, "
        f"arch.decoder.layers[*].cross.num_heads={_HEADS}",
        "d_model": f"arch.d_model={_WIDTHS}",
    },
    "rnn": {
        "lr": _LEARNED_RATES,
        "num_layers": f"arch.layers[0].repeat={_LAYERS}",
        "dropout": f"arch.embedding.dropout, arch.layers[*].dropout={_DROPOUT}",
        "hidden_size": f"arch.d_model={_WIDTHS}",
    },
}
FAMILIES = ("gpt", "transformer", "rnn", "lstm")


def family_run(family: str, size: str) -> Document:
    """The run of a family at a size, as a file would have it; any preset of that size will do.

    Raises:
        UsageError: there is no such family or size.
    """
    if size not in SIZES:
        raise UsageError(f"--size: {size!r}{suggestion(size, SIZES)}")
    preset = f"{family}-{size}"
    if preset not in preset_names():
        known = [
            name.removesuffix(f"-{size}") for name in preset_names() if name.endswith(f"-{size}")
        ]
        raise UsageError(f"no preset {preset!r}: {family!r}{suggestion(family, known)}")
    seq_len, batch_size = SIZES[size]
    train: dict[str, Any] = {"steps": STEPS, "batch_size": batch_size, "seq_len": seq_len}
    train |= {"lr": 3e-4, "schedule": {"type": "flat", "warmup": 1000}, "weight_decay": 0.01}
    train |= {"clip": 1.0, "betas": [0.9, 0.999], "eval_every": 500}
    tree = {"arch": {"preset": preset}, "train": train}
    return parse_document(json.dumps(tree), preset)


def family_grid(family: str) -> tuple[Factor, ...]:
    """The factors of a family's grid: 243 points for gpt and transformer, 81 for rnn, 162 for lstm.

    Half of lstm's points are bidirectional; they are told and left out by ``make_design``.

    Raises:
        UsageError: the family has no grid.
    """
    if family not in FAMILIES:
        raise UsageError(f"--family: {family!r}{suggestion(family, FAMILIES)}")
    written = _GRIDS["rnn" if family == "lstm" else family]
    parsed = parse_factors(list(written.values()), "the grid")
    named = [replace(factor, name=name) for name, factor in zip(written, parsed, strict=True)]
    return (*named, _bidirectional()) if family == "lstm" else tuple(named)


def _bidirectional() -> Factor:
    """Which no language model may be: the states from the right have seen the token to predict."""
    path = parse_path("arch.type")
    off = Level("false", False, ((path, "decoder"),))
    on = Level("true", True, (), "a bidirectional LSTM would see the token that it is to predict")
    return Factor("bidirectional", (path,), (off, on), "bidirectional=[false, true]")


def preset_set(names: Sequence[str], size: str, edits: Sequence[str] = ()) -> list[LoadedRun]:
    """The runs of several families, for a comparison without files.

    Where an encoder-decoder is among decoders on a text, all count what it writes: the second half
    of each row.

    Raises:
        ConfigError: an edit does not fit; every mistake at once.
        UsageError: a name that is unknown or there twice.
    """
    if len(set(names)) < len(names):
        raise UsageError(f"--preset-set names one twice: {', '.join(names)}")
    documents = [family_run(name, size) for name in names]
    runs = [load_run_document(document, edits) for document in documents]
    written = [objective_config(run.config) for run in runs]
    halves = {one.source for one in written if isinstance(one, Seq2SeqConfig)}
    if len(halves) != 1 or any(run.config.data.kind != "text" for run in runs):
        return runs
    (source,) = halves
    second = f"train.objective={{type: next_token, source: {source}}}"
    return [
        load_run_document(document, [*edits, second]) if one == NextTokenConfig() else run
        for document, run, one in zip(documents, runs, written, strict=True)
    ]
