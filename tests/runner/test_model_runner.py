"""Runners: exact cuts, memory that runs out, long samples, saves, what is told."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runner_models import PAIRS, Tiny, changes, made
from torch import Tensor, nn

from windtunnel.errors import CheckpointError, RunError, UsageError
from windtunnel.runner import ArchitectureLM, BasicModelRunner, LMBase
from windtunnel.runner import checkpoint as checkpoint_module


class Forgetful(Tiny):
    """Takes a cache and does not use it."""

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Any:
        return super().forward(x)


class Returning(Tiny):
    """Gives its cache back beside the logits."""

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Any:
        held = list(cache or [])
        return super().forward(x, held), held


@pytest.mark.parametrize("loss_on", ["truth", "all"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_gradient_does_not_depend_on_the_cut(size: int, loss_on: Any) -> None:
    class Model(Tiny):
        pass

    Model.loss_on = loss_on
    whole, cut = (made(Model, s, optimizer="sgd", lr=1.0) for s in (25, size))
    one, other = changes(whole, PAIRS), changes(cut, PAIRS)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_memory_that_runs_out_halves_the_pieces_and_says_so() -> None:
    class Small(Tiny):
        room = 2

        def forward(self, x: Tensor, cache: list[Any] | None = None) -> Any:
            if len(x) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x, cache)

    told: list[str] = []
    runner = BasicModelRunner(Small, max_batch_size=8, on_note=told.append)
    runner.initialize("cpu", optimizer="sgd", lr=1.0)
    found = changes(runner, PAIRS)
    assert runner.max_batch_size == 1
    assert [text.split(";")[0] for text in told] == [
        "out of memory with 6 samples at a time",
        "out of memory with 3 samples at a time",
    ]
    for name, gradient in changes(made(optimizer="sgd", lr=1.0), PAIRS).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    Small.room = 0
    with pytest.raises(RunError, match="one sample at a time"):
        runner.train(PAIRS)


def test_only_the_truth_counts_unless_all_is_asked_for() -> None:
    model = Tiny()
    _, loss, count = model.train_prompts(PAIRS)
    rows, places = [], []
    for sample in PAIRS:
        tokens, start = model._tokenize_str(sample, "cpu")
        logits = model(tokens[None, :-1])[0].log_softmax(-1)
        steps = -logits[torch.arange(len(tokens) - 1), tokens[1:]]
        rows.append(steps[start - 1 :].sum())
        places.append(len(tokens) - start)
    assert count == sum(places)
    torch.testing.assert_close(loss, sum(rows) / count)


def test_a_long_truth_keeps_its_end_and_a_long_prompt_is_counted_out() -> None:
    samples = [
        {"prompt": "a" * 10, "truth": "b" * 90},
        {"prompt": "a" * 60, "truth": "b"},
        {"prompt": "a", "truth": "b"},
    ]
    runner = made(max_len=20)
    texts, _, count = runner.train(samples)
    assert count == (20 - 10) + 2
    assert texts[1] == ""
    assert runner.stats.left_out == 1
    assert runner.stats.cut == 1
    tokens, _ = runner.model._tokenize_str(samples[0], "cpu")
    assert len(tokens) == 21
    assert tokens[-1] == runner.model.tokenizer.eos
    only = runner.train(samples[1:2])
    assert torch.isnan(only[1]), "no token counts: that is no loss of 0"
    assert only[2] == 0
    assert runner.stats.skipped_steps == 1


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    runner = made()
    runner.train(PAIRS)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    with torch.no_grad():
        runner.model.head[0, 0] = float("nan")
    runner.train(PAIRS)
    assert runner.stats.skipped_steps == 1
    assert any("not finite" in note for note in runner.notes)
    after = runner.model.state_dict()
    assert torch.equal(after["embedding"], before["embedding"])


def test_validation_has_no_gradients_no_dropout_and_an_accuracy() -> None:
    runner = made(dropout=0.5)
    first, second = runner.validate(PAIRS), runner.validate(PAIRS)
    assert torch.equal(first[1], second[1])
    assert runner.model.training
    assert all(p.grad is None for p in runner.model.parameters())
    assert runner.stats.validated_samples == 12
    assert 0 <= runner.stats.word_accuracy <= 1
    assert runner.stats.samples == 0


@pytest.mark.parametrize("model", [Tiny, Returning, Forgetful])
def test_what_is_remembered_changes_no_text(model: type[Tiny]) -> None:
    runner = made(model, max_len=24)
    for _ in range(20):
        runner.train(PAIRS)
    texts = runner.generate(["ab", "abab", ""], max_len=18)
    plain = made(Forgetful, max_len=24)
    plain.model.load_state_dict(runner.model.state_dict())
    assert texts == plain.generate(["ab", "abab", ""], max_len=18)
    runner.model.calls.clear()
    runner.generate(["abab"], max_len=12)
    steps = [t for _, t in runner.model.calls]
    whole = list(range(5, 5 + len(steps)))  # the prompt and its beginning, and one token more each
    assert steps == (whole if model is Forgetful else [5] + [1] * (len(steps) - 1))


def test_a_text_never_passes_the_models_length() -> None:
    runner = made(max_len=12)
    (text,) = runner.generate(["abcd"], max_len=500)
    assert len(text) <= 12 - 4
    assert runner.generate(["a" * 50]) == [""]


def test_saved_and_read_again_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    straight, first = made(optimizer="adamw", lr=0.01), made(optimizer="adamw", lr=0.01)
    for _ in range(3):
        straight.train(PAIRS)
        first.train(PAIRS)
    first.save(tmp_path / "run")
    second = BasicModelRunner(Tiny)
    second.initialize("cpu", tmp_path / "run")
    assert not second.notes
    for _ in range(3):
        straight.train(PAIRS)
        second.train(PAIRS)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert second.stats == straight.stats


def test_another_optimizer_starts_clean_and_says_so(tmp_path: Path) -> None:
    runner = made(optimizer="adamw", lr=0.01)
    runner.train(PAIRS)
    runner.save(tmp_path / "run")
    other = BasicModelRunner(Tiny)
    other.initialize("cpu", tmp_path / "run", optimizer="sgd")
    assert other.notes == [
        "optimizer is 'sgd' as given; 'adamw' was saved",
        "the optimizer SGD starts clean for 2 of 2 parameters (head, embedding): "
        "AdamW moved them before",
    ]
    assert not other.optimizer.state


def test_the_secondary_optimizer_moves_what_is_tagged() -> None:
    class Tagged(Tiny):
        def __init__(self, **kw: Any) -> None:
            super().__init__(**kw)
            self.embedding.secondary_optimizer = True

    runner = made(Tagged, optimizer="adamw", secondary_optimizer="sgd", lr=0.1)
    kinds = {type(part).__name__ for part in runner.optimizer.parts}
    assert kinds == {"AdamW", "SGD"}
    runner.train(PAIRS)
    assert "exp_avg" in runner.optimizer.state[runner.model.head]
    assert "exp_avg" not in runner.optimizer.state.get(runner.model.embedding, {})


def test_a_missing_weight_is_an_error_that_names_it_unless_lenient(tmp_path: Path) -> None:
    class Wider(Tiny):
        def __init__(self, **kw: Any) -> None:
            super().__init__(**kw)
            self.extra = nn.Parameter(torch.zeros(3))

    made().save(tmp_path / "run")
    with pytest.raises(CheckpointError, match="extra"):
        BasicModelRunner(Wider).initialize("cpu", tmp_path / "run")
    lenient = BasicModelRunner(Wider)
    lenient.initialize("cpu", tmp_path / "run", strict=False)
    assert any("missing in the checkpoint: extra" in note for note in lenient.notes)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_told_and_another_place_is_used(file: str, tmp_path: Path) -> None:
    runner = made()
    runner.train(PAIRS)
    for name in ("old", "new"):
        runner.save(tmp_path / name)
    path = tmp_path / "new" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="new"):
        BasicModelRunner(Tiny).initialize("cpu", tmp_path / "new")
    again = BasicModelRunner(Tiny)
    again.initialize("cpu", [tmp_path / "new", tmp_path / "old"])
    assert "passed over" in again.notes[0]


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = made()
    runner.train(PAIRS)
    runner.save(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    runner.train(PAIRS)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_atomic", full)
        with pytest.raises(RunError, match="No space left"):
            runner.save(tmp_path / "run")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    runner.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "state.json").read_text())["stats"]["steps"] == 2


def test_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no checkpoint"):
        made().save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: BasicModelRunner(Tiny).train(PAIRS), "for_train=False|initialize"),
        (lambda: BasicModelRunner(Tiny, max_batch_size=0), "a whole number ≥ 1"),
        (lambda: made().train([{"prompt": "a"}]), "needs the text 'truth'"),
        (lambda: made(for_train=False).train(PAIRS), "for_train=False"),
        (lambda: made(optimizer="adagrat"), "adagrad"),
    ],
)
def test_mistakes_are_told(act: Any, message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        act()


@pytest.mark.parametrize("arch", ["llama", "gpt2", "mamba", "lstm"])
def test_any_architecture_is_a_model(arch: str, tmp_path: Path) -> None:
    runner = BasicModelRunner(ArchitectureLM, overrides={"arch": arch, "tokenizer": "bytes"})
    runner.initialize("cpu", num_blocks=1, embed_dim=32, max_len=32, optimizer="adamw", lr=0.02)
    first = float(runner.validate(PAIRS)[1])
    for _ in range(25):
        runner.train(PAIRS)
    assert float(runner.validate(PAIRS)[1]) < first - 1
    prompts = ["ab", "abababab", ""]
    together = runner.generate(prompts, max_len=16)
    assert together == [runner.generate([p], max_len=16)[0] for p in prompts]
    assert together == LMBase.generate_prompts(runner.model, [{"prompt": p} for p in prompts], 16)
    runner.save(tmp_path / "run", prod_save=True)
    again = BasicModelRunner(ArchitectureLM)
    again.initialize("cpu", tmp_path / "run", for_train=False)
    assert again.generate(prompts, max_len=16) == together
