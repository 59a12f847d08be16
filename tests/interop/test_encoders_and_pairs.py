"""BERT and T5 of transformers and ours made of them compute the same, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import saved

from windtunnel.arch import ArchSpec, EncoderDecoder, build, preset_document, resolve
from windtunnel.config import Document, decode
from windtunnel.errors import UsageError
from windtunnel.generate import SamplingConfig
from windtunnel.generate.targets import generate_targets
from windtunnel.interop.hf.export import write_folder
from windtunnel.interop.hf.families import FAMILIES, family_of
from windtunnel.interop.hf.family import NotExpressible
from windtunnel.interop.hf.load import Pretrained, read_pretrained

GENERATOR = torch.Generator().manual_seed(1)
TOKENS = torch.randint(3, 64, (3, 23), generator=GENERATOR)
TARGET = torch.randint(3, 64, (3, 19), generator=GENERATOR)
TYPES = torch.randint(0, 2, (3, 23), generator=GENERATOR)
REAL = torch.arange(23) < torch.tensor((23, 14, 5))[:, None]
CLOSE: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5}
BERT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 30,
}  # fmt: skip
T5 = {
    "vocab_size": 64, "d_model": 32, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4,
    "num_decoder_layers": 3, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}  # fmt: skip
FIRST = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", BERT),
    "bert-relu": (
        "bert",
        {**BERT, "hidden_act": "relu", "type_vocab_size": 3, "layer_norm_eps": 1e-3},
    ),
    "t5": ("t5", T5),
    "t5-silu": ("t5", {**T5, "feed_forward_proj": "gated-silu", "num_decoder_layers": None}),
    "t5-1.1": ("t5", {**T5, **FIRST}),
    "t5-1.1-tied": ("t5", {**T5, **FIRST}),
}
Pair = tuple[Any, Pretrained]


def their_model(name: str) -> Any:
    """Of random weights in which every tensor has an effect."""
    model_type, values = VARIANTS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **values)
    kinds = {
        "bert": transformers.BertForMaskedLM,
        "t5": transformers.T5ForConditionalGeneration,
    }
    model = kinds[model_type](config).eval()
    if name == "t5-1.1":  # transformers 5 ties a new one; the published ones have their own head
        model.lm_head.weight = torch.nn.Parameter(torch.randn(64, 32) * 0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    model = their_model(request.param)
    return model, read_pretrained(saved(model, tmp_path_factory.mktemp("theirs") / "model"))


def pair_of(name: str, folder: Path) -> Pair:
    model = their_model(name)
    return model, read_pretrained(saved(model, folder / "model"))


def their_logits(model: Any, real: torch.Tensor | None = None) -> torch.Tensor:
    mask = None if real is None else real.long()
    if model.config.model_type == "bert":
        found: torch.Tensor = model(TOKENS, attention_mask=mask).logits
    else:
        found = model(TOKENS, attention_mask=mask, decoder_input_ids=TARGET).logits
    return found


def our_logits(model: Any, real: torch.Tensor | None = None) -> torch.Tensor:
    if isinstance(model, EncoderDecoder):
        return model(TOKENS, TARGET, real)
    found: torch.Tensor = model(TOKENS, real)
    return found


@torch.no_grad()
def test_logits_are_equal_with_and_without_pads(pair: Pair) -> None:
    theirs, ours = pair
    expected = their_logits(theirs)
    assert expected.std() > 0.1
    torch.testing.assert_close(our_logits(ours.model()), expected, **CLOSE)
    expected, found = their_logits(theirs, REAL), our_logits(ours.model(), REAL)
    seen = REAL if theirs.config.model_type == "bert" else torch.ones_like(TARGET).bool()
    torch.testing.assert_close(found[seen], expected[seen], **CLOSE)


@torch.no_grad()
def test_kinds_of_tokens_are_theirs(tmp_path: Path) -> None:
    theirs, ours = pair_of("bert", tmp_path)
    expected = theirs(TOKENS, attention_mask=REAL.long(), token_type_ids=TYPES).logits
    found = ours.model()(TOKENS, REAL, types=TYPES)
    torch.testing.assert_close(found[REAL], expected[REAL], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5", "t5-1.1"])
def test_a_target_is_written_token_by_token(name: str, tmp_path: Path) -> None:
    theirs, ours = pair_of(name, tmp_path)
    model: Any = ours.model()
    real = REAL.flip(1)  # T5's positions are relative: pads may stand before too
    expected = their_logits(theirs, real)
    state = model.initial_state(3, model.encode(TOKENS, real), real)
    found, start = [], 0
    for size in (7, 1, 1, 9, 1):
        logits, state = model.extend(TARGET[:, start : start + size], state)
        found.append(logits)
        start += size
    torch.testing.assert_close(torch.cat(found, 1), expected, **CLOSE)


@torch.no_grad()
def test_a_source_is_continued_greedily_as_they_do(tmp_path: Path) -> None:
    # transformers 5.24 generates nothing with a decoder deeper than its encoder
    theirs, ours = pair_of("t5-silu", tmp_path)
    model: Any = ours.model()
    expected = theirs.generate(
        TOKENS, attention_mask=REAL.long(), decoder_start_token_id=0, do_sample=False,
        max_new_tokens=12, min_new_tokens=12, eos_token_id=-1, pad_token_id=0,
    )  # fmt: skip
    sources = [row[real].tolist() for row, real in zip(TOKENS, REAL, strict=True)]
    greedy = SamplingConfig(temperature=0.0)
    found = generate_targets(model, sources, [0, 0, 0], max_new_tokens=12, sampling=greedy)
    assert [list(row) for row in found] == expected[:, 1:].tolist()


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_the_factor_of_our_logits_goes_into_their_queries(gated: bool, tmp_path: Path) -> None:
    mlp = "{type: glu, activation: gelu_tanh, dropout: 0.1}"
    changes = [f"{s}.layers[*].mlp={mlp}" for s in ("encoder", "decoder")] if gated else []
    document = preset_document("t5")
    for change in ("d_model=32", "vocab_size=64", *changes):
        document = document.edit(change)
    architecture = resolve(decode(document, ArchSpec))
    ours = build(architecture, seed=3).eval()
    weights = dict(ours.named_parameters())
    for name, weight in weights.items():
        if "position" in name:
            weight.normal_(generator=torch.Generator().manual_seed(1))
    done = write_folder(tmp_path / "out", family_of("t5"), architecture, weights, None)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(done.path).eval()
    assert "scale = 0.35" in done.notes[0]
    assert "the weights make up for it, and 5 more" in done.notes[0]
    expected = our_logits(ours, REAL)
    torch.testing.assert_close(their_logits(theirs, REAL), expected, **CLOSE)
    again = read_pretrained(str(done.path)).model()
    torch.testing.assert_close(our_logits(again, REAL), expected, **CLOSE)


@torch.no_grad()
def test_pads_before_a_mamba_with_biases_change_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=64, hidden_size=32, state_size=5, num_hidden_layers=2, use_bias=True
    )
    theirs = transformers.MambaForCausalLM(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    ours = read_pretrained(saved(theirs, tmp_path / "mamba")).model()
    real = REAL.flip(1)
    found = ours(TOKENS, real)
    for row in range(3):  # each alone: padded, theirs reads the bias of in_proj at pads
        alone = theirs(TOKENS[row : row + 1, real[row]]).logits[0]
        torch.testing.assert_close(found[row, real[row]], alone, **CLOSE)


def test_parameters_are_as_many(pair: Pair) -> None:
    theirs, ours = pair
    assert ours.params == theirs.num_parameters()


@torch.no_grad()
def test_an_export_is_loaded_and_holds_the_same_bits(pair: Pair, tmp_path: Path) -> None:
    theirs, ours = pair
    family = family_of(ours.model_type)
    done = write_folder(tmp_path / "out", family, ours.architecture, ours.weights, None)
    again, told = type(theirs).from_pretrained(done.path, output_loading_info=True)
    assert not any(told.values()), told
    state = again.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(state[name], tensor), name
    torch.testing.assert_close(their_logits(again.eval()), their_logits(theirs), atol=0, rtol=0)
    before, after = theirs.config.to_dict(), again.config.to_dict()
    idle = {"initializer_range", "pad_token_id", "eos_token_id", "decoder_start_token_id"}
    idle |= {"architectures", "dtype", "_name_or_path"}
    assert {k for k in before.keys() - idle if before[k] != after[k]} == set()
    assert read_pretrained(str(done.path)).architecture == ours.architecture.named("out")


@torch.no_grad()
def test_older_files_are_read(tmp_path: Path) -> None:
    theirs = their_model("bert")
    folder = Path(saved(theirs, tmp_path / "bert"))
    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(30)[None]
    old["bert.pooler.dense.weight"] = torch.randn(32, 32)
    old["bert.pooler.dense.bias"] = torch.randn(32)
    old["cls.seq_relationship.weight"] = torch.randn(2, 32)
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
    save_file(old, folder / "model.safetensors")
    ours = read_pretrained(str(folder))
    torch.testing.assert_close(our_logits(ours.model()), their_logits(theirs), **CLOSE)
    (note,) = [text for text in ours.notes if "pooler" in text]
    assert "cls.seq_relationship.weight" in note
    assert "no part of BertForMaskedLM" in note


@torch.no_grad()
def test_copies_of_the_embedding_must_be_copies(tmp_path: Path) -> None:
    theirs = their_model("t5")
    folder = Path(saved(theirs, tmp_path / "t5"))
    tensors = load_file(folder / "model.safetensors")
    copies = {f"{name}.embed_tokens.weight": tensors["shared.weight"].clone()
              for name in ("encoder", "decoder")}  # fmt: skip
    copies["lm_head.weight"] = tensors["shared.weight"].clone()
    save_file({**tensors, **copies}, folder / "model.safetensors")
    ours = read_pretrained(str(folder))
    assert ours.architecture.embedding.tie
    torch.testing.assert_close(our_logits(ours.model()), their_logits(theirs), **CLOSE)
    copies["encoder.embed_tokens.weight"][0, 0] += 1
    save_file({**tensors, **copies}, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"encoder\.embed_tokens\.weight differs from shared"):
        read_pretrained(str(folder))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"is_decoder": True}, "is_decoder: True cannot be expressed"),
    ("bert", {"hidden_act": "gelu_10"}, "hidden_act: 'gelu_10' is not among our activations"),
    ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings: False"),
    ("t5", {"feed_forward_proj": "gated-elu"}, "feed_forward_proj: 'gated-elu'"),
    ("mamba", {"hidden_act": "relu"}, "hidden_act: relu cannot be expressed"),
    ("mamba2", {"time_step_limit": (0.0, 0.5)}, "time_step_limit"),
    ("phi", {"qk_layernorm": True}, "qk_layernorm: True"),
]


@pytest.mark.parametrize(("model_type", "values", "message"), REFUSED)
def test_what_cannot_be_expressed_is_named(
    model_type: str, values: dict[str, Any], message: str
) -> None:
    config = transformers.AutoConfig.for_model(model_type, **values)
    with pytest.raises(NotExpressible, match=message):
        family_of(model_type).to_spec(config.to_dict())


LOST: list[tuple[str, str, Any, str]] = [
    ("bert", "embedding.norm", "none", r"embedding\.norm: None has no counterpart in bert"),
    ("bert", "head.transform", None, "head.transform"),
    ("bert", "layers[*].placement", "pre", "placement"),
    ("t5", "head.scale", 0.5, "head.scale"),
    ("t5", "decoder.layers[*].share_position", False, "position_with"),
    ("t5", "encoder.causal", True, "encoder.causal"),
]


@pytest.mark.parametrize(("name", "path", "value", "message"), LOST)
def test_parts_without_a_counterpart_are_named(
    name: str, path: str, value: Any, message: str, tmp_path: Path
) -> None:
    ours = read_pretrained(saved(their_model(name), tmp_path / "model"))
    tree = Document(ours.architecture.to_spec().model_dump(mode="json"))
    if path.startswith("decoder.layers[*].share_position"):
        tree = tree.edit("decoder.layers[1].position_with=null")
    else:
        tree = tree.edit(f"{path}={'null' if value is None else str(value).lower()}")
    changed = resolve(decode(tree, ArchSpec))
    with pytest.raises(NotExpressible, match=message):
        family_of(name).to_config(changed)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_command_line_takes_them_in_and_out(name: str, tmp_path: Path, windtunnel: Any) -> None:
    theirs = their_model(name)
    source = saved(theirs, tmp_path / "theirs")
    taken = windtunnel("import", "hf", source, "--out", tmp_path / "run")
    assert taken.code == 0, taken.err
    assert f"{name}, {theirs.num_parameters():,} parameters" in taken.out
    given = windtunnel("export", "hf", tmp_path / "run", tmp_path / "out")
    assert given.code == 0, given.err
    again = type(theirs).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(their_logits(again), their_logits(theirs), atol=0, rtol=0)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_sizes_of_ours_alone_are_refused_by_every_family(model_type: str) -> None:
    mixer = {"type": "attention", "num_heads": 3, "head_dim": 8, "position": "none"}
    values = {"d_model": 32, "vocab_size": 9, "layers": ({"mixer": mixer, "mlp": "dense"},)}
    with pytest.raises(NotExpressible):
        FAMILIES[model_type].to_config(resolve(ArchSpec.model_validate(values)))
