"""Parts of the program, each run on the CPU and on another device: what they came to, as numbers.

The other device is a stand-in (``on_standin``) or a real GPU (``on_gpu``); ``THERE`` says which. A
case is a function of the device (``cpu``, or any other name for the one that is not).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from standins import new_folder, parts, recipe
from tests.arch.test_arch import DECODERS, SMALL, tiny
from tests.cli.ghn_files import write_ghn
from tests.conftest import RUN, corpus_text

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.cli.main import main
from windtunnel.data.loader import Batches
from windtunnel.factory import EncoderDecoderConfig, ModelFactory, PerformerParams
from windtunnel.generate import BeamConfig, SamplingConfig, generate, quantized, search
from windtunnel.generate.int8 import Int8Linear
from windtunnel.nn.component import REGISTRIES, Span
from windtunnel.nn.contracts import case as contract
from windtunnel.nn.contracts import examples
from windtunnel.runner import ArchitectureLM, BasicModelRunner
from windtunnel.spaces import create_reasonable_model_dataloader
from windtunnel.train import launch
from windtunnel.train.config import TrainConfig
from windtunnel.train.loop import create_train_state, train_steps
from windtunnel.train.precision import computing
from windtunnel.train.runner import train_run


@dataclass
class There:
    """The device beside the CPU."""

    name: str = "cuda"
    device: str = "cuda:0"
    cpu_numbers: bool = False
    """Whether it computes with the CPU's own kernels, so that texts and hits are the same too."""


THERE = There()

Part = dict[str, Callable[[str], list[Any]]]
ROOT = Path(__file__).parents[2]
VOCABULARY = 64
TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, 4000).astype(np.uint16)
BATCHES = Batches(TOKENS, seq_len=24, batch_size=4, seed=0)
TINY = {"d_model": 16, "max_seq_len": 64, "layers": [{"repeat": 2, "dropout": 0.1}]}


def trained(spec: ArchSpec, device: str, **recipe: Any) -> tuple[Any, list[float]]:
    """A model after three steps, and their losses."""
    values = {"steps": 3, "batch_size": 4, "seq_len": 24, "lr": 1e-2, "threads": 1}
    train = TrainConfig.model_validate_json(json.dumps(values | {"device": device} | recipe))
    architecture = resolve(spec.replace(vocab_size=VOCABULARY))
    state = create_train_state(build(architecture, seed=0), BATCHES, train)
    state.progress.loss_scale = 2.0**8  # from the start one that float16 bears: no step is left out
    losses = [info.loss for info in train_steps(state)]
    homes = {tensor.device.type for tensor in state.model.state_dict().values()}
    assert homes == {"cpu" if device == "cpu" else THERE.name}, homes
    return state.model.eval(), losses


def written(model: Any) -> list[Any]:
    """Texts. Of a device with kernels of its own: that they are those of the same weights on the
    CPU. (Weights that were trained there differ by rounding, which tips a tie.)"""
    there = texts_of(model)
    if THERE.cpu_numbers:
        return there
    copy = deepcopy(model).to("cpu")
    for module in copy.modules():
        if isinstance(module, Int8Linear):
            module.few_rows = 0  # their products of few rows are made for a CPU
    here = texts_of(copy)
    assert there == here, f"written: {there}; on the CPU by the same weights: {here}"
    return []


def texts_of(model: Any) -> list[Any]:
    """Texts: the likeliest, drawn, and searched."""
    drawn = SamplingConfig(temperature=1.0, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    prompts = [[5, 9, 12], [7]]
    texts = [
        generate(model, prompts, max_new_tokens=4, sampling=sampling, seed=1)
        for sampling in (SamplingConfig(temperature=0.0), drawn)
    ]
    found = search(model, prompts, BeamConfig(num_beams=2), max_new_tokens=3)
    return [*texts, [[beam.tokens for beam in beams] for beams in found]]


def presets() -> Part:
    """Every preset: trained, and what decoders write; llama's in int8 too."""

    def case(name: str) -> Callable[[str], list[Any]]:
        def run(device: str) -> list[Any]:
            model, losses = trained(tiny(name), device)
            if name not in DECODERS:
                return [losses]
            small = written(quantized(model)) if name == "llama" else []
            return [losses, written(model), small]

        return run

    return {name: case(name) for name in SMALL}


def components(precision: str = "float32") -> Part:
    """Every example of every component: its output and gradients; on a CPU in float32."""

    def case(one: contract.Case) -> Callable[[str], list[Any]]:
        def run(device: str) -> list[Any]:
            place = torch.device(THERE.device if device != "cpu" else "cpu")
            module = contract.build(one, dtype=torch.float32).to(place)
            x = contract.make_input(one, dtype=torch.float32).to(place).requires_grad_()
            with computing("float32" if device == "cpu" else precision, place):
                y = contract.run(module, x, Span.of(x.shape[1], device=place))
            (y.float() + x).square().mean().backward()
            assert x.grad is not None
            found = [y, x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]
            return [float(t.detach().cpu().double().norm()) for t in found]

        return run

    return {
        str(one): case(one)
        for kind, registry in REGISTRIES.items()
        for name in registry.names()
        for one in examples(kind, name)
    }


def narrow(precision: str) -> Part:
    """Every component and preset by a GPU's rules of autocast; on a CPU in float32."""

    def case(name: str) -> Callable[[str], list[Any]]:
        def run(device: str) -> list[Any]:
            told = "float32" if device == "cpu" else precision
            return trained(tiny(name), device, precision=told)[1]

        return run

    return {**components(precision), **{name: case(name) for name in SMALL}}


OPTIMIZERS = ("adam", "adamw", "adagrad", "sgd", "rmsprop", "adafactor", "lion", "muon", "soap",
              "schedule_free_adamw")  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "bfloat16": {"precision": "bfloat16"},
    "average": {"ema": 0.9, "watch_every": 1},
    "cut": {"micro_batch_size": 3},
    "recomputed": {"activation_checkpointing": True},
    "in chunks": {"loss_chunk": 7},
    "mup": {"mup": {"base_width": 8}},
    "groups": {"groups": [{"match": "head.*", "lr": 0.1}, {"match": "embedding*", "freeze": True}]},
}


def resumed(begins: str, ends: str) -> list[Any]:
    """A run that is interrupted on one device and resumed on another: its last evaluation."""
    folder = new_folder(Path(tempfile.mkdtemp()) / "run")

    class Stop(Exception):
        pass

    def stop(info: Any) -> None:
        if info.step == 10:
            raise Stop

    with suppress(Stop):
        train_run(parts(recipe(device=begins, steps=20)), folder, on_step=stop)
    final = train_run(parts(recipe(device=ends, steps=20)), folder, resume=True)["final"]
    kinds = [event.kind for event in folder.read_events()]
    assert kinds.count("resume") == 1, kinds
    assert ("warning" in kinds) == (begins != ends), kinds
    return [final[name] for name in measured() if name in final]


def recipes() -> Part:
    """Every optimizer, and what else a recipe can ask for."""
    asked = RECIPES | {name: {"optimizer": name} for name in OPTIMIZERS}
    spec = ArchSpec.model_validate_json(json.dumps(TINY))
    found: Part = {
        name: lambda device, recipe=recipe: trained(spec, device, **recipe)[1]
        for name, recipe in asked.items()
    }
    found["resumed there"] = lambda device: resumed("cpu", device)
    found["resumed here"] = lambda device: resumed(device, "cpu")
    return found


def command(*arguments: object) -> str:
    """What a verb prints, run in this process."""
    sys.argv = ["windtunnel", *map(str, arguments)]
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            main()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"windtunnel {arguments} exits with {stop.code}") from stop
    return printed.getvalue()


def bytes_of(text: str) -> list[int]:
    """Of what a model of each device's own has written; see :func:`written`."""
    return list(text.encode()) if THERE.cpu_numbers else []


def losses_in(folder: Path, device: str) -> list[float]:
    """All that was measured in a run, which was on the device."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    (start,) = [event for event in events if event["kind"] == "start"]
    assert start["identity"]["device"] == ("cpu" if device == "cpu" else THERE.name), start
    return [event[name] for event in events for name in measured() if event.get(name) is not None]


def measured() -> list[str]:
    """What is compared of an evaluation and of a step; hits are whole numbers, so one more or less
    is no rounding."""
    hits = ["accuracy", "ema_accuracy"] if THERE.cpu_numbers else []
    return ["loss", "ema_loss", "grad_norm", *hits]


OPENED: list[str] = []
"""Where the models were that verbs have opened."""


def open_noted(*given: Any, **named: Any) -> Any:
    """In place of ``open_trained``."""
    trained = launch.open_trained(*given, **named)
    OPENED.append(next(trained.model.parameters()).device.type)
    return trained


PLAN = """\
arch: {d_model: 16, max_seq_len: 32, layers: [{repeat: 2, dropout: 0.1}]}
data:
  sources: {one: ./corpus.txt, other: ./other.txt}
  tokenizer: bytes
  packing: documents
train:
  batch_size: 4
  seq_len: 16
  threads: 1
  ema: 0.9
  stages:
    - {name: mix, data: {one: 2, other: 1}, steps: 3, schedule: flat}
    - {name: finish, data: other, steps: 3, batch_size: 2}
"""
MASKED = """\
arch: {type: encoder, d_model: 16, max_seq_len: 32, layers: [{repeat: 2}]}
data: {source: ./corpus.txt, tokenizer: bytes}
train: {steps: 3, batch_size: 4, seq_len: 16, threads: 1, objective: masked_token}
"""
SAMPLES = {
    "answer": ("score", "--samples", 3, "-n", 3),
    "classify": ("classify", "one"),
    "diffuse": ("generate", "one", "--steps", 2),
    "translate": ("generate", "one", "--beams", 2, "-n", 3),
}


def verbs() -> Part:
    """Whole runs from the command line, and what reads them."""
    home = Path.cwd()

    def run_of(device: str, file: object, *edits: str) -> Path:
        """A run of two steps, or of those that its plan has."""
        out = Path(tempfile.mkdtemp(dir=home)) / "run"
        asked = [part for edit in (*edits, f"train.device={device}") for part in ("--set", edit)]
        command("train", file, *asked, "--out", out)
        return out

    def sample(name: str) -> Callable[[str], list[Any]]:
        def run(device: str) -> list[Any]:
            os.chdir(ROOT)  # the data is named from there
            out = run_of(device, ROOT / "examples" / "samples" / f"{name}.yaml", "train.steps=2")
            verb, *more = SAMPLES[name]
            told = command(verb, out, *more, "--device", device)
            assert OPENED[-1] == ("cpu" if device == "cpu" else THERE.name), OPENED
            return [losses_in(out, device), bytes_of(told)]

        return run

    def simple(file: Path, *edits: str) -> Callable[[str], list[Any]]:
        return lambda device: losses_in(run_of(device, file, *edits), device)

    def moved(device: str) -> list[Any]:
        """Begun there, continued here, and again there."""
        first = run_of(device, home / "run.yaml")
        here, there = first.with_name("here"), first.with_name("there")
        for begun, steps, out, name in ((first, 12, here, "cpu"), (here, 18, there, device)):
            command("branch", begun, "--set", f"train.steps={steps}", "--set",
                    f"train.device={name}", "--out", out)  # fmt: skip
        runs = [(first, device), (here, "cpu"), (there, device)]
        return [losses_in(out, name) for out, name in runs]

    def hypernetwork(device: str) -> list[Any]:
        out = Path(tempfile.mkdtemp(dir=home)) / "run"
        command("ghn", "train", home / "ghn.yaml", "--set", f"train.device={device}", "--out", out)
        return losses_in(out, device)

    for name, text in (("plan", PLAN), ("masked", MASKED), ("run", RUN)):
        Path(f"{name}.yaml").write_text(text, encoding="utf-8")
    Path("corpus.txt").write_text(corpus_text(), encoding="utf-8")
    Path("other.txt").write_text(corpus_text()[::-1], encoding="utf-8")
    write_ghn()
    return {
        "moved": moved,
        "hypernetwork": hypernetwork,
        "plan": simple(home / "plan.yaml"),
        "masked": simple(home / "masked.yaml"),
        "probe": simple(ROOT / "examples" / "probes" / "mqar.yaml", "train.steps=2"),
        **{name: sample(name) for name in SAMPLES},
    }


PAIRS = [{"prompt": "ab" * n, "truth": "cd" * (n + 1)} for n in range(6)]


def interfaces() -> Part:
    """Runners, the factory's models, members of a space."""

    def runner(arch: str) -> Callable[[str], list[Any]]:
        def run(device: str) -> list[Any]:
            made = BasicModelRunner(ArchitectureLM, overrides={"arch": arch, "tokenizer": "bytes"})
            sizes = {"num_blocks": 1, "embed_dim": 16, "max_len": 32}
            made.initialize(device, optimizer="adamw", lr=0.02, **sizes)
            losses = [float(made.train(PAIRS)[1]) for _ in range(3)]
            saved = Path(tempfile.mkdtemp()) / "saved"
            made.save(saved)
            again = BasicModelRunner(ArchitectureLM)
            again.initialize(device, saved)
            more = [float(again.train(PAIRS)[1]), float(again.validate(PAIRS)[1])]
            return [losses, more, [bytes_of(t) for t in again.generate(["ab", "a"], 12)]]

        return run

    def factory(kind: str) -> Callable[[str], list[Any]]:
        def run(device: str) -> list[Any]:
            inside, across = (
                PerformerParams(
                    d_model=16, device="cpu", batch_size=2, num_layers=1, num_heads=2, d_ff=2,
                    dropout=0.0, attention_type=attention,
                )
                for attention in (kind, "linear")
            )  # fmt: skip
            model = ModelFactory.create_encoder_decoder(EncoderDecoderConfig(across, inside))
            generator = torch.Generator().manual_seed(0)
            src, tgt = (torch.randn(2, t, 16, generator=generator) for t in (5, 4))
            mask = torch.ones(2, 5, dtype=torch.bool)
            mask[0, 3:] = False
            place = torch.device(THERE.device if device != "cpu" else "cpu")
            y = model.to(place).eval()(src.to(place), tgt.to(place), src_mask=mask.to(place))
            return [float(y.detach().cpu().double().abs().sum())]

        return run

    def members(device: str) -> list[Any]:
        place = THERE.device if device != "cpu" else "cpu"
        loader, configs = create_reasonable_model_dataloader(64, 16, device=place)
        assert len(configs) == 16704
        models, _ = next(iter(loader))
        x = torch.arange(8, device=place)[None]
        return [float(m.eval()(x).detach().cpu().double().abs().sum()) for m in models]

    return {
        **{arch: runner(arch) for arch in ("llama", "gpt2", "mamba", "lstm")},
        **{kind: factory(kind) for kind in ("softmax", "causal_linear")},
        "members": members,
    }


def refusals() -> Part:
    """What such a device refuses; on a CPU all of it goes."""

    def sum_of(device: str, other: str, dtype: torch.dtype) -> list[Any]:
        place = THERE.device if device != "cpu" else "cpu"
        one = torch.ones(2, device=place, dtype=dtype)
        return [float((one + torch.ones(2, device=other)).sum())]

    return {
        "two devices": lambda device: sum_of(device, "cpu", torch.float32),
        "float64": lambda device: sum_of(
            device, THERE.device if device != "cpu" else "cpu", torch.float64
        ),
    }


PARTS: dict[str, Callable[[], Part]] = {
    "presets": presets, "components": components, "recipes": recipes, "verbs": verbs,
    "interfaces": interfaces, "refusals": refusals, "autocast": partial(narrow, "autocast"),
    "float16": partial(narrow, "float16"),
}  # fmt: skip


def outcome(run: Callable[[str], list[Any]], device: str, on: AbstractContextManager[Any]) -> Any:
    try:
        with on if device != "cpu" else nullcontext():
            return run(device)
    except Exception:
        return traceback.format_exc()


def outcomes(part: str, there: Callable[[], AbstractContextManager[Any]] = nullcontext) -> str:
    """What each case of a part came to on the CPU and on the device (within ``there``), as JSON."""
    found = {}
    with redirect_stdout(sys.stderr):
        for name, run in PARTS[part]().items():
            found[name] = [outcome(run, "cpu", nullcontext()), outcome(run, "cuda", there())]
    return json.dumps(found)
