"""The performance predictor: what it finds, what it owns up to, and what it refuses."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.hyper import tiny

from windtunnel.arch import Architecture
from windtunnel.data.config import BytesConfig
from windtunnel.data.tokenizers import build_tokenizer
from windtunnel.errors import UsageError
from windtunnel.hyper.network import HyperNetwork
from windtunnel.hyper.predictor import (
    NUMBERS,
    Predictor,
    Subject,
    encoder_digest,
    features_of,
    read_predictor,
)
from windtunnel.hyper.predictor_fit import Outcome, fit_predictor, outcomes_of, quality
from windtunnel.hyper.predictor_results import Measured, read_results
from windtunnel.hyper.singles import Singles
from windtunnel.hyper.stored import Stored
from windtunnel.spaces.families import family_of


@cache
def stored(seed: int = 0) -> Stored:
    torch.manual_seed(seed)
    config = tiny.config()
    network = HyperNetwork(config.encoder, config.decoder, tiny.limits()).eval()
    return Stored(network, build_tokenizer(BytesConfig(), []), 8, 3, f"ghn{seed}", Path("ghn"))


@cache
def architectures() -> tuple[Architecture, ...]:
    """60 of different structures."""
    members = tiny.space(d_model=(4, 8, 16)).shuffled(0)
    found = {Subject.of(member.architecture): member.architecture for member in members}
    return tuple(found.values())[:60]


def losses(noise: float, seed: int = 0) -> np.ndarray[Any, Any]:
    """A line in log parameters, layers and kinds of layers, with noise."""
    generator = np.random.default_rng(seed)
    subjects = [Subject.of(a) for a in architectures()]
    rows = np.array([subject.numbers() for subject in subjects])
    column = {name: rows[:, place] for place, name in enumerate(NUMBERS)}
    line = 4 - 0.2 * column["log_params"] + 0.1 * column["log_layers"]
    return line + 0.4 * column["rnn_a_layer"] + noise * generator.normal(size=len(rows))


def measured(values: Any, steps: Any = None) -> list[Measured]:
    steps = [None] * len(values) if steps is None else steps
    triples = zip(architectures(), values, steps, strict=True)
    return [Measured(a, float(v), None if s is None else float(s)) for a, v, s in triples]


@cache
def fitted() -> Predictor:
    return fit_predictor(stored(), measured(losses(0.05), steps=losses(0.5, seed=3)))


def test_a_known_relation_is_found_with_an_honest_interval() -> None:
    told = fitted().quality
    overall = told["parts"]["overall"]["tau"]
    assert told["structures"] == 60
    assert overall["predictor"]["value"] > 0.75
    assert overall["predictor"]["low"] < overall["predictor"]["value"] < 1
    assert overall["predictor"]["above_log_params"]["low"] > 0
    assert overall["predictor"]["above_ghn_step_0"]["low"] > 0
    assert overall["log_params"]["value"] > 0
    assert told["coverage_95"]["low"] <= 0.95 <= told["coverage_95"]["high"]
    assert told["sd_factor"] >= 1
    assert told["rmse"]["value"] < 0.1 < told["spread"]
    for part in ("within families", "within sizes", "attention", "rnn"):
        row = told["parts"][part]["tau"]["predictor"]
        assert row["low"] <= row["value"] <= row["high"]
    bins = [name for name in told["parts"] if name.endswith(" parameters")]
    assert len(bins) == 4
    assert [row["k"] for row in told["picks"]] == [1, 3, 6]
    assert all(row["gain"]["low"] > 0 for row in told["picks"][:2])


def test_its_predictions_are_as_sure_as_they_say() -> None:
    """Against the line without noise, on architectures that it has not seen."""
    values = losses(0.05)
    predictor = fit_predictor(stored(), measured(values)[:40])
    subjects = [Subject.of(a) for a in architectures()[40:]]
    mean, sd = predictor.predict(stored().network.encoder, subjects)  # type: ignore[union-attr,arg-type]
    inside = np.abs(mean - values[40:]) <= 1.96 * sd
    assert 0.8 <= inside.mean() <= 1
    assert 0.04 < sd.mean() < 0.15


def test_of_noise_nothing_is_learnt() -> None:
    """τ is about 0, with an interval that holds it; over 8 draws no more than 2 miss."""
    subjects = [Subject.of(a) for a in architectures()[:40]]
    features = features_of(stored().network.encoder, subjects)  # type: ignore[union-attr,arg-type]
    found = []
    for seed in range(8):
        values = np.random.default_rng(seed).normal(size=40)
        outcomes = [Outcome(s, float(v), 1, None) for s, v in zip(subjects, values, strict=True)]
        told = quality(features, outcomes, seed=seed)["parts"]["overall"]["tau"]["predictor"]
        found.append(told)
    missed = [told for told in found if not told["low"] <= 0 <= told["high"]]
    assert len(missed) <= 2
    assert abs(np.mean([told["value"] for told in found])) < 0.1


def test_a_file_gives_the_same_predictor(tmp_path: Path) -> None:
    path = tmp_path / "made" / "predictor.json"
    fitted().write(path)
    again = read_predictor(path)
    subjects = [Subject.of(a) for a in architectures()]
    encoder: Any = stored().network.encoder
    for one, other in zip(
        again.predict(encoder, subjects), fitted().predict(encoder, subjects), strict=True
    ):
        assert np.array_equal(one, other)
    assert again.quality == fitted().quality
    with pytest.raises(UsageError, match="exists already"):
        again.write(path)


def test_another_encoder_is_refused() -> None:
    encoder: Any = stored(1).network.encoder
    with pytest.raises(UsageError, match=r"belongs to the encoder \w+ of 'ghn0'.*fit it anew"):
        fitted().predict(encoder, [Subject.of(architectures()[0])])


def test_a_release_in_half_precision_is_the_same_encoder() -> None:
    encoder: Any = stored(2).network.encoder
    before = encoder_digest(encoder)
    with torch.no_grad():
        for value in encoder.parameters():
            value.copy_(value.half().float())
    assert encoder_digest(encoder) == before
    stored.cache_clear()


def test_what_is_no_predictor_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    tree = fitted().to_dict()
    for change, told in (
        ({"format": 9}, "format 9, and 1 is known"),
        ({"numbers": ["log_params"]}, "fit it anew"),
        ({"rows": tree["rows"][:3]}, "too few rows"),
        ({"rows": [{**row, "loss": None} for row in tree["rows"]]}, "is damaged"),
        ({"kernel": {"wide": 1}}, "is damaged"),
    ):
        path.write_text(json.dumps({**tree, **change}), encoding="utf-8")
        with pytest.raises(UsageError, match=told):
            read_predictor(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError, match="no predictor"):
        read_predictor(path)


def test_members_of_one_structure_are_one() -> None:
    """Dropout and twin families make no difference, so they cannot be on two sides of a split."""
    wet = [tiny.member("mini_gpt", p_drop=p) for p in (0.0, 0.1)]
    twin = tiny.member("gpt_encoder")
    other = tiny.member("mini_gpt", d_model=16)
    rows = [Measured(a, loss) for a, loss in zip([*wet, twin, other], (1, 2, 6, 5), strict=True)]
    first, second = outcomes_of(rows)
    assert (first.loss, first.count, second.loss, second.count) == (3.0, 3, 5.0, 1)
    assert first.subject.family == "attention"


def test_few_structures_and_single_models_are_refused() -> None:
    with pytest.raises(UsageError, match=r"11 results are of 11 structures, and at least 12"):
        fit_predictor(stored(), measured(losses(0.1))[:11])
    singles = Singles({"attention-tied": tiny.member("mini_gpt", tie_weights=True)})
    with pytest.raises(UsageError, match="have no encoder"):
        fit_predictor(replace(stored(), network=singles), measured(losses(0.1)))


def test_sizes_beyond_those_measured_are_named() -> None:
    wide = Subject.of(tiny.member("lstm", d_model=64))
    assert {"log_params", "log_d_model"} <= set(fitted().beyond(wide))
    assert fitted().beyond(Subject.of(architectures()[0])) == []


def test_lines_of_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: few\nfamily: rnn\naxes: {d_model: [8, 16], n_layer: [1, 2], p_drop: [0.0],"
        " tie_weights: [true]}\n",
        encoding="utf-8",
    )
    arch = architectures()[0].to_spec().model_dump(mode="json")
    member = {"space": str(space), "index": 1, "name": "few-002-8d-2L-d0-tTrue"}
    rows = [
        {"arch": arch, "loss": 3.5, "ghn_loss": 4.0, "more": "counts for nothing"},
        {"arch": member, "loss": 3.25},
        {"arch": {"index": 0}, "loss": None},
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    said: list[str] = []
    found = read_results(path, stored(), space=str(space), tell=said.append)
    assert [(one.loss, one.ghn_loss) for one in found] == [(3.5, 4.0), (3.25, None)]
    assert Subject.of(found[0].architecture) == Subject.of(architectures()[0])
    assert found[1].architecture.d_model == 8
    assert len(found[1].architecture.layers) == 2
    # The vocabulary and the longest sequence are the hypernetwork's.
    assert found[1].architecture.vocab_size == stored().tokenizer.vocab_size
    assert found[1].architecture.max_seq_len == 6
    assert said[0].endswith("1 line without a finite loss is left out")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", r"results.jsonl:2: is no JSON"),
        ('{"arch": {}}', r":2: needs the keys arch"),
        ('{"arch": {"index": 1}, "loss": "low"}', r":2: loss: 'low' is no number"),
        ('{"arch": {"index": 1}, "loss": 1}', r":2: an index needs a space"),
        ('{"arch": {"index": 99999, "space": "reasonable"}, "loss": 1}', r":2: .*none at 99999"),
        ('{"arch": {"index": 0, "space": "reasonable", "name": "x"}, "loss": 1}', r":2: .*not x"),
        ('{"arch": {"d_modle": 8}, "loss": 1}', r":2.*d_modle"),
        ('{"arch": {"index": 0, "space": "reasonible"}, "loss": 1}', r":2: unknown space"),
    ],
)
def test_a_line_that_cannot_be_read_is_told(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n" + line, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        read_results(path, stored())


def test_families_share_what_they_are_made_of() -> None:
    """No family has a number of its own: it is told by its operations."""
    arch = family_of("mini_gpt").arch(
        {"d_model": 8, "n_layer": 2, "n_head": 2, "ff_ratio": 2, "p_drop": 0.0,
         "tie_weights": False, "vocab_size": 11, "max_seq_len": 6}
    )  # fmt: skip
    values = dict(zip(NUMBERS, Subject.of(tiny.written(arch)).numbers(), strict=True))
    assert values["attend_a_layer"] == 1
    assert values["rnn_a_layer"] == values["lstm_a_layer"] == values["gru_a_layer"] == 0
    assert values["log_heads"] == 1
    assert values["ff_ratio"] == 2
