"""Reports are the same whatever the engine, the number of workers and the order of completion.

Byte for byte, ``study.json`` and ``report.html``, but for what a clock or a machine says. Exactly
these fields are set to one value before the bytes are compared (and the page is made anew from the
runs with these fields): ``time`` (all in it), ``seconds``, ``created``, ``train_seconds``,
``steps_per_second``, ``tokens_per_second`` and ``peak_memory_bytes``; and the path of the folder in
which it all lies.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.study.test_conduct import create, fake

from windtunnel.cli.reporting import report_study
from windtunnel.runs import RunStore
from windtunnel.study.conduct import conduct
from windtunnel.study.engines import Engine, LocalEngine
from windtunnel.study.execute import Progress
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import Plan
from windtunnel.study.planning import Ground, plan_compare
from windtunnel.train.run_config import LoadedRun

MEASURED = frozenset(
    {"time", "seconds", "created", "train_seconds", "cpu_seconds", "tokens_per_second",
     "steps_per_second", "peak_memory_bytes"}
)  # fmt: skip


def unmeasured(tree: Any) -> Any:
    """The same with every measured number set to one value."""
    if isinstance(tree, dict):
        numbers = {k: v for k, v in tree.items() if k in MEASURED and isinstance(v, int | float)}
        times = {
            k: dict.fromkeys(v) for k, v in tree.items() if k == "time" and isinstance(v, dict)
        }
        return {k: 1.0 if k in numbers else unmeasured(v) for k, v in (tree | times).items()}
    return [unmeasured(item) for item in tree] if isinstance(tree, list) else tree


def normal(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """``plan.json``, ``study.json`` and ``report.html`` of ``study``, without what was measured."""
    monkeypatch.chdir(workplace)
    for path in workplace.rglob("*.json"):
        if "cache" not in path.parts:
            tree = unmeasured(json.loads(path.read_text()))
            path.write_text(json.dumps(tree, indent=2, ensure_ascii=False))
    for path in workplace.rglob("events.jsonl"):
        lines = [json.dumps(unmeasured(json.loads(s))) for s in path.read_text().splitlines()]
        path.write_text("".join(f"{line}\n" for line in lines))
    report_study(Path("study"), command="windtunnel compare")
    here = str(workplace).encode()
    names = ("plan.json", "study.json", "report.html")
    return {name: (Path("study") / name).read_bytes().replace(here, b"HERE") for name in names}


Conducted = Callable[[str, Engine, int], dict[str, bytes]]


@pytest.fixture
def conducted(
    load: Callable[..., LoadedRun], ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Conducted:
    """A study of six made-up runs in a folder of its own, as normal bytes."""
    arms = [load("gpt2"), load("gru"), load("lstm")]
    plan: Plan = plan_compare(arms, seeds=2, budget=4000, ground=ground)

    def conducted(name: str, engine: Engine, workers: int) -> dict[str, bytes]:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        order: list[str] = []

        def watch(progress: Progress) -> None:
            order.extend(running.name for running in progress.running)

        done = conduct(
            plan, StudyFolder(Path("study")), store=RunStore("runs"), workers=workers,
            engine=engine, create=create, command=fake("keyed"), on_progress=watch,
        )  # fmt: skip
        assert {outcome.attempts for outcome in done.outcomes.values()} == {1}
        return normal(tmp_path / name, monkeypatch)

    return conducted


def test_one_worker_and_three_come_to_the_same_bytes(conducted: Conducted) -> None:
    one, three = (conducted(f"local-{n}", LocalEngine(), n) for n in (1, 3))
    assert one.keys() == three.keys()
    for name in one:
        assert one[name] == three[name], name


def test_ray_comes_to_the_same_bytes_as_local_workers(
    conducted: Conducted, ray_engine: Engine
) -> None:
    local, ray = conducted("local", LocalEngine(), 2), conducted("ray", ray_engine, 3)
    for name in local:
        assert local[name] == ray[name], name


@pytest.mark.slow
def test_real_studies_come_to_the_same_bytes(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command: one local worker, three, and a Ray of its own."""
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    text = text.replace("./corpus.txt", str(workplace / "corpus.txt"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = {}
    for engine, workers in (("local", 1), ("local", 3), ("ray=local", 2)):
        place = workplace / f"{engine[:3]}-{workers}"
        place.mkdir()
        (place / "run.yaml").write_text(text, encoding="utf-8")
        other = text.replace("small", "gru").replace("{type: attention, num_heads: 2}", "gru")
        (place / "other.yaml").write_text(other, encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "windtunnel", "compare", "run.yaml", "other.yaml", "--seeds",
             "2", "--budget", "600", "--out", "study", "--workers", str(workers),
             "--engine", engine],
            cwd=place, env=environment, check=True, timeout=900,
        )  # fmt: skip
        found[engine, workers] = normal(place, monkeypatch)
    first, *others = found.values()
    for other_bytes in others:
        for name in first:
            assert first[name] == other_bytes[name], name
