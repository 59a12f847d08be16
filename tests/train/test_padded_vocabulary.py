"""A model whose vocabulary is larger than the tokenizer's: the padding is never written."""

import math
from pathlib import Path

import torch
from tests.conftest import Command

from windtunnel.arch import build, resolve
from windtunnel.arch.spec import ArchSpec
from windtunnel.generate import BeamConfig, SamplingConfig, generate, search
from windtunnel.generate.known_ids import with_known_ids
from windtunnel.runs import RunFolder

SPEC = {"d_model": 8, "vocab_size": 64, "layers": ({"mixer": "gru", "mlp": "none"},)}


def test_ids_without_a_text_are_never_chosen() -> None:
    model = build(resolve(ArchSpec.model_validate(SPEC)), seed=0)
    known = with_known_ids(model, 5)
    hot = SamplingConfig(temperature=5.0)
    free = generate(model, [[1]] * 4, max_new_tokens=20, sampling=hot, seed=0)
    assert max(map(max, free)) >= 5, "without the limit they would be"
    kept = generate(known, [[1]] * 4, max_new_tokens=20, sampling=hot, seed=0)
    assert max(map(max, kept)) < 5
    beams = search(known, [[1]], BeamConfig(num_beams=3), max_new_tokens=8, eos=None)
    assert max(max(one.tokens) for one in beams[0]) < 5
    assert bool(torch.isfinite(model(torch.tensor([[1, 2]]))).all()), "the model is as it was"
    assert with_known_ids(model, 64) is model


def test_a_padded_run_trains_writes_its_samples_and_generates(
    windtunnel: Command, workplace: Path
) -> None:
    asked = ("--set", "arch.vocab_size=2000", "--set", "train.steps=2", "--out", "out/padded")
    answer = windtunnel("train", "run.yaml", *asked)
    assert answer.code == 0, answer.err
    record = RunFolder.open(workplace / "out" / "padded").read_record()
    assert record is not None
    assert len(record["samples"]) == 3
    assert math.isfinite(record["final"]["loss"])
    written = windtunnel(
        "generate", "out/padded", "A", "--max-new-tokens", 30, "--temperature", 3.0
    )
    assert written.code == 0, written.err
