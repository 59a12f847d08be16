"""Loaders: the seed's code as it stands, order, workers, devices, seeds, and what init costs."""

import re
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from windtunnel.errors import UsageError
from windtunnel.spaces import (
    ModelConfigGenerator,
    create_full_model_dataloader,
    create_model_dataloader,
    create_reasonable_model_dataloader,
    reasonable,
)
from windtunnel.spaces.loaders import ModelDataset, ModelLoader

TINY = {"vocab_size": 40, "max_seq_len": 8}


class EnoughError(Exception):
    """Ends a loop over thousands of models."""


def small(vocab: int = 40) -> Any:
    return reasonable(vocab, 8).where("d_model == 64 and n_layer <= 2")


def test_the_seeds_basic_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 1: ``for models, metadatas in dataloader``, with device "cuda"; loaded without memory
    for its 600M parameters."""
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        if len(lines) == 6:
            raise EnoughError

    monkeypatch.setattr("windtunnel.spaces.loaders.INIT", "meta")
    code = """
from windtunnel.spaces import create_reasonable_model_dataloader

# Create a reasonable dataset (~17K configurations)
dataloader, configs = create_reasonable_model_dataloader(
    vocab_size=50257,
    max_seq_len=512,
    batch_size=4,
    num_workers=0,
    device="cuda",  # or "cpu"
    seed=42
)

# Use in training loop
for models, metadatas in dataloader:
    for model, metadata in zip(models, metadatas):
        print(f"Training on {metadata['name']} ({metadata['num_params']:,} params)")
        # Your GHN training code here
"""
    names: dict[str, Any] = {"print": say}
    with pytest.raises(EnoughError):
        exec(code, names)
    assert len(names["dataloader"]) == 4176
    assert len(names["configs"]) == 16_704
    assert len({*lines}) == 6
    assert all(re.fullmatch(r"Training on \S+-t(True|False) \([\d,]+ params\)", s) for s in lines)
    for model, metadata in zip(names["models"], names["metadatas"], strict=True):
        assert sum(p.numel() for p in model.parameters()) == metadata["num_params"]


def test_the_seeds_advanced_usage() -> None:
    """Block 2: all four ways."""
    code = """
from windtunnel.spaces import (
    create_reasonable_model_dataloader,
    create_full_model_dataloader,
    create_model_dataloader,
    ModelConfigGenerator
)

# Option 1: Reasonable dataset (recommended)
dataloader, configs = create_reasonable_model_dataloader(
    batch_size=4,
    seed=42
)
sizes = [len(configs)]

# Option 2: Full dataset (3M+ configurations - use with caution!)
dataloader, configs = create_full_model_dataloader(
    batch_size=2,  # Use smaller batch size for memory
    seed=42
)
sizes.append(len(configs))

# Option 3: Custom configuration
dataloader, configs = create_model_dataloader(
    batch_size=4,
    use_all_configs=False,  # True for full dataset
    seed=42
)
sizes.append(len(configs))

# Option 4: Direct generator usage
generator = ModelConfigGenerator(vocab_size=50257, max_seq_len=512, seed=42)
configs = generator.generate_reasonable_configs()  # or generate_all_configs()
sizes.append(len(configs))
"""
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["sizes"] == [16_704, 2_998_336, 16_704, 16_704]


def test_the_seeds_training_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 4: a trainer that is somebody else's."""
    seen: list[str] = []

    class GHNTrainer:
        def train_step(self, model: torch.nn.Module, metadata: dict[str, Any]) -> float:
            seen.append(metadata["name"])
            if len(seen) == 9:
                raise EnoughError
            return 0.5

    module = types.ModuleType("your_ghn_module")
    module.GHNTrainer = GHNTrainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "your_ghn_module", module)
    monkeypatch.setattr("windtunnel.spaces.loaders.INIT", "meta")
    code = """
from windtunnel.spaces import create_reasonable_model_dataloader
from your_ghn_module import GHNTrainer

# Create model dataset
dataloader, configs = create_reasonable_model_dataloader(
    batch_size=4,
    seed=42
)

# Initialize GHN trainer
ghn_trainer = GHNTrainer()

# Training loop
for epoch in range(num_epochs):
    for models, metadatas in dataloader:
        for model, metadata in zip(models, metadatas):
            # Train GHN to predict parameters for this model
            loss = ghn_trainer.train_step(model, metadata)
            print(f"Epoch {epoch}, Model {metadata['name']}, Loss: {loss:.4f}")
"""
    with pytest.raises(EnoughError):
        exec(code, {"num_epochs": 1, "print": lambda text: None})
    assert len(set(seen)) == 9


def test_the_seeds_metadata_have_the_seeds_keys() -> None:
    """Block 3, as it stands (its num_params is a tuple of three numbers there)."""
    names: dict[str, Any] = {}
    exec(
        """
metadata = {
    "name": "gpt-encoder-001-256d-4L-8h-ff4-d0.1-tTrue",
    "model_type": "gpt_encoder",
    "config": {
        "vocab_size": 50257,
        "d_model": 256,
        "n_layer": 4,
        "n_head": 8,
        "d_ff": 1024,
        "max_seq_len": 512,
        "p_drop": 0.1,
        "tie_weights": True
    },
    "num_params": 25,847,296
}
""".replace("25,847,296", "(25,847,296)"),
        names,
    )
    written = names["metadata"]
    found = reasonable().where("family == gpt_encoder and d_model == 256 and n_layer == 4 and "
                               "n_head == 8 and ff_ratio == 4 and p_drop == 0.1")[0]  # fmt: skip
    assert list(found.metadata) == list(written)
    assert found.metadata["config"] == written["config"]
    assert found.name.split("-", 3)[3] == written["name"].split("-", 3)[3]


def test_the_seeds_own_ranges() -> None:
    """Block 5: other values in the generation methods."""
    names: dict[str, Any] = {}
    exec(
        """
d_models = [64, 128, 256, 384, 512]  # Add/remove sizes
n_layers = [1, 2, 3, 4, 6, 8]        # Add/remove layer counts
dropouts = [0.0, 0.1, 0.2, 0.3]     # Add/remove dropout values
""",
        names,
    )
    del names["__builtins__"]
    generator = ModelConfigGenerator(**TINY)
    for method in (generator.generate_rnn_configs, generator.generate_lstm_configs,
                   generator.generate_gru_configs):  # fmt: skip
        assert len(method()) == 9504
        assert len(method(**names)) == 5 * 6 * 4 * 2
    for transformer in (
        generator.generate_gpt_encoder_configs,
        generator.generate_mini_gpt_configs,
    ):
        assert len(transformer()) == 1_484_912
        few = transformer([6], [2], [1, 2, 3, 4], [4], [0.0], [True])
        assert [config["n_head"] for config in few] == [1, 2, 3]
    with pytest.raises(UsageError, match="unknown family"):
        generator.generate_configs("lsmt")


def test_configs_are_a_sequence_and_no_list() -> None:
    generator = ModelConfigGenerator(**TINY, seed=7)
    configs = generator.generate_reasonable_configs()
    assert isinstance(configs, Sequence)
    assert not isinstance(configs, list)
    assert configs[0] == {
        "model_type": "rnn", "name": "rnn-001-64d-1L-d0.0-tTrue", "vocab_size": 40, "d_model": 64,
        "n_layer": 1, "max_seq_len": 8, "p_drop": 0.0, "tie_weights": True,
    }  # fmt: skip
    assert configs[-1]["name"].startswith("mini-gpt-16704-")
    part = configs[10:14]
    assert [c["name"] for c in part] == [configs[i]["name"] for i in range(10, 14)]
    assert part == list(part)
    assert configs[9000] in configs
    assert {**configs[9000], "d_model": 1} not in configs
    assert configs.index(configs[12]) == 12
    assert next(reversed(configs)) == configs[-1]
    with pytest.raises(IndexError):
        configs[16_704]


def names_of(loader: ModelLoader, batches: int = 10**9) -> list[str]:
    found = []
    for number, (models, metadatas) in enumerate(loader):
        assert isinstance(models, list)
        assert isinstance(metadatas, list)
        found += [metadata["name"] for metadata in metadatas]
        if number + 1 == batches:
            break
    return found


def test_every_model_once_in_an_order_of_the_seed() -> None:
    space = small()[::12]

    def loader(seed: int) -> ModelLoader:
        return create_model_dataloader(seed=seed, init="meta", space=space)[0]

    one = loader(1)
    first, second = names_of(one), names_of(one)
    assert sorted(first) == sorted(m.name for m in space)
    assert first != second
    assert sorted(second) == sorted(first)
    again = loader(1)
    assert names_of(again) == first
    again.order.epoch = 1
    assert names_of(again) == second
    assert names_of(loader(2)) != first
    assert first != [m.name for m in space]


def test_workers_give_the_same_models_in_the_same_order() -> None:
    space = small()[::90]
    found = {}
    for workers in (0, 2):
        loader, _ = create_model_dataloader(
            batch_size=3, num_workers=workers, device="cpu", seed=5, space=space
        )
        found[workers] = [
            (metadata["name"], {k: v.clone() for k, v in model.state_dict().items()})
            for models, metadatas in loader
            for model, metadata in zip(models, metadatas, strict=True)
        ]
    assert len(found[0]) == len(space) > 3
    for (name, weights), (other, others) in zip(found[0], found[2], strict=True):
        assert name == other
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[key], others[key]) for key in weights)
    one, other_seed = (ModelDataset(space, "cpu", seed=seed)[0][0] for seed in (5, 6))
    assert not torch.equal(one.embedding.weight, other_seed.embedding.weight)


def test_tied_weights_are_one_tensor_after_every_init() -> None:
    space = small().where("tie_weights and family == mini_gpt")[:1]
    for init in ("real", "skip", "meta"):
        model, metadata = ModelDataset(space, "cpu", init=init)[0]  # type: ignore[arg-type]
        assert model.head.weight is model.embedding.weight
        assert sum(p.numel() for p in model.parameters()) == metadata["num_params"]
        assert next(model.parameters()).is_meta is (init == "meta")


def test_models_are_trainable_as_they_come() -> None:
    loader, _ = create_reasonable_model_dataloader(**TINY, batch_size=1, device="cpu")
    models, _ = next(iter(loader))
    ids = torch.arange(8)[None]
    logits = models[0](ids)
    assert logits.shape == (1, 8, 40)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in models[0].parameters())


def test_skipped_init_is_at_least_ten_times_faster() -> None:
    space = reasonable().where("family == lstm and d_model == 256 and n_layer == 2")[:1]
    seconds = {}
    for init in ("real", "skip", "meta"):
        dataset = ModelDataset(space, "cpu", init=init)  # type: ignore[arg-type]
        dataset[0]
        turns = []
        for _ in range(3):
            start = time.perf_counter()
            dataset[0]
            turns.append(time.perf_counter() - start)
        seconds[init] = min(turns)
    assert seconds["real"] > 10 * seconds["skip"], seconds
    assert seconds["real"] > 10 * seconds["meta"], seconds


def test_what_is_asked_wrongly_is_told() -> None:
    with pytest.raises(UsageError, match="unknown init 'skp'; did you mean 'skip'"):
        create_model_dataloader(init="skp")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave it out beside a space"):
        create_model_dataloader(use_all_configs=True, space=small())
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        ModelDataset(small(), "gpu")
    if not torch.cuda.is_available():
        with pytest.warns(UserWarning, match="cuda is not on this machine"):
            ModelDataset(small(), "cuda")


def test_the_full_loader_starts_at_once() -> None:
    loader, configs = create_full_model_dataloader(**TINY, init="meta")
    assert len(configs) == 2_998_336
    assert len(names_of(loader, batches=2)) == 8
