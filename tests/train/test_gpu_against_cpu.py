"""All that trains and writes does so on a CUDA GPU with the CPU's results, to rounding.

The cases are those of ``test_standin_device``, on real kernels. Rehearse them without a GPU by
``pytest -m gpu --gpu-device cpu``, which runs each twice on the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_standin_device import NEAR, ROOT, numbers

SCRIPT = Path(__file__).with_name("on_gpu.py")
pytestmark = pytest.mark.gpu
PARTS = ("presets", "components", "recipes", "verbs", "interfaces", "autocast", "float16")
Outcomes = dict[str, list[Any]]

ROUNDING = {"bfloat16": 1e-2, "muon": 1e-2, "soap": 1e-2}
"""Relative. In bfloat16 (8 bits, 4e-3) each kernel rounds at places of its own; muon iterates in it
on CUDA alone; SOAP's eigenvectors of near eigenvalues are any of their plane."""
FLOAT32 = 1e-3
"""Of the rest. Sums of n float32 terms in another order differ by up to n · 6e-8, here 1e-5 of a
gradient; the first steps of Adam and its kin divide by the gradient's own size and so lift a
difference in small gradients to one of the update; three steps at a rate of 0.01 keep it far below
a hundredth of what they change the loss by (some 5 %), which any fault would exceed."""


def told(kind: str, part: str, folder: Path) -> Outcomes:
    """What each case of a part came to on the CPU and on the GPU, by a process of its own."""
    folder.mkdir()
    path = os.pathsep.join([str(ROOT), str(SCRIPT.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), kind, part], cwd=folder, text=True,
        env=os.environ | {"WINDTUNNEL_CACHE": str(folder / "cache"), "PYTHONPATH": path},
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Outcomes = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def outcomes(gpu: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcomes]:
    """Of a part. All parts run side by side, and have ended before the first test goes on, so that
    they disturb nobody's times."""
    folder = tmp_path_factory.mktemp("parts")
    with ThreadPoolExecutor(max(1, min(len(PARTS), (os.cpu_count() or 1) // 2))) as pool:
        found: dict[str, Future[Outcomes]] = {
            part: pool.submit(told, gpu, part, folder / part) for part in PARTS
        }
    return lambda part: found[part].result()


def failures(found: Outcomes) -> list[str]:
    """What ended with an error, on which side."""
    return [
        f"{name}, {side}: {value}"
        for name, sides in found.items()
        for side, value in zip(("cpu", "gpu"), sides, strict=True)
        if isinstance(value, str)
    ]


@pytest.mark.parametrize("part", ["presets", "components", "recipes", "verbs", "interfaces"])
def test_it_works_there_as_on_the_cpu(outcomes: Callable[[str], Outcomes], part: str) -> None:
    found = outcomes(part)
    assert len(found) > 5
    wrong = failures(found)
    for name, (here, there) in found.items():
        if isinstance(here, str) or isinstance(there, str):
            continue
        expected, got = list(numbers(here)), list(numbers(there))
        assert expected, name
        # Of gradients that are 0 but for rounding only the size is the same.
        near = pytest.approx(expected, rel=ROUNDING.get(name, FLOAT32), abs=1e-5)
        if got != near:
            wrong.append(f"{name}: {got} on the GPU, {expected} on the CPU")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("precision", ["float16", "autocast"])
def test_narrow_numbers_train_as_float32_does_on_the_cpu(
    outcomes: Callable[[str], Outcomes], precision: str
) -> None:
    found = outcomes(precision)
    assert len(found) > 100
    wrong, changed = failures(found), 0
    for name, (wide, narrow) in found.items():
        if isinstance(wide, str) or isinstance(narrow, str):
            continue
        if narrow != pytest.approx(wide, rel=NEAR[precision], abs=1e-3):
            wrong.append(f"{name}: {narrow} on the GPU, {wide} in float32 on the CPU")
        changed += narrow != pytest.approx(wide, rel=1e-5)
    assert not wrong, "\n\n".join(wrong)
    assert changed > 70, "autocast narrows nothing"
