"""What the factory format means, and every fault of its origin that must not come back."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from windtunnel.arch import ArchSpec, cost, resolve
from windtunnel.errors import ConfigError, UsageError
from windtunnel.factory import (
    ActivationFunctions,
    DecoderConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    FactoryModel,
    ModelConfig,
    ModelFactory,
    PerformerParams,
    create_model,
    parse_config,
    parse_model_config,
)
from windtunnel.factory.__main__ import main
from windtunnel.nn.mixers.favor import Favor

D = 16
TYPES = ["softmax", "linear", "causal_linear"]
FILE = """
model:
  model_type: encoder_decoder
  global_config: {dropout: 0.1, batch_size: 32, d_ff: 4, d_model: 16}
  encoder: {num_layers: 1, num_heads: 2}
  decoder: {num_layers: 2, num_heads: 4, d_ff: 2}
global_config: {corpus_dir: ./data}
datasets: [{name: timit}]
"""


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str) -> Path:
        path = tmp_path / "f.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def params(**changes: Any) -> PerformerParams:
    values: dict[str, Any] = {
        "d_model": D, "device": "cpu", "batch_size": 2, "num_layers": 2, "num_heads": 2,
        "d_ff": 2, "dropout": 0.0,
    }  # fmt: skip
    return PerformerParams(**(values | changes))


def vectors(t: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, t, D, generator=generator, dtype=torch.float64)


def decoder_of(**changes: Any) -> Any:
    return ModelFactory.create_decoder(DecoderConfig(params(**changes))).double().eval()


def both_of(**changes: Any) -> Any:
    config = EncoderDecoderConfig(params(attention_type="linear"), params(**changes))
    return ModelFactory.create_encoder_decoder(config).double().eval()


@pytest.mark.parametrize("kind", TYPES)
def test_a_decoder_depends_on_all_earlier_tokens_and_on_no_later_one(kind: str) -> None:
    model, x = decoder_of(attention_type=kind), vectors(6)
    before = model(x, use_causal_mask=True)
    for token in range(6):
        edited = x.clone()
        edited[:, token] += vectors(1, 9)[:, 0]
        moved = (model(edited, use_causal_mask=True) - before).abs().amax((0, 2))
        assert token == 0 or moved[:token].max() < 1e-12
        assert moved[token:].min() > 1e-6


@pytest.mark.parametrize("kind", TYPES)
def test_masks_act_on_keys_so_that_pads_change_nothing(kind: str) -> None:
    encoder = ModelFactory.create_encoder(EncoderConfig(params(attention_type=kind)))
    x = vectors(7)
    mask = torch.ones(2, 7)
    mask[0, 5:], mask[1, 2] = 0, 0
    padded = torch.where(mask[..., None] == 0, 100.0, x)
    for model in (encoder.double().eval(), decoder_of(attention_type=kind)):
        found = model(padded, self_attn_mask=mask)
        for row in range(2):
            kept = mask[row] != 0
            torch.testing.assert_close(found[row, kept], model(x[row : row + 1, kept])[0])


def test_the_cross_attention_mask_hides_what_it_hides() -> None:
    model = ModelFactory.create_decoder(DecoderConfig(params(), use_cross_attention=True))
    model, x, memory = model.double().eval(), vectors(4), vectors(6, 1)
    mask = torch.ones(2, 6)
    mask[:, 3:] = 0
    found = model(x, encoder_output=memory, cross_attn_mask=mask)
    torch.testing.assert_close(found, model(x, encoder_output=memory[:, :3]))
    assert (found - model(x, encoder_output=memory)).abs().min() > 1e-8
    with pytest.raises(UsageError, match="give it a memory"):
        model(x)
    with pytest.raises(UsageError, match="no effect without encoder_output"):
        model(x, cross_attn_mask=mask)


def test_an_encoder_decoder_passes_the_source_s_pads_on_to_the_decoder() -> None:
    model, source, target = both_of(), vectors(6), vectors(4, 1)
    mask = torch.ones(2, 6)
    mask[:, 4:] = 0
    found = model(torch.where(mask[..., None] == 0, 9.0, source), target, src_mask=mask)
    torch.testing.assert_close(found, model(source[:, :4], target))
    hidden = model(source, target, cross_attn_mask=mask)
    assert (hidden - found).abs().max() > 1e-8, "here the encoder sees all, the decoder does not"
    squares = mask[:, None].expand(2, 6, 6)
    torch.testing.assert_close(
        model(source, target, src_mask=squares), model(source, target, src_mask=mask)
    )


def test_a_mask_that_is_no_mask_of_keys_is_refused() -> None:
    model, x = decoder_of(), vectors(4)
    triangle = torch.ones(2, 4, 4).tril()
    torch.testing.assert_close(model(x, self_attn_mask=triangle), model(x))
    with pytest.raises(UsageError, match="differs between queries"):
        model(x, self_attn_mask=torch.eye(4).expand(2, 4, 4))
    with pytest.raises(UsageError, match="expected"):
        model(x, self_attn_mask=torch.ones(2, 3))
    with pytest.raises(UsageError, match="sees the past alone"):
        model(x, use_causal_mask=False)


@pytest.mark.parametrize("kind", TYPES)
def test_a_mask_has_a_row_for_each_sequence_or_one_for_all(kind: str) -> None:
    encoder = ModelFactory.create_encoder(EncoderConfig(params(attention_type=kind)))
    encoder, x = encoder.double().eval(), vectors(4)
    for mask in (torch.ones(4, 4).tril(), torch.ones(3, 4, 4)):  # a triangle is no mask of keys
        with pytest.raises(UsageError, match=r"expected \(1, 4\) or \(1, t, 4\), not"):
            encoder(x[:1], mask)
        with pytest.raises(UsageError, match=r"expected \(2, 4\) or \(2, t, 4\), not"):
            encoder(x, mask)
    row = torch.tensor([[1, 1, 1, 0]])
    torch.testing.assert_close(encoder(x, row), encoder(x, row.expand(2, 4)))


def test_every_mask_of_an_encoder_decoder_has_its_rows() -> None:
    model, source, target = both_of(), vectors(4), vectors(3)
    for name, keys in (("src_mask", 4), ("tgt_mask", 3), ("cross_attn_mask", 4)):
        with pytest.raises(UsageError, match=rf"{name}: expected \(2, {keys}\)"):
            model(source, target, **{name: torch.ones(3, keys)})


def test_input_of_the_wrong_shape_is_told() -> None:
    model = decoder_of()
    with pytest.raises(UsageError, match=r"\(b, t, 16\) vectors, not \(2, 4, 8\)"):
        model(vectors(4)[..., :8])
    with pytest.raises(UsageError, match="token ids"):
        model(torch.ones(2, 4, 3, dtype=torch.long))


def test_equal_ids_have_equal_codes_and_unequal_ones_can_be_told_apart() -> None:
    model = decoder_of()
    with pytest.warns(UserWarning, match="vocab_size"):
        one = model(torch.tensor([[7, 3, 70_000]]))
    torch.testing.assert_close(model(torch.tensor([[7, 3, 5]]))[:, :2], one[:, :2])
    assert (model(torch.tensor([[8, 3, 5]])) - model(torch.tensor([[7, 3, 5]]))).abs().min() > 1e-9


def test_source_and_target_have_their_own_vocabularies() -> None:
    config = EncoderDecoderConfig(params(vocab_size=11), params(vocab_size=13))
    model = ModelFactory.create_encoder_decoder(config)
    logits = model(torch.tensor([[10, 1]]), torch.tensor([[12, 0, 1]]))
    assert logits.shape == (1, 3, 13)
    with pytest.raises(UsageError, match="in both sections, or in none"):
        EncoderDecoderConfig(params(vocab_size=11), params())


@pytest.mark.parametrize("name", list(ActivationFunctions))
def test_feed_forwards_have_the_factory_s_shapes(name: ActivationFunctions) -> None:
    model = decoder_of(activation=name, d_ff=3)
    shapes = {
        n.split(".mlp.")[1]: tuple(p.shape) for n, p in model.named_parameters() if ".mlp." in n
    }
    hidden = 3 * D
    first = 2 * hidden if name.gated else hidden
    assert shapes == {
        "up.weight": (first, D), "up.bias": (first,),
        "down.weight": (D, hidden), "down.bias": (D,),
    }  # fmt: skip


def test_a_gated_feed_forward_is_act_of_the_first_half_times_the_second() -> None:
    mlp = decoder_of(activation="SwiGLU").layers[0].mlp
    x = vectors(3)
    first, second = (x @ mlp.up.weight.T + mlp.up.bias).chunk(2, dim=-1)
    expected = (torch.nn.functional.silu(first) * second) @ mlp.down.weight.T + mlp.down.bias
    torch.testing.assert_close(mlp(x), expected)


def test_the_state_dict_holds_every_tensor_once() -> None:
    for model in (decoder_of(attention_type="causal_linear"), both_of(attention_type="linear")):
        state = model.state_dict()
        tensors = [*model.parameters(), *model.buffers()]
        assert len(state) == len(tensors) == len({t.data_ptr() for t in tensors})
        built = sum(p.numel() for p in model.parameters())
        assert cost(model.architecture).total.params == built


def test_features_are_counted_as_the_origin_counts_them() -> None:
    model = decoder_of(attention_type="causal_linear")
    assert model.layers[0].mixer.projection.shape == (16, 8)  # ⌊8 · ln 8⌋ = 16


def trained(model: FactoryModel, steps: int, **options: Any) -> list[Tensor]:
    """The projections of a model after each of some training steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **options)
    seen = []
    for step in range(steps):
        model.train()
        model(vectors(4, step).float()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            for _ in range(3):
                model(vectors(4).float())
        seen.append(_features(model).clone())
    return seen


def _features(model: FactoryModel) -> Tensor:
    return next(m.projection for m in model.modules() if isinstance(m, Favor))


def linear_decoder(**changes: Any) -> FactoryModel:
    return ModelFactory.create_decoder(
        DecoderConfig(params(attention_type="causal_linear", **changes))
    )


def test_features_are_drawn_anew_by_training_steps_alone() -> None:
    model = linear_decoder(feature_redraw_interval=3)
    seen = trained(model, 8)  # a step is counted in the forward after it
    changes = [i for i in range(1, 8) if not torch.equal(seen[i], seen[i - 1])]
    assert changes == [3, 6]
    assert all(
        torch.equal(a, b)
        for a, b in zip(seen, trained(linear_decoder(feature_redraw_interval=3), 8), strict=True)
    )


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_step_counts_whatever_writes_the_weights(options: dict[str, Any]) -> None:
    model = linear_decoder(feature_redraw_interval=3)
    next(model.parameters()).requires_grad_(False)  # so that the first one never changes
    seen = trained(model, 8, **options)
    assert [i for i in range(1, 8) if not torch.equal(seen[i], seen[i - 1])] == [3, 6]


def test_a_cast_is_no_training_step() -> None:
    model = linear_decoder(feature_redraw_interval=1).train()
    model(vectors(4).float())
    model(vectors(4).float())
    before = _features(model).clone()
    model.double()(vectors(4))
    assert torch.equal(_features(model).float(), before)


def test_the_gradients_of_several_forwards_are_one_step() -> None:
    model = linear_decoder(feature_redraw_interval=1).train()
    before = _features(model).clone()
    for seed in range(3):
        model(vectors(4, seed).float()).square().mean().backward()
    assert torch.equal(_features(model), before)


@pytest.mark.parametrize(
    "changes", [{"feature_redraw_interval": None}, {"auto_check_redraw": False}]
)
def test_features_stay_where_redrawing_is_off(changes: dict[str, Any]) -> None:
    model = linear_decoder(**({"feature_redraw_interval": 1} | changes))
    assert len({tuple(f.flatten().tolist()) for f in trained(model, 3)}) == 1
    by_hand = next(m for m in model.modules() if isinstance(m, Favor))
    before = by_hand.projection.clone()
    by_hand.redraw(seed=0, step=1)
    assert not torch.equal(before, by_hand.projection)


def test_features_are_kept_for_good_once_they_are_fixed() -> None:
    model = linear_decoder(feature_redraw_interval=1)
    model.fix_projection_matrices_()
    assert len({tuple(f.flatten().tolist()) for f in trained(model, 3)}) == 1


def test_loaded_weights_are_no_training_step() -> None:
    model = linear_decoder(feature_redraw_interval=1).train()
    x = vectors(3).float()
    model(x)
    before = _features(model).clone()
    model.load_state_dict(model.state_dict())
    model(x)
    assert torch.equal(_features(model), before)


def test_rezero_starts_as_nothing_and_has_no_norm() -> None:
    model, x = decoder_of(use_rezero=True), vectors(5)
    assert not [n for n, _ in model.named_parameters() if "norm" in n]
    gains = [p.item() for n, p in model.named_parameters() if n.endswith("residual.gain")]
    assert gains == [pytest.approx(1e-3)] * 4
    assert 0 < (model(x) - x).abs().max() < 0.1


def test_scalenorm_divides_by_the_length() -> None:
    model = decoder_of(use_scalenorm=True)
    norm = model.layers[0].mixer_join.norm
    x = vectors(3)
    expected = norm.weight * x / x.norm(dim=-1, keepdim=True).clamp(min=norm.config.eps)
    torch.testing.assert_close(norm(x), expected)
    assert model.architecture.head.norm.type == "layernorm"


def test_the_specs_are_the_package_s_own(write: Any) -> None:
    config = parse_model_config(write(FILE))
    spec = config.to_spec()
    architecture = resolve(spec)
    assert isinstance(spec, ArchSpec)
    assert resolve(architecture.to_spec()) == architecture
    assert architecture.digest() == create_model(config).architecture.digest()
    causal = EncoderConfig(params(attention_type="causal_linear")).to_spec()
    assert (causal.type, causal.head.type) == ("decoder", "none")
    double = EncoderDecoderConfig(params(attention_type="causal_linear"), params()).to_spec()
    assert double.encoder is not None
    assert double.encoder.causal


def test_a_section_wins_over_global_config_and_the_outer_one_is_of_datasets(write: Any) -> None:
    model, datasets = parse_config(write(FILE))
    assert isinstance(model.config, EncoderDecoderConfig)
    encoder, decoder = model.config.encoder_params, model.config.decoder_params
    assert (encoder.d_ff, decoder.d_ff) == (4, 2)
    assert encoder.d_model == decoder.d_model == 16
    assert datasets[0].corpus_dir == "./data"
    outer = FILE.replace("global_config: {dropout: 0.1, ", "global_config: {").replace(
        "global_config: {corpus_dir: ./data}", "global_config: {dropout: 0.1}"
    )
    with pytest.raises(ConfigError, match="dropout: required here or in"):
        parse_model_config(write(outer))


def test_reading_changes_nothing_and_gives_the_same_again(write: Any) -> None:
    path = write(FILE)
    text = path.read_text(encoding="utf-8")
    first, second = parse_model_config(path), parse_model_config(path)
    assert first == second
    assert first.to_spec() == first.to_spec()
    assert create_model(first) is not create_model(first)
    assert first == second
    assert path.read_text(encoding="utf-8") == text


def test_equal_seeds_give_equal_weights() -> None:
    config = ModelConfig("decoder", DecoderConfig(params()))
    one, other = create_model(config, seed=1), create_model(config, seed=2)
    again = create_model(config, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.layers[0].mixer.q.weight, other.layers[0].mixer.q.weight)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_layers: 1", "num_layer: 1", "unknown key; did you mean 'num_layers'?"),
        ("model_type:", "modeltype:", "unknown key; did you mean 'model_type'?"),
        ("dropout: 0.1", "droput: 0.1", "did you mean 'dropout'?"),
        ("datasets:", "dataset:", "did you mean 'datasets'?"),
        ("dropout: 0.1", "dropout: 5", "must be < 1"),
        ("d_model: 16", 'd_model: "512"', "expected an integer, not '512' (without quotes)"),
        ("num_layers: 1", "num_layers: -1", "must be ≥ 1, not -1"),
        ("encoder_decoder", "encoderdecoder", "did you mean 'encoder_decoder'?"),
        ("num_heads: 2", "num_heads: 3", "num_heads 3 does not divide d_model 16"),
        ("num_heads: 2", "num_heads: 2, activation: SWIGLUU", "did you mean 'SWIGLU'?"),
        ("num_heads: 2", "num_heads: 2, attention_type: liner", "did you mean 'linear'?"),
        ("num_heads: 2", "num_heads: 2, device: gpu", "'gpu' is no device"),
        ("num_heads: 2", "num_heads: 2, d_model: 32", "must be equal"),
        ("num_heads: 2", "num_heads: 2, use_cross_attention: true", "unknown key"),
        ("num_heads: 2", "num_heads: 2, use_rezero: true, use_scalenorm: true", "exclude"),
        ("num_heads: 4", "num_heads: 4, num_heads: 2", "written twice"),
        (
            "  encoder: {num_layers: 1, num_heads: 2}\n",
            "",
            "is required: model_type is encoder_decoder",
        ),
        ("d_model: 16", "device: cpu", "d_model: required here or in model.global_config"),
    ],
)
def test_a_mistake_is_told_with_its_place(write: Any, old: str, new: str, message: str) -> None:
    assert FILE.count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        parse_config(write(FILE.replace(old, new, 1)))
    assert message in str(caught.value)
    assert "f.yml:" in str(caught.value)


def test_null_is_no_value_of_what_is_required(write: Any) -> None:
    text = FILE.replace("num_heads: 2", "num_heads: 2, dropout: null")
    config: Any = parse_model_config(write(text)).config
    assert config.encoder_params.dropout == 0.1
    with pytest.raises(ConfigError, match=r"model\.encoder: dropout: required here or in"):
        parse_model_config(write(text.replace("dropout: 0.1, ", "")))


def test_rezero_and_scalenorm_exclude_each_other_across_sections(write: Any) -> None:
    text = FILE.replace("global_config: {", "global_config: {use_rezero: true, ", 1)
    with pytest.raises(ConfigError, match="exclude each other"):
        parse_model_config(write(text.replace("num_heads: 2", "num_heads: 2, use_scalenorm: true")))


def test_all_mistakes_are_told_at_once(write: Any) -> None:
    text = FILE.replace("dropout: 0.1", "dropout: 5").replace("timit", "timt")
    text = text.replace("num_heads: 4", "num_haeds: 4")
    with pytest.raises(ConfigError) as caught:
        parse_config(write(text))
    told = [problem.path for problem in caught.value.problems]
    assert "model.global_config.dropout" in told
    assert "model.decoder.num_haeds" in told
    assert "datasets[0].name" in told
    assert len(told) == 3, "one mistake is told once"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "num_heads: 2",
            "num_heads: 2, nb_features: 8",
            "encoder.nb_features has no effect on softmax",
        ),
        ("encoder_decoder", "decoder", "model.encoder has no effect: model_type is decoder"),
        ("num_heads: 4", "num_heads: 4, use_cross_attention: false", "always reads its encoder"),
    ],
)
def test_a_key_without_effect_is_told(write: Any, old: str, new: str, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        parse_model_config(write(FILE.replace(old, new, 1)))


def test_one_half_of_a_file_is_read_whatever_the_other_is(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_data = str(write(FILE.replace("name: timit", "nme: 7")))
    assert main(["--config", bad_data, "--model-only"]) == 0
    assert main(["--config", bad_data]) == main(["--config", bad_data, "--data-only"]) == 2
    bad_model = str(write(FILE.replace("num_heads: 2", "num_heads: two")))
    assert main(["--config", bad_model, "--data-only"]) == 0
    assert main(["--config", bad_model, "--model-only"]) == 2
    assert "expected an integer, not 'two'" in capsys.readouterr().err
    assert main(["--config", "nowhere.yml"]) == 2
    assert "nowhere.yml" in capsys.readouterr().err


def test_the_command_tells_what_has_no_effect(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(FILE.replace("num_heads: 2", "num_heads: 2, nb_features: 8"))
    assert main(["--config", str(path)]) == 0
    shown = capsys.readouterr()
    assert "warning: " in shown.err
    assert "has no effect on softmax" in shown.err
    assert "1 + 2 layers" in shown.out


def test_a_config_of_another_type_is_refused() -> None:
    with pytest.raises(UsageError, match="needs DecoderConfig, not EncoderConfig"):
        ModelConfig("decoder", EncoderConfig(params()))
    with pytest.raises(UsageError, match="unknown"):
        ModelConfig("encodr", EncoderConfig(params()))  # type: ignore[arg-type]


def test_a_device_that_is_not_here_is_told() -> None:
    config = EncoderConfig(params(device="cuda:99"))
    with pytest.warns(UserWarning, match="cuda:99 is not on this machine"):
        model = ModelFactory.create_encoder(config)
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize("kind", TYPES)
def test_every_weight_gets_a_gradient(kind: str) -> None:
    config = EncoderDecoderConfig(params(attention_type="linear"), params(attention_type=kind))
    model = ModelFactory.create_encoder_decoder(config)
    model(vectors(4).float(), vectors(3, 1).float()).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
