"""Every preset, made small: it learns real text, resumes to the bit, and generates.

The text is sentences of ten words, which stay what they are: who knows only how often each byte
comes is a nat behind who has learnt the words. An encoder writes nothing: it finds tokens that are
left out. The ``slow`` test does the same through the command line, on the default corpus.
"""

import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.arch.test_arch import DECODERS, SMALL, tiny
from tests.conftest import corpus_text

from windtunnel.arch import build, resolve
from windtunnel.data.config import DataConfig
from windtunnel.data.dataset import prepare
from windtunnel.data.forms import form_of
from windtunnel.data.loader import Batches
from windtunnel.data.sample_loader import SampleBatches, Samples
from windtunnel.data.samples import Marks
from windtunnel.data.tokenizers.plain import BytesTokenizer
from windtunnel.generate import SamplingConfig, generate
from windtunnel.generate.targets import generate_targets
from windtunnel.train.batch import BatchSource
from windtunnel.train.checkpoint import load_newest, save_checkpoint
from windtunnel.train.config import TrainConfig
from windtunnel.train.evaluation import evaluate
from windtunnel.train.loop import TrainState, create_train_state, train_steps

STEPS, LEFT, VOCABULARY = 50, 6, 128
SIZES = ("-small", "-large", "-default")
FAMILIES = [name for name in DECODERS if not name.endswith(SIZES)]
OTHERS = [name for name in SMALL if name not in DECODERS and not name.endswith(SIZES)]
WORDS = {"cat": "katze", "dog": "hund", "old": "alt", "king": "koenig"}
TOKENS = np.frombuffer(corpus_text(12_000).encode(), dtype=np.uint8)
RECIPE = TrainConfig(
    steps=STEPS, batch_size=8, seq_len=24, lr=1e-2, threads=1,
    schedule={"type": "linear", "warmup": 5},
)  # fmt: skip
PACES = {
    "rnn": (150, 1e-2), "t5": (100, 1e-2), "bert": (1500, 2e-3),
    "performer-encoder": (1500, 3e-3),
}  # fmt: skip
"""Steps and rates of those that learn more slowly: an encoder has a target in seven tokens."""


def text_batches() -> Batches:
    return Batches(TOKENS, seq_len=RECIPE.seq_len, batch_size=RECIPE.batch_size, seed=0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> BatchSource:
    """Words and their translations, one byte a token."""
    folder = tmp_path_factory.mktemp("pairs")
    texts = list(product(WORDS, repeat=3))
    (folder / "a.en").write_text("".join(" ".join(words) + "\n" for words in texts))
    german = (" ".join(WORDS[word] for word in words) for words in texts)
    (folder / "a.de").write_text("".join(f"{line}\n" for line in german))
    source = {"type": "parallel", "source": str(folder / "a.en"), "target": str(folder / "a.de")}
    config = DataConfig.model_validate({"source": source, "tokenizer": "bytes"})
    data = prepare(config, cache=folder / "cache")
    form = form_of("seq2seq", Marks.of(data.tokenizer), seq_len=RECIPE.seq_len)
    return SampleBatches(Samples(data.train, form), batch_size=RECIPE.batch_size, seed=0)


def frequency_loss(batches: BatchSource) -> float:
    """What knowing how often each target comes is worth, in nats."""
    found = np.concatenate([batches.at(n).targets.numpy().ravel() for n in range(20)])
    parts = np.bincount(found[found >= 0]) / (found >= 0).sum()
    parts = parts[parts > 0]
    return float(-(parts * np.log(parts)).sum())


def weights(state: TrainState) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def trained_twice(name: str, batches: BatchSource, vocabulary: int, folder: Path) -> TrainState:
    """A preset trained: it learns more than frequencies, and a run that was torn is the same."""
    steps, lr = PACES.get(name, (STEPS, RECIPE.lr))
    recipe = RECIPE.model_copy(update={"steps": steps, "lr": lr})

    def fresh() -> TrainState:
        architecture = resolve(tiny(name).replace(vocab_size=vocabulary))
        return create_train_state(build(architecture, seed=0), batches, recipe)

    whole = fresh()
    losses = []
    for info in train_steps(whole):
        losses.append(info.loss)
        if info.step == steps - LEFT:
            save_checkpoint(folder, whole, keep=1, validation_loss=None)
    assert losses[0] == pytest.approx(np.log(vocabulary), rel=0.1)
    ahead = 0.4 if tiny(name).type == "encoder" else 1.0
    assert np.mean(losses[-5:]) < frequency_loss(batches) - ahead

    resumed = fresh()
    assert load_newest(folder, resumed, pytest.fail) == steps - LEFT
    list(train_steps(resumed))
    expected = weights(whole)
    for key, tensor in weights(resumed).items():
        assert torch.equal(tensor, expected[key]), key
    return whole


@pytest.mark.parametrize("name", FAMILIES)
def test_a_preset_learns_resumes_and_generates(name: str, tmp_path: Path) -> None:
    model: Any = trained_twice(name, text_batches(), VOCABULARY, tmp_path).model
    greedy = SamplingConfig(temperature=0.0)
    prompts = [[104, 105], [97]]
    texts = generate(model, prompts, max_new_tokens=6, sampling=greedy)
    alone = [generate(model, [p], max_new_tokens=6, sampling=greedy)[0] for p in prompts]
    assert texts == alone


@pytest.mark.parametrize("name", OTHERS)
def test_a_preset_that_encodes_learns_resumes_and_predicts(
    name: str, pairs: BatchSource, tmp_path: Path
) -> None:
    greedy = SamplingConfig(temperature=0.0)
    if tiny(name).type == "encoder":
        state = trained_twice(name, text_batches(), VOCABULARY, tmp_path)
        found = evaluate(
            state.model,
            [text_batches().at(position) for position in range(2000, 2016)],
            BytesTokenizer(()),
            state.objective,
        )
        commonest = np.bincount(TOKENS).max() / len(TOKENS)
        assert found.accuracy > commonest + 0.1, "no better than the commonest token"
        return
    model: Any = trained_twice(name, pairs, 259, tmp_path).model
    sources = [[byte + 3 for byte in text] + [1] for text in (b"cat old dog", b"king")]
    texts = generate_targets(model, sources, [0, 0], max_new_tokens=9, sampling=greedy, eos=1)
    alone = [
        generate_targets(model, [source], [0], max_new_tokens=9, sampling=greedy, eos=1)[0]
        for source in sources
    ]
    assert texts == alone


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_a_preset_trains_from_the_command_line(name: str, tmp_path: Path) -> None:
    """``windtunnel train`` on the default corpus, torn and resumed, then ``generate``."""
    spec = tiny(name).replace(vocab_size="auto").model_dump(mode="json")
    train = {
        "steps": 50, "batch_size": 8, "seq_len": 24, "threads": 1,
        "lr": 1e-2, "log_every": 1,
        "schedule": {"type": "linear", "warmup": 5}, "checkpoint_every": 20, "eval_every": 25,
    }  # fmt: skip
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps({"arch": spec, "data": {"tokenizer": "bytes"}, "train": train}))

    def windtunnel(*arguments: object) -> str:
        command = [sys.executable, "-m", "windtunnel", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    first = json.loads(windtunnel("train", run, "--out", whole, "--json"))
    process = subprocess.Popen(
        [sys.executable, "-m", "windtunnel", "train", str(run), "--out", str(torn)],
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not any((torn / "checkpoints").glob("step-*")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    second = json.loads(windtunnel("train", run, "--out", torn, "--resume", "--json"))
    assert first["final"]["loss"] == second["final"]["loss"]
    weights_of = [
        (out / "checkpoints" / "step-00000050" / "model.safetensors").read_bytes()
        for out in (whole, torn)
    ]
    assert weights_of[0] == weights_of[1]
    events = [json.loads(line) for line in (whole / "events.jsonl").open(encoding="utf-8")]
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    assert np.mean(losses[-5:]) < losses[0] - 1.0
    if spec["type"] != "encoder":
        assert windtunnel("generate", whole, "the king and", "-n", 8, "--greedy")
