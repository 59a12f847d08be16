"""What all tests share: one thread a process, and the command line in this process.

The suite runs in parallel, and results must not depend on the machine, hence the threads.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from windtunnel.cli.main import main
from windtunnel.study import process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gpu-device", choices=("cuda", "cpu"), default="cuda",
        help="where tests marked gpu run; cpu rehearses them, all but what only a GPU has",
    )  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tutorial takes minutes: begun last, it would leave the other processes idle."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = item.config.getoption("--gpu-device") == "cuda"
    if item.get_closest_marker("gpu") and wanted and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and this machine has none")


@pytest.fixture(scope="session")
def gpu(pytestconfig: pytest.Config) -> str:
    """Where a test marked gpu computes: ``cuda``, or ``cpu`` in a rehearsal."""
    name: str = pytestconfig.getoption("--gpu-device")
    return name


RUN = """\
arch:
  name: small
  d_model: 16
  max_seq_len: 32
  embedding: {tie: true}
  layers:
    - repeat: 2
      norm: rmsnorm
      mixer: {type: attention, num_heads: 2}
      mlp: {type: glu, ratio: 2}
data: {source: ./corpus.txt, tokenizer: bytes}
train: {steps: 6, batch_size: 4, seq_len: 16, lr: 3e-3, eval_every: 3, eval_tokens: 200,
        checkpoint_every: 2, log_every: 1, threads: 1}
"""


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def corpus_text(words: int = 3000) -> str:
    """Sentences of a few words: learnable, and long enough for a train and a validation side."""
    source = random.Random(0)
    vocabulary = ["the", "a", "king", "queen", "speaks", "sleeps", "and", "never", "to", "rest"]
    lines = [" ".join(source.choices(vocabulary, k=8)) + "." for _ in range(words // 8)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a corpus and a run file, as the current one; caches below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINDTUNNEL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(exist_ok=True)
    usual = {process._name(precision): 360 * 2**20 for precision in ("float32", "bfloat16")}
    (tmp_path / "cache" / "process-bytes.json").write_text(json.dumps(usual))  # not measured anew
    monkeypatch.delenv("WINDTUNNEL_RUNS", raising=False)
    (tmp_path / "corpus.txt").write_text(corpus_text(), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    return tmp_path


@pytest.fixture
def windtunnel(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs the command with some arguments."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["windtunnel", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        found = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in found.err
        return Answer(code, found.out, found.err)

    return run
