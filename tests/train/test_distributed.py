"""Two processes under torchrun do what one does; either goes on with what the other has saved."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import several
import torch
from standins import Lengths, ListBatches, recipe
from torch.nn import functional as F

from windtunnel.arch import ArchSpec, resolve
from windtunnel.config import Document, decode
from windtunnel.data.forms import Whole
from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder
from windtunnel.train.checkpoint import load_weights
from windtunnel.train.distributed import world as world_module
from windtunnel.train.distributed.parallel import check_distribution
from windtunnel.train.distributed.randomness import RowsOfABatch
from windtunnel.train.distributed.world import ALONE, World, joined
from windtunnel.train.identity import run_identity
from windtunnel.train.interrupts import REQUEUE_EXIT
from windtunnel.train.loop import keyed_randomness
from windtunnel.train.objectives.diffusion import DiffusionModel
from windtunnel.train.objectives.make import objective_of
from windtunnel.train.runner import RunParts, train_run

HERE = Path(__file__).parent


def torchrun(*arguments: object, processes: int = 2) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(processes), *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def curve(folder: Path) -> list[tuple[str, int, float]]:
    """All losses of a run: of steps, evaluations and, where there is one, of the average."""
    return [
        (event.kind, event.values["step"], event.values[key])
        for event in RunFolder.open(folder).read_events()
        if event.kind in ("step", "eval")
        for key in ("loss", "ema_loss")
        if key in event.values
    ]


def assert_same(found: Path, expected: Path, tolerance: float = 1e-4) -> None:
    """Absolute, in nats."""
    left, right = curve(found), curve(expected)
    assert [row[:2] for row in left] == [row[:2] for row in right]
    assert [row[2] for row in left] == pytest.approx([row[2] for row in right], abs=tolerance)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every scenario, in ``two`` by two processes and in ``one`` by this one."""
    out = tmp_path_factory.mktemp("runs")
    (out / "two").mkdir()
    torch.set_num_threads(1)
    half = {"changes": {}, "folder": "one-then-two", "on_step": _stop_after(4)}
    with pytest.raises(_Stop):
        several.train(out / "two", "fsdp all of these", ALONE, **half)
    (out / "failing").mkdir()
    training = torchrun(HERE / "several.py", out / "two", "train")
    failing = torchrun(HERE / "several.py", out / "failing", "fail")
    for name in several.RECIPES:
        several.train(out / "one", name, ALONE)
    said, _ = training.communicate(timeout=240)
    # torchrun may end the second before it has said so too.
    told = json.loads((out / "two" / "train-0.json").read_text())
    assert told["code"] == REQUEUE_EXIT, (told, said)
    failing.communicate(timeout=240)
    assert failing.returncode != 0
    return out


class _Stop(Exception):
    """As an error of the machine: the run goes on from its checkpoint."""


def _stop_after(step: int) -> Any:
    def on_step(info: Any) -> None:
        if info.step == step:
            raise _Stop

    return on_step


@pytest.mark.parametrize("name", several.RECIPES)
def test_two_processes_have_the_curve_of_one(trained: Path, name: str) -> None:
    folder = name.replace(" ", "-")
    # In bfloat16 each process rounds its part of a gradient to 8 bits, as each micro-batch does.
    tolerance = 2.0**-7 * 3.2 if "bfloat16" in name else 1e-4
    assert_same(trained / "two" / folder, trained / "one" / folder, tolerance)
    records = [RunFolder.open(trained / side / folder).read_record() for side in ("one", "two")]
    assert records[0] is not None
    assert records[1] is not None
    assert records[1]["processes"] == 2
    for key in ("tokens", "flops", "params", "steps"):
        assert records[0][key] == records[1][key]
    if "bfloat16" not in name:
        assert records[0]["samples"] == records[1]["samples"]


@pytest.mark.parametrize(
    "name", ["ddp watched", "fsdp watched", "ddp all of these", "fsdp all of these"]
)
def test_what_is_watched_is_that_of_all_processes(trained: Path, name: str) -> None:
    found, expected = (
        [e.values for e in RunFolder.open(trained / side / name.replace(" ", "-")).read_events()
         if e.kind == "watch"]
        for side in ("two", "one")
    )  # fmt: skip
    assert [watch["step"] for watch in found] == [2, 4, 6]
    for two, one in zip(found, expected, strict=True):
        assert two["activations"] == pytest.approx(one["activations"], rel=1e-4)
        assert two["parts"].keys() == one["parts"].keys()
        for part, values in one["parts"].items():
            assert two["parts"][part] == pytest.approx(values, rel=1e-3), part


@pytest.mark.parametrize("name", ["fsdp stages", "ddp all of these", "fsdp all of these"])
def test_stages_of_several_processes_are_those_of_one(trained: Path, name: str) -> None:
    two, one = (
        RunFolder.open(trained / side / name.replace(" ", "-")).read_record()
        for side in ("two", "one")
    )
    assert two is not None
    assert one is not None
    assert [stage["name"] for stage in two["stages"]] == ["first", "second"]
    for found, expected in zip(two["stages"], one["stages"], strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_the_average_of_several_processes_is_read_by_one(trained: Path) -> None:
    models = []
    for side in ("one", "two"):
        model = several.parts_of("fsdp ema", ALONE).model
        folder = RunFolder.open(trained / side / "fsdp-ema").checkpoints
        load_weights(folder, model, pytest.fail, ema=True)
        models.append(model.state_dict())
    for name, expected in models[0].items():
        torch.testing.assert_close(models[1][name], expected, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_each_process_writes_its_part_and_one_reads_them_all(trained: Path, name: str) -> None:
    models = []
    for side in ("one", "two"):
        folder = RunFolder.open(trained / side / name)
        model = several.parts_of(name, ALONE).model
        load_weights(folder.checkpoints, model, pytest.fail)
        models.append(model)
    for (_, left), (name_, right) in zip(
        models[0].state_dict().items(), models[1].state_dict().items(), strict=True
    ):
        torch.testing.assert_close(right, left, rtol=1e-3, atol=2e-5, msg=name_)
    newest = max((trained / "two" / name / "checkpoints").iterdir())
    sizes = [file.stat().st_size for file in sorted(newest.glob("model-*-of-00002.safetensors"))]
    assert len(sizes) == 2
    assert min(sizes) > 0.5 * max(sizes)


def test_a_run_goes_on_with_another_number_of_processes(trained: Path) -> None:
    assert_same(trained / "two" / "one-then-two", trained / "one" / "fsdp-all-of-these")
    events = RunFolder.open(trained / "two" / "one-then-two").read_events()
    assert any(event.kind == "resume" for event in events)


def test_a_signal_to_one_stops_all_after_a_checkpoint(trained: Path) -> None:
    path = trained / "two" / "two-then-one"
    folder = RunFolder.open(path)
    last = folder.read_events()[-1]
    assert (last.kind, last.values["status"], last.values["step"]) == ("end", "interrupted", 3)
    assert folder.status == "interrupted"
    train_run(several.parts_of("ddp", ALONE), folder, resume=True)
    assert_same(path, trained / "one" / "ddp")


def test_a_process_that_fails_ends_all_and_its_words_are_told(trained: Path) -> None:
    tmp_path = trained / "failing"
    told = json.loads((tmp_path / "fail-0.json").read_text())
    assert "process 1 of 2 failed" in told["error"]
    assert "the cable was pulled" in told["error"]
    last = RunFolder.open(tmp_path / "failed").read_events()[-1]
    assert last.values["status"] == "failed"
    assert "the cable was pulled" in last.values["error"]


def diffusion(out: Path, kind: str, world: World) -> None:
    """An encoder that learns to copy three tokens by diffusion, and what it writes."""
    arch = {
        "type": "encoder", "vocab_size": 12, "d_model": 16,
        "embedding": {"init_std": 1.0, "position": "learned", "dropout": 0.1},
        "layers": [{"repeat": 2, "mixer": several.ATTENTION, "mlp": "dense", "dropout": 0.1}],
    }  # fmt: skip
    architecture = resolve(decode(Document(arch), ArchSpec))
    config = recipe(
        steps=5, batch_size=4, seq_len=6, eval_every=3, checkpoint_every=2, micro_batch_size=2,
        distributed=kind, objective={"type": "diffusion", "steps": 20},
    )  # fmt: skip
    rows = [_copies(seed) for seed in range(5)]

    def samples(model: Any) -> list[dict[str, Any]]:
        written = objective_of(config.objective, model).sample(model, rows[0], steps=4)  # type: ignore[attr-defined]
        return [{"text": str(written.tolist())}]

    parts = RunParts(
        model=DiffusionModel.built(architecture, seed=1), batches=ListBatches(rows[:4]),
        valid=rows[4:], tokenizer=Lengths(torch.arange(12, dtype=torch.int32).numpy()),
        train=config, identity={}, samples=samples, world=world,
    )  # fmt: skip
    train_run(parts, several.begun(out / f"{kind}-diffusion", world))


def _copies(seed: int) -> Whole:
    source = torch.randint(12, (4, 3), generator=torch.Generator().manual_seed(seed))
    targets = torch.cat([torch.full_like(source, -100), source], 1)
    return Whole(torch.cat([source, source], 1), targets, torch.ones(4, 6, dtype=torch.bool))


def test_two_processes_train_by_diffusion_as_one_does(tmp_path: Path) -> None:
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
    running = torchrun(__file__, "diffusion", tmp_path / "two")
    torch.set_num_threads(1)
    for kind in ("ddp", "fsdp"):
        diffusion(tmp_path / "one", kind, ALONE)
    said, _ = running.communicate(timeout=240)
    assert running.returncode == 0, said
    for kind in ("ddp", "fsdp"):
        one, two = (tmp_path / side / f"{kind}-diffusion" for side in ("one", "two"))
        assert_same(two, one)
        records = [RunFolder.open(path).read_record() for path in (one, two)]
        assert records[0] is not None
        assert records[1] is not None
        assert records[0]["samples"] == records[1]["samples"]


def test_a_process_that_is_stuck_ends_with_the_words_of_the_one_that_failed(
    tmp_path: Path,
) -> None:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    paths = {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "stuck", tmp_path],
            env=os.environ | paths | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=60)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert "windtunnel: process 1 of 2 failed: the cable was pulled" in said[0]
    assert started[0].returncode == UsageError.exit_code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(8, 5, 4), (8, 3), (40, 4)])
@pytest.mark.parametrize("size", [2, 4])
def test_rows_of_a_batch_drop_what_they_drop_in_the_whole(
    shape: tuple[int, ...], size: int
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = 8

    def drawn(x: torch.Tensor) -> list[torch.Tensor]:
        turned = x.transpose(0, -1).contiguous().transpose(0, -1)  # not laid out in order
        return [
            F.dropout(x, 0.3), torch.nn.Dropout(0.5)(turned), x + torch.randn_like(x),
            x + torch.rand_like(x), F.dropout(x, 0.3, training=False),
        ]  # fmt: skip

    with keyed_randomness(torch.device("cpu"), 0, 0, 0):
        whole = drawn(x)
    for rank in range(size):
        own = x.view(rows, -1)[rank::size].reshape(-1, *shape[1:])
        with keyed_randomness(torch.device("cpu"), 0, 0, 0), RowsOfABatch(rank, size, rows):
            parts = drawn(own)
        for part, of_all in zip(parts, whole, strict=True):
            expected = of_all.reshape(rows, -1)[rank::size].reshape(own.shape)
            assert torch.equal(part, expected)


def test_a_run_s_key_does_not_know_the_processes() -> None:
    keys = [
        run_identity(arch={}, data="", train=recipe(distributed=kind), code="", torch_version="",
                     device_type="cpu")
        for kind in (None, "ddp", "fsdp")
    ]  # fmt: skip
    assert keys[0] == keys[1] == keys[2]


def test_what_several_processes_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in ({"batch_size": 3}, {"batch_size": 9, "micro_batch_size": 4}):
        with pytest.raises(UsageError, match="fewer than the 4 processes"):
            check_distribution(recipe(**values), World(0, 4))
    check_distribution(recipe(distributed="fsdp", optimizer={"type": "muon"}), ALONE)
    with pytest.raises(UsageError, match="muon needs whole matrices"):
        check_distribution(recipe(distributed="fsdp", optimizer={"type": "muon"}), World(0, 2))
    with pytest.raises(ValueError, match="found by one process"):
        recipe(distributed="ddp", micro_batch_size="auto")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="set it to ddp or fsdp"), joined(None, "cpu"):
        pass
    with pytest.raises(UsageError, match="names one GPU"), joined("ddp", "cuda:0"):
        pass


def _by_diffusion(out: Path) -> None:
    torch.set_num_threads(1)
    with joined("ddp", "cpu") as world:
        for kind in ("ddp", "fsdp"):
            diffusion(out, kind, world)


def _stuck(out: Path) -> None:
    """The second process fails, and the first waits where it hears neither errors nor signals."""
    world_module._LOOK_SECONDS, world_module._GRACE_SECONDS = 0.1, 0.5
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with joined("ddp", "cpu") as world:
        if not world.first:
            raise UsageError("the cable was pulled")
        time.sleep(300)
    (out / "left").touch()


if __name__ == "__main__":  # what is started twice
    {"diffusion": _by_diffusion, "stuck": _stuck}[sys.argv[1]](Path(sys.argv[2]))
