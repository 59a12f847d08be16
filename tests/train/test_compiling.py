"""Compiled training steps: what is chosen, what is told, what stays the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from standins import (
    SEQ_LEN,
    ListBatches,
    Rows,
    TinyModel,
    final_weights,
    learnable_batches,
    new_folder,
    parts,
    recipe,
)
from torch import Tensor, nn

from windtunnel.errors import RunError
from windtunnel.runs import RunFolder, run_key
from windtunnel.train import loop
from windtunnel.train.accumulate import accumulate
from windtunnel.train.compiling import MEASURED, MOST_SHAPES, Compiling, compile_loss
from windtunnel.train.config import TrainConfig
from windtunnel.train.identity import run_identity
from windtunnel.train.interrupts import Interrupted
from windtunnel.train.loop import create_train_state
from windtunnel.train.runner import train_run

PHASE = MEASURED + 1
BATCH = learnable_batches(1)[0]


class Loss(nn.Module):
    def forward(self, batch: Any) -> Tensor:
        return batch.inputs.sum()


class Fake:
    """In the compiler's place: counts what it compiles, and computes as before."""

    def __init__(self, error: Exception | None = None) -> None:
        self.compiled, self.calls, self.error = 0, 0, error

    def __call__(self, loss: nn.Module) -> Callable[[Any], Tensor]:
        self.compiled += 1

        def run(batch: Any) -> Tensor:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return loss(batch)

        return run


def told(chosen: Compiling, seconds: list[float], steps: int = 1000) -> list[Any]:
    found = []
    for number, spent in enumerate(seconds, start=1):
        chosen(BATCH)
        found.append(chosen.after_step(number, spent, steps - number))
    return [one for one in found if one is not None]


def auto(fake: Fake, least: float = 0.0) -> Compiling:
    return Compiling(Loss(), "auto", compiler=fake, least_seconds=least)


def test_auto_stays_compiled_where_that_pays_back_within_the_run() -> None:
    fake = Fake()
    chosen = auto(fake)
    # Eager 0.5 s, compiled 0.25 s, 20 s to compile: paid back after 80 of the 988 steps left.
    (event,) = told(chosen, [3.0, *[0.5] * MEASURED, 20.25, *[0.25] * MEASURED, 0.25])
    assert event == {
        "step": 2 * PHASE, "chosen": "compiled", "eager_seconds": 0.5, "compiled_seconds": 0.25,
        "compile_seconds": 20.0,
    }  # fmt: skip
    assert (chosen.now, fake.compiled, fake.calls) == ("compiled", 1, PHASE + 1)


@pytest.mark.parametrize(
    ("compiled", "steps"), [(0.25, 2 * PHASE + 80), (0.5, 10_000), (0.75, 10_000)]
)
def test_auto_goes_back_where_it_does_not_pay(compiled: float, steps: int) -> None:
    fake = Fake()
    chosen = auto(fake)
    seconds = [0.5] * PHASE + [20 + compiled] + [compiled] * MEASURED + [0.5] * 3
    (event,) = told(chosen, seconds, steps)
    assert (event["chosen"], chosen.now, fake.calls) == ("eager", "eager", PHASE)
    assert (event["compiled_seconds"], event["compile_seconds"]) == (compiled, 20.0)


def test_one_more_step_left_and_it_pays() -> None:
    seconds = [0.5] * PHASE + [20.25] + [0.25] * MEASURED
    (event,) = told(auto(Fake()), seconds, 2 * PHASE + 81)
    assert event["chosen"] == "compiled"


def test_auto_does_not_even_try_for_a_short_run() -> None:
    fake = Fake()
    (event,) = told(auto(fake, least=60.0), [0.5] * 20, PHASE + 119)
    assert event == {"step": PHASE, "chosen": "eager", "eager_seconds": 0.5}
    assert fake.compiled == 0


def test_a_slow_first_step_and_one_outlier_do_not_decide() -> None:
    chosen = auto(Fake())
    seconds = [9.0, 0.2, 0.2, 7.0, 0.2, 0.2, 20.0, 0.3, 0.3, 0.3, 0.3, 0.3]
    (event,) = told(chosen, seconds, 10**6)
    assert (event["chosen"], event["eager_seconds"]) == ("eager", 0.2)


def of_shape(b: int, t: int) -> Rows:
    return Rows(BATCH.inputs[:b, :t], BATCH.targets[:b, :t])


def test_the_first_shapes_are_compiled_and_later_ones_are_not() -> None:
    fake = Fake()
    chosen = Compiling(Loss(), "on", compiler=fake)
    shapes = [(b, t) for b in (1, 2) for t in range(1, 5)]
    assert len(shapes) == MOST_SHAPES
    for b, t in shapes * 2:
        chosen(of_shape(b, t))
    assert (fake.calls, chosen.warnings) == (2 * MOST_SHAPES, [])
    for b, t in [(3, 4), (3, 3), (3, 4), *shapes]:
        assert chosen(of_shape(b, t)) == Loss()(of_shape(b, t))
    assert fake.calls == 3 * MOST_SHAPES
    (warning,) = chosen.warnings
    assert "more than 8 shapes; the first 8 are compiled" in warning
    # Resumed, the same ones are compiled, whatever comes first, and nothing is told again.
    resumed = Compiling(Loss(), "on", compiler=fake)
    resumed.shapes = list(chosen.shapes)
    for b, t in [(3, 3), (3, 4), *shapes]:
        resumed(of_shape(b, t))
    assert (fake.calls, resumed.warnings) == (4 * MOST_SHAPES, [])


@pytest.mark.parametrize(
    "key", [{"activation_checkpointing": True}, {"watch_every": 5}, {"distributed": "ddp"}]
)
def test_what_does_not_go_with_it_is_refused(key: dict[str, Any]) -> None:
    (name,) = key
    with pytest.raises(ValueError, match=rf"{name} .*set compile: off"):
        recipe(compile="on", **key)
    recipe(**key)


def test_what_is_compiled_is_another_run() -> None:
    def key(**changes: Any) -> str:
        recipe_, rest = recipe(**changes), {"code": "c", "torch_version": "t", "device_type": "cpu"}
        return run_key(run_identity(arch={}, data="d", train=recipe_, **rest))

    assert key() == key(compile="off")
    assert len({key(), key(compile="on"), key(compile="auto")}) == 3


# In a run.


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    in_place_of_torch(made, monkeypatch)
    return made


def in_place_of_torch(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles with another compiler, and with `auto` however short the run is."""
    stub = partial(Compiling, compiler=compiler, least_seconds=0.0)
    monkeypatch.setattr(loop, "Compiling", stub)


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    found = [dict(event.values) for event in folder.read_events() if event.kind == kind]
    for values in found:
        if kind == "compile":
            assert values.pop("message") == f"steps are {values['chosen']}"
    return found


def test_on_compiles_every_training_step_and_no_evaluation(tmp_path: Path, fake: Fake) -> None:
    folder = new_folder(tmp_path / "run")
    record = train_run(parts(recipe(compile="on", steps=9)), folder)
    (event,) = events(folder, "compile")
    assert event.keys() == {"step", "chosen", "first_step_seconds"}
    assert (event["step"], event["chosen"], record["compile"]) == (1, "compiled", event)
    assert (fake.compiled, fake.calls) == (1, 9)
    plain = new_folder(tmp_path / "plain")
    assert "compile" not in train_run(parts(recipe(steps=9)), plain)
    assert final_weights(folder) == final_weights(plain)  # the fake computes as before


@pytest.mark.parametrize("choice", ["compiled", "eager"])
def test_a_resumed_run_takes_the_choice_that_it_made(
    tmp_path: Path, fake: Fake, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, compiled = Compiling.after_step, {"compiled": 0.125, "eager": 0.75}[choice]

    def timed(chosen: Compiling, step: int, seconds: float, left: int) -> Any:
        return original(chosen, step, compiled if chosen.now == "compiled" else 0.5, left)

    monkeypatch.setattr(Compiling, "after_step", timed)
    config = recipe(compile="auto", steps=30)
    folder = new_folder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train_run(parts(config), folder, on_step=stop_at(20))
    (event,) = events(folder, "compile")
    assert (event["step"], event["chosen"]) == (2 * PHASE, choice)
    before = fake.calls
    record = train_run(parts(config), folder, resume=True)
    assert events(folder, "compile") == [event]
    assert record["compile"] == event
    assert fake.calls - before == (10 if choice == "compiled" else 0)


def stop_at(step: int) -> Callable[[Any], None]:
    def ask(info: Any) -> None:
        if info.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return ask


def test_a_compiler_that_fails_is_told_in_one_line(tmp_path: Path, fake: Fake) -> None:
    import torch._dynamo.exc

    fake.error = torch._dynamo.exc.InternalTorchDynamoError(
        "no C++\n compiler\n\nSet TORCHDYNAMO_VERBOSE=1"
    )
    folder = new_folder(tmp_path / "run")
    with pytest.raises(RunError) as caught:
        train_run(parts(recipe(compile="on")), folder)
    assert str(caught.value) == (
        "train.compile: compiling failed (InternalTorchDynamoError: no C++ compiler); "
        "set compile: off, or auto, which goes on without"
    )
    assert events(folder, "end")[0]["status"] == "failed"


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_other_errors_are_not_the_compilers(tmp_path: Path, fake: Fake, mode: str) -> None:
    fake.error = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError):
        train_run(parts(recipe(compile=mode)), new_folder(tmp_path / "run"))


def test_with_auto_a_run_whose_compiler_fails_goes_on_without(tmp_path: Path, fake: Fake) -> None:
    import torch._dynamo.exc

    fake.error = torch._dynamo.exc.InternalTorchDynamoError("no C++ compiler")
    plain, folder = new_folder(tmp_path / "plain"), new_folder(tmp_path / "run")
    train_run(parts(recipe(steps=20)), plain)
    with pytest.raises(Interrupted):
        train_run(parts(recipe(compile="auto", steps=20)), folder, on_step=stop_at(10))
    record = train_run(parts(recipe(compile="auto", steps=20)), folder, resume=True)
    assert (fake.compiled, fake.calls) == (1, 1)  # it is not tried again
    failure = "InternalTorchDynamoError: no C++ compiler"
    (event,) = events(folder, "compile")
    assert event == {"step": PHASE + 1, "chosen": "eager", "failure": failure}
    assert record["compile"] == event
    (warning,) = events(folder, "warning")
    message = f"train.compile: compiling failed ({failure}); the run goes on without"
    assert warning == {"message": message}
    assert final_weights(folder) == final_weights(plain)


def test_a_resumed_run_whose_compiler_fails_now_goes_on_without(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._dynamo.exc

    chosen = {"step": 3, "chosen": "compiled"}
    monkeypatch.setattr(Compiling, "after_step", lambda *_: None)
    folder = new_folder(tmp_path / "run")
    config = recipe(compile="auto", steps=9)
    with pytest.raises(Interrupted):
        train_run(parts(config), folder, on_step=stop_at(4))
    with folder.lock() as lock, folder.open_events(lock) as log:
        log.append("compile", message="steps are compiled", **chosen)
    monkeypatch.undo()
    in_place_of_torch(fake, monkeypatch)
    fake.error = torch._dynamo.exc.InternalTorchDynamoError("gone")
    record = train_run(parts(config), folder, resume=True)
    assert fake.calls == 1
    assert [event["chosen"] for event in events(folder, "compile")] == ["compiled", "eager"]
    assert "gone" in record["compile"]["failure"]


def ragged() -> ListBatches:
    """Twelve shapes, and the most frequent one is not among the first."""
    lengths = [*range(1, SEQ_LEN + 1), *range(1, SEQ_LEN + 1)]
    found = learnable_batches(len(lengths) + 6)
    rows = [1 + (number >= SEQ_LEN) for number in range(len(lengths))]
    cut = [Rows(b.inputs[:r, :t], b.targets[:r, :t])
           for b, r, t in zip(found, rows, lengths, strict=False)]  # fmt: skip
    return ListBatches([*cut, *found[len(lengths) :]])


def many_shapes(tmp_path: Path, steps: int, stops: tuple[int, ...]) -> RunFolder:
    """A run of many shapes is not ended, and resumes to the same bits."""
    config = recipe(compile="on", steps=steps, eval_every=steps)
    straight, broken = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    train_run(parts(config, batches=ragged()), straight)
    for step in stops:
        with pytest.raises(Interrupted):
            train_run(
                parts(config, batches=ragged()), broken, resume=step != stops[0],
                on_step=stop_at(step),
            )  # fmt: skip
    train_run(parts(config, batches=ragged()), broken, resume=True)
    assert final_weights(broken) == final_weights(straight)
    for folder in (straight, broken):
        (warning,) = events(folder, "warning")
        assert "more than 8 shapes" in warning["message"]
    return straight


def test_a_run_of_many_shapes_does_not_end_with_an_error(tmp_path: Path, fake: Fake) -> None:
    straight = many_shapes(tmp_path, 40, stops=(5, 15))
    plain = new_folder(tmp_path / "plain")
    train_run(parts(recipe(steps=40, eval_every=40), batches=ragged()), plain)
    assert final_weights(straight) == final_weights(plain)  # the fake computes as before
    assert fake.calls == 2 * sum(number % 18 < MOST_SHAPES for number in range(40))


# With torch's own compiler.


def gradient(mode: str, size: int | None = None) -> dict[str, Tensor]:
    config = recipe(compile=mode, micro_batch_size=size)
    state = create_train_state(TinyModel(dropout=0.3), ListBatches([BATCH]), config)
    state.model.train()
    accumulate(state, BATCH, int((BATCH.targets != -100).sum()))
    return {n: p.grad.clone() for n, p in state.weights.parameters.items() if p.grad is not None}


def agree(size: int | None) -> None:
    eager, compiled = gradient("off", size), gradient("on", size)
    assert eager.keys() == compiled.keys()
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-5, atol=1e-6)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without code generation: tracing, guards and autograd are the real ones."""

    def compiler(loss: nn.Module) -> Any:
        return torch.compile(loss, dynamic=False, backend="aot_eager", isolate_recompiles=True)

    in_place_of_torch(compiler, monkeypatch)


def test_a_traced_step_has_the_gradient_of_an_eager_one(traced: None) -> None:
    agree(3)


def test_a_traced_run_trains_evaluates_and_resumes(tmp_path: Path, traced: None) -> None:
    def run(mode: str) -> TrainConfig:
        return recipe(compile=mode, steps=12, eval_every=4, ema=0.9)

    plain, straight, broken = (new_folder(tmp_path / name) for name in ("a", "b", "c"))
    losses = [train_run(parts(run("off")), plain), train_run(parts(run("on")), straight)]
    eager, compiled = (record["final"]["loss"] for record in losses)
    assert compiled == pytest.approx(eager, rel=1e-5)
    with pytest.raises(Interrupted):
        train_run(parts(run("on")), broken, on_step=stop_at(5))
    train_run(parts(run("on")), broken, resume=True)
    assert final_weights(broken) == final_weights(straight)


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 3])
def test_a_compiled_step_has_the_gradient_of_an_eager_one(size: int | None) -> None:
    agree(size)


@pytest.mark.slow
def test_a_compiled_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = recipe(compile="on", steps=12)
    straight, broken = new_folder(tmp_path / "a"), new_folder(tmp_path / "b")
    train_run(parts(config), straight)
    with pytest.raises(Interrupted):
        train_run(parts(config), broken, on_step=stop_at(5))
    train_run(parts(config), broken, resume=True)
    assert final_weights(broken) == final_weights(straight)


@pytest.mark.slow
def test_a_compiled_run_of_many_shapes_resumes_to_the_same_bits(tmp_path: Path) -> None:
    many_shapes(tmp_path, 20, stops=(10,))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`auto` compiles however short the run is, and with nothing from a cache."""
    in_place_of_torch(compile_loss, monkeypatch)
    with torch.compiler.config.patch(force_disable_caches=True):
        yield


@pytest.mark.slow
def test_auto_measures_a_whole_run_with_the_real_compiler(tmp_path: Path, at_once: None) -> None:
    plain, folder = new_folder(tmp_path / "plain"), new_folder(tmp_path / "run")
    config = recipe(steps=30, ema=0.9)
    eager = train_run(parts(config), plain)
    record = train_run(parts(config.replace(compile="auto")), folder)
    (event,) = events(folder, "compile")
    assert (event["step"], record["compile"]) == (2 * PHASE, event)
    assert event["compile_seconds"] > 0.5  # compiling is not free
    gain = (event["eager_seconds"] - event["compiled_seconds"]) * (30 - 2 * PHASE)
    assert event["chosen"] == ("compiled" if gain > event["compile_seconds"] else "eager")
    assert events(folder, "warning") == []
    losses = [[e["loss"] for e in events(f, "step")] for f in (plain, folder)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert record["final"]["loss"] == pytest.approx(eager["final"]["loss"], abs=1e-4)


@pytest.mark.slow
def test_auto_goes_on_where_the_real_compiler_finds_no_cxx(tmp_path: Path, at_once: None) -> None:
    import torch._inductor.config as inductor

    plain, folder = new_folder(tmp_path / "plain"), new_folder(tmp_path / "run")
    train_run(parts(recipe(steps=20)), plain)
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        record = train_run(parts(recipe(steps=20, compile="auto")), folder)
    (warning,) = events(folder, "warning")
    assert "compiling failed" in warning["message"]
    assert record["compile"]["chosen"] == "eager"
    assert final_weights(folder) == final_weights(plain)
