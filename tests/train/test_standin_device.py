"""All that trains and writes does so on a device that is not the CPU, with the CPU's results.

The device is a stand-in (``standin_device``), as machines without a GPU have none: it refuses
tensors of two devices as a GPU does, and for Apple's float64. What only hardware shows is in
``test_devices``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("on_standin.py")
ROUNDING = {"bfloat16": 2e-3, "soap": 2e-3}
"""Where an order of sums is another: in bfloat16, and in SOAP's eigenvectors."""


def outcomes(kind: str, part: str, folder: Path) -> dict[str, list[Any]]:
    """What each case came to on the CPU and on the stand-in."""
    path = os.pathsep.join([str(ROOT), str(SCRIPT.parent), *sys.path])
    here = {"WINDTUNNEL_CACHE": str(folder / "cache"), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), kind, part],
        cwd=folder, env=os.environ | here, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for part in value:
            yield from numbers(part)
    else:
        yield value


@pytest.mark.parametrize("part", ["presets", "components", "recipes", "verbs", "interfaces"])
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_it_works_there_as_on_the_cpu(kind: str, part: str, tmp_path: Path) -> None:
    found = outcomes(kind, part, tmp_path)
    assert len(found) > 5
    for name, (here, there) in found.items():
        for told in (here, there):
            assert not isinstance(told, str), f"{name}: {told}"
        expected = list(numbers(here))
        assert expected, name
        assert list(numbers(there)) == pytest.approx(expected, rel=ROUNDING.get(name, 2e-5)), name


RECURRENT = ("mixer rnn()", "mixer gru()", "mixer lstm()")
"""What stays in float32 under autocast."""
NEAR = {"float16": 0.01, "autocast": 0.1}
"""In bfloat16 gla's keys, two wide here, have gradients that are differences of rounded numbers."""


@pytest.mark.parametrize(
    ("kind", "precision"), [("cuda", "float16"), ("cuda", "autocast"), ("mps", "autocast")]
)
def test_by_its_rules_of_autocast_all_train_as_in_float32(
    kind: str, precision: str, tmp_path: Path
) -> None:
    found = outcomes(kind, precision, tmp_path)
    assert len(found) > 100
    changed = 0
    for name, (wide, narrow) in found.items():
        for told in (wide, narrow):
            assert not isinstance(told, str), f"{name}: {told}"
        assert narrow == pytest.approx(wide, rel=NEAR[precision], abs=1e-3), name
        changed += narrow != pytest.approx(wide, rel=1e-5)
    assert changed > 70, "autocast narrows nothing"
    for name in RECURRENT:  # cuDNN would take float16 for bfloat16
        wide, narrow = found[name]
        assert narrow == pytest.approx(wide, rel=1e-5), name


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_stand_in_refuses_what_such_a_device_does(kind: str, tmp_path: Path) -> None:
    found = outcomes(kind, "refusals", tmp_path)
    here, there = found["two devices"]
    assert here == [4.0]
    assert "expected all tensors to be on one device" in there
    here, there = found["float64"]
    assert here == [4.0]
    assert ("has no torch.float64" in there) if kind == "mps" else there == [4.0]
