"""The release that the repository keeps: whole, small, and what its card says."""

import hashlib
import json
import time
from pathlib import Path

import torch

from windtunnel.arch import build, resolve
from windtunnel.hyper.evaluation.unit import mean_loss
from windtunnel.hyper.predict import predict
from windtunnel.hyper.stored import open_stored
from windtunnel.spaces.declared import load_space
from windtunnel.train.run_config import load_run

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "releases" / "small-ghn"
TEXT = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n"
    "First Citizen:\nYou are all resolved rather to die than to famish?\n\nAll:\nResolved. "
    "resolved.\n\nFirst Citizen:\nFirst, you know Caius Marcius is chief enemy to the people.\n"
)


def test_its_files_are_those_of_its_card() -> None:
    facts = json.loads((FOLDER / "release.json").read_bytes())
    weights = (FOLDER / "weights.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == facts["weights_sha256"]
    assert len(weights) == facts["weights_bytes"] < 8e6
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for text in (facts["weights_sha256"], facts["record_sha256"], f"{facts['params']:,}"):
        assert text in card
    assert abs(facts["loss_as_stored"] - facts["loss"]) < 2e-3
    assert "## Cost of training" in card
    assert "## Limits" in card


@torch.no_grad()
def test_what_it_predicts_has_read_text_in_all_five_families() -> None:
    stored = open_stored(FOLDER)
    tokens = torch.tensor(stored.tokenizer.encode(TEXT)).numpy()
    space = load_space(
        ROOT / "examples" / "ghn" / "space.yaml",
        vocab_size=stored.tokenizer.vocab_size, max_seq_len=stored.network.limits.max_seq_len,
    )  # fmt: skip
    uniform = torch.tensor(float(stored.tokenizer.vocab_size)).log().item()
    for family in ("rnn", "lstm", "gru", "gpt_encoder", "mini_gpt"):
        member = space.where(f"family == {family} and d_model == 80 and n_layer == 3")[0]
        began = time.process_time()
        found = predict(stored, member.architecture)
        assert time.process_time() - began < 5
        model = build(member.architecture)
        assert found.weights.keys() == dict(model.named_parameters()).keys()
        plain = mean_loss(model, tokens, 64, 10_000)
        model.load_state_dict(found.weights, strict=False)
        read = mean_loss(model, tokens, 64, 10_000)
        assert read < 4.6 < plain, family
        assert read < uniform - 1.5


def test_thirty_million_parameters_are_predicted_in_a_second() -> None:
    """Processor time of the quickest of three: other work on the machine does not count."""
    changes = {"layers[0].repeat": 10, "layers[0].mixer.num_heads": 8}
    run = load_run(
        ROOT / "examples" / "ghn" / "run.yaml", ["arch.d_model=512", f"arch.set={changes}"]
    )
    stored = open_stored(FOLDER)
    architecture = resolve(run.config.arch, stored.tokenizer.vocab_size)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        found = predict(stored, architecture)
        seconds.append(time.process_time() - began)
    assert found.values == found.params > 30e6
    assert min(seconds) < 1
