"""Measuring speeds: whose fault it is, where one cannot be measured."""

import io
import json
import sys
from pathlib import Path

import pytest

from windtunnel.errors import StudyError
from windtunnel.study import ground, speed_probe
from windtunnel.train import launch
from windtunnel.train.run_config import load_run

RUN = """\
arch: {preset: llama, name: NAME, d_model: 16}
data: {source: corpus.txt, tokenizer: bytes}
train: {steps: 2, seq_len: 8, batch_size: 2, lr: RATE}
"""


def test_the_run_that_cannot_be_measured_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("a few words of text. " * 200, encoding="utf-8")
    configs = []
    for name, rate in (("fine", "1e-3"), ("broken", "2e-3")):
        Path(f"{name}.yaml").write_text(RUN.replace("NAME", name).replace("RATE", rate))
        configs.append(load_run(f"{name}.yaml").config)
    Path("corpus.txt").unlink()
    with pytest.raises(StudyError, match=r"the speed cannot be measured: fine: .*corpus\.txt"):
        ground.measure_speeds(configs)


def test_what_a_component_raises_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(run: object) -> None:
        raise RuntimeError("its own fault")

    monkeypatch.setattr(launch, "ready_run", broken)
    monkeypatch.setattr(speed_probe, "read_tree", lambda tree: tree)
    asked = {"began": 0.0, "runs": [{}], "names": ["mine"]}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    with pytest.raises(SystemExit) as end:
        speed_probe.main()
    assert end.value.code == 1
    assert capsys.readouterr().err == "mine: RuntimeError('its own fault')\n"
