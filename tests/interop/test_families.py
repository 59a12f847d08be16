"""Models of transformers and ours made of them compute the same, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from small_models import VARIANTS, saved, small_model

from windtunnel.interop.hf.export import write_folder
from windtunnel.interop.hf.families import FAMILIES, family_of
from windtunnel.interop.hf.load import Pretrained, read_pretrained

TOKENS = torch.randint(3, 64, (3, 23), generator=torch.Generator().manual_seed(1))
LENGTHS = (23, 14, 5)
CLOSE: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5}
Pair = tuple[Any, Pretrained]


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model of theirs, and what was read of its files."""
    model = small_model(request.param)
    return model, read_pretrained(saved(model, tmp_path_factory.mktemp("theirs") / "model"))


def padded(side: str) -> torch.Tensor:
    """(b, t) bool: False at pads."""
    real = torch.arange(TOKENS.shape[1]) < torch.tensor(LENGTHS)[:, None]
    return real.flip(1) if side == "left" else real


def positions(real: torch.Tensor) -> torch.Tensor:
    return (real.cumsum(1) - 1).clamp(min=0)


def test_every_family_is_tried() -> None:
    assert {model_type for model_type, _ in VARIANTS.values()} <= FAMILIES.keys()
    tried = {"gpt2", "llama", "mistral", "mixtral", "qwen3", "olmo2", "gemma2", "gpt_neox"}
    assert tried <= {model_type for model_type, _ in VARIANTS.values()}


@torch.no_grad()
def test_logits_are_equal(pair: Pair) -> None:
    theirs, ours = pair
    expected = theirs(TOKENS).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours.model()(TOKENS), expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_equal_where_rows_are_padded(pair: Pair, side: str) -> None:
    theirs, ours = pair
    real = padded(side)
    expected = theirs(TOKENS, attention_mask=real.long(), position_ids=positions(real)).logits
    found = ours.model()(TOKENS, real)
    torch.testing.assert_close(found[real], expected[real], **CLOSE)


@torch.no_grad()
def test_the_state_goes_on_as_their_cache_does(pair: Pair) -> None:
    theirs, ours = pair
    model = ours.model()
    expected = theirs(TOKENS).logits
    state, found, start = model.initial_state(len(TOKENS)), [], 0
    for size in (7, 1, 1, 9, 5):
        logits, state = model.extend(TOKENS[:, start : start + size], state)
        found.append(logits)
        start += size
    torch.testing.assert_close(torch.cat(found, 1), expected, **CLOSE)


def test_greedy_continuations_of_ragged_prompts_are_the_same_tokens(pair: Pair) -> None:
    from windtunnel.generate import SamplingConfig, generate

    theirs, ours = pair
    real = padded("left")
    prompts = [row[mask].tolist() for row, mask in zip(TOKENS, real, strict=True)]
    found = generate(
        ours.model(), prompts, max_new_tokens=12, sampling=SamplingConfig(temperature=0.0)
    )
    expected = theirs.generate(
        TOKENS, attention_mask=real.long(), max_new_tokens=12, do_sample=False,
        eos_token_id=-1, pad_token_id=0,
    )  # fmt: skip
    assert found == expected[:, TOKENS.shape[1] :].tolist()


def test_parameters_are_as_many(pair: Pair) -> None:
    theirs, ours = pair
    assert ours.params == theirs.num_parameters()
    assert sum(p.numel() for p in ours.model().parameters()) == theirs.num_parameters()


@torch.no_grad()
def test_an_export_is_loaded_and_holds_the_same_bits(pair: Pair, tmp_path: Path) -> None:
    theirs, ours = pair
    family = family_of(ours.model_type)
    done = write_folder(tmp_path / "out", family, ours.architecture, ours.weights, None)
    again, told = transformers.AutoModelForCausalLM.from_pretrained(
        done.path, output_loading_info=True
    )
    assert not any(told.values()), told
    assert type(again) is type(theirs)
    state = again.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=0, rtol=0)
    torch.testing.assert_close(again.eval()(TOKENS).logits, theirs(TOKENS).logits, **CLOSE)
    saved(theirs, tmp_path / "theirs")
    names = load_file(tmp_path / "theirs" / "model.safetensors").keys()
    assert load_file(done.path / "model.safetensors").keys() == names


IDLE = {"initializer_range", "pad_token_id", "bos_token_id", "eos_token_id", "_name_or_path"}


def test_the_config_comes_back(pair: Pair, tmp_path: Path) -> None:
    theirs, ours = pair
    family = family_of(ours.model_type)
    done = write_folder(tmp_path / "out", family, ours.architecture, ours.weights, None)
    again = transformers.AutoConfig.from_pretrained(done.path).to_dict()
    before = theirs.config.to_dict()
    # What a config leaves to its class is written out; what only YaRN's defaults say, too.
    derived = {"head_dim", "n_inner", "max_window_layers", "rope_parameters", "hidden_act"}
    for key in before.keys() - IDLE - derived:
        unused = key == "sliding_window" and "sliding_attention" not in before.get(
            "layer_types", ""
        )
        assert again[key] == before[key] or unused, key
    for key, value in before.get("rope_parameters", {}).items():
        assert again["rope_parameters"][key] == value, key
