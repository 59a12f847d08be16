"""Every block of the model-factory guide, with only the import lines changed.

Blocks that the guide leaves unfinished (``# ... params``) are completed with what its table of
required parameters asks for.
"""

import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from windtunnel.factory import DatasetManager, FactoryModel, PerformerParams, datasets
from windtunnel.factory.__main__ import main
from windtunnel.nn.mixers.favor import Favor

EXAMPLES = Path(__file__).parents[2] / "examples" / "factory"

QUICK_START = """
# configs/my_model.yml
model:
  model_type: encoder_decoder
  name: translator

  global_config:
    dropout: 0.1
    batch_size: 32

  encoder:
    d_model: 512
    num_layers: 6
    num_heads: 8
    d_ff: 4
    attention_type: linear
    activation: GEGLU

  decoder:
    d_model: 512
    num_layers: 6
    num_heads: 8
    d_ff: 4
    attention_type: causal_linear
    activation: SWIGLU
"""
ENCODER = """
model:
  model_type: encoder
  name: classifier

  encoder:
    d_model: 256
    device: cpu
    batch_size: 32
    num_layers: 4
    num_heads: 8
    d_ff: 4
    dropout: 0.1
    attention_type: softmax
    activation: GELU
"""
DECODER = """
model:
  model_type: decoder
  name: language_model

  decoder:
    d_model: 512
    device: cpu
    batch_size: 32
    num_layers: 12
    num_heads: 8
    d_ff: 4
    dropout: 0.1
    attention_type: causal_linear
    activation: SWIGLU
    nb_features: 256
    use_cross_attention: false  # No encoder
"""
ENCODER_DECODER = """
model:
  model_type: encoder_decoder
  name: seq2seq

  encoder:
    d_model: 512
    num_layers: 6
    num_heads: 8
    # ... encoder params
    device: cpu
    batch_size: 32
    d_ff: 4
    dropout: 0.1

  decoder:
    d_model: 512
    num_layers: 6
    num_heads: 8
    # ... decoder params
    device: cpu
    batch_size: 32
    d_ff: 4
    dropout: 0.1
"""
GLOBAL = """
model:
  model_type: encoder_decoder

  global_config:
    dropout: 0.1
    batch_size: 32
    d_ff: 4
    device: cpu

  encoder:
    d_model: 512
    num_layers: 6
    num_heads: 8
    attention_type: linear
    # dropout, batch_size, d_ff, device inherited

  decoder:
    d_model: 512
    num_layers: 6
    num_heads: 8
    attention_type: causal_linear
    # dropout, batch_size, d_ff, device inherited
"""
COMBINED = """
# configs/experiment.yml

# Model configuration
model:
  model_type: encoder_decoder
  name: translator

  encoder:
    d_model: 512
    # ... params
    num_layers: 2
    num_heads: 8
    batch_size: 32
    d_ff: 4
    dropout: 0.1

  decoder:
    d_model: 512
    # ... params
    num_layers: 2
    num_heads: 8
    batch_size: 32
    d_ff: 4
    dropout: 0.1

# Dataset configuration
global_config:
  corpus_dir: ./data
  output_dir: ./manifests

datasets:
  - name: librispeech
  - name: timit
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's paths are relative; warnings would say that a block is not read as it stands."""
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UserWarning)
        yield


def written(text: str, name: str = "my_model.yml") -> str:
    Path("configs", name).write_text(text, encoding="utf-8")
    return f"configs/{name}"


def vectors(t: int, d: int) -> Tensor:
    return torch.randn(2, t, d, generator=torch.Generator().manual_seed(t))


def test_quick_start() -> None:
    written(QUICK_START)
    source, target = vectors(5, 512), vectors(4, 512)

    from windtunnel.factory import create_model, parse_model_config

    # Parse configuration
    config = parse_model_config("configs/my_model.yml")

    # Create model
    model = create_model(config)

    # Use model
    output = model(source, target)

    assert output.shape == target.shape
    assert (config.model_type, config.name) == ("encoder_decoder", "translator")


def test_encoder_only() -> None:
    from windtunnel.factory import create_model, parse_model_config

    config = parse_model_config(written(ENCODER))
    input_embeddings = vectors(7, 256)

    encoder = create_model(config)
    encoded = encoder(input_embeddings)

    assert encoded.shape == input_embeddings.shape
    assert len(encoder.layers) == 4


def test_decoder_only() -> None:
    from windtunnel.factory import create_model, parse_model_config

    config = parse_model_config(written(DECODER))
    tokens = vectors(6, 512)

    lm = create_model(config)
    output = lm(tokens, use_causal_mask=True)

    assert output.shape == (2, 6, 512)
    with pytest.warns(UserWarning, match="no vocab_size"):  # ids, as the guide's name suggests
        of_ids = lm(torch.tensor([[5, 9, 50_000]]), use_causal_mask=True)
    assert of_ids.shape == (1, 3, 512)


def test_decoder_only_with_a_vocabulary_gives_logits() -> None:
    from windtunnel.factory import create_model, parse_model_config

    text = DECODER.replace("num_layers: 12", "num_layers: 1\n    vocab_size: 1000")
    lm = create_model(parse_model_config(written(text)))
    assert lm(torch.tensor([[5, 9, 999]]), use_causal_mask=True).shape == (1, 3, 1000)
    assert lm(vectors(3, 512), use_causal_mask=True).shape == (2, 3, 1000)


def test_encoder_decoder() -> None:
    from windtunnel.factory import create_model, parse_model_config

    config = parse_model_config(written(ENCODER_DECODER))
    source, target = vectors(5, 512), vectors(4, 512)

    seq2seq = create_model(config)
    output = seq2seq(source, target)

    assert output.shape == target.shape


def test_global_configuration() -> None:
    from windtunnel.factory import EncoderDecoderConfig, parse_model_config

    config = parse_model_config(written(GLOBAL)).config
    assert isinstance(config, EncoderDecoderConfig)
    for params in (config.encoder_params, config.decoder_params):
        assert (params.dropout, params.batch_size, params.d_ff, params.device) == (
            0.1,
            32,
            4,
            "cpu",
        )


def test_combined_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    written(COMBINED, "experiment.yml")
    asked: list[str] = []
    monkeypatch.setattr(
        DatasetManager,
        "load_datasets",
        staticmethod(lambda datasets: asked.extend(d.name for d in datasets)),
    )

    from windtunnel.factory import create_model, parse_config

    # Parse combined config
    model_config, dataset_configs = parse_config("configs/experiment.yml")

    # Create model
    model = create_model(model_config)

    # Load datasets
    cut_sets = DatasetManager.load_datasets(datasets=dataset_configs)

    assert isinstance(model, FactoryModel)
    assert cut_sets is None
    assert asked == ["librispeech", "timit"]
    assert [d.corpus_dir for d in dataset_configs] == ["./data", "./data"]
    assert [d.output_dir for d in dataset_configs] == [
        "./manifests/librispeech",
        "./manifests/timit",
    ]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), ("model translator", "dataset timit")),
        (("--model-only",), ("model translator",)),
        (("--data-only",), ("dataset librispeech", "dataset timit")),
    ],
    ids=["both", "model", "data"],
)
def test_command_line(
    options: tuple[str, ...], shown: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", written(COMBINED, "experiment.yml"), *options]) == 0
    told = capsys.readouterr()
    assert all(text in told.out for text in shown)
    assert ("model" in told.out) == (options != ("--data-only",))
    assert ("dataset" in told.out) == (options != ("--model-only",))
    assert told.err == ""


def test_the_package_is_a_command() -> None:
    path = written(COMBINED, "experiment.yml")
    command = [sys.executable, "-m", "windtunnel.factory", "--config", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "model translator" in done.stdout


def test_factory_class() -> None:
    from windtunnel.factory import (
        DecoderConfig,
        EncoderConfig,
        EncoderDecoderConfig,
        ModelConfig,
        ModelFactory,
        PerformerParams,
    )

    small = PerformerParams(
        d_model=16, device="cpu", batch_size=2, num_layers=1, num_heads=2, d_ff=2, dropout=0.1
    )
    encoder_config, decoder_config = EncoderConfig(small), DecoderConfig(small)
    enc_dec_config = EncoderDecoderConfig(small, small)
    model_config = ModelConfig("encoder", encoder_config)

    # Create encoder
    encoder = ModelFactory.create_encoder(encoder_config)

    # Create decoder
    decoder = ModelFactory.create_decoder(decoder_config)

    # Create encoder-decoder
    seq2seq = ModelFactory.create_encoder_decoder(enc_dec_config)

    # Create from ModelConfig (auto-detects type)
    model = ModelFactory.create_model(model_config)

    # List available types
    types = ModelFactory.list_model_types()

    assert types == ["encoder", "decoder", "encoder_decoder"]
    x = vectors(3, 16)
    assert torch.equal(model.eval()(x), encoder.eval()(x))
    assert decoder(x).shape == seq2seq(x, x).shape == x.shape
    assert len(seq2seq.encoder.layers) == len(seq2seq.decoder.layers) == 1


def test_configuration_classes() -> None:
    # Programmatic configuration
    from windtunnel.factory import (
        ActivationFunctions,
        DecoderConfig,
        EncoderConfig,
        EncoderDecoderConfig,
        ModelConfig,
        PerformerParams,
        create_model,
    )

    encoder_params = PerformerParams(
        d_model=512,
        device=torch.device("cuda"),
        batch_size=32,
        num_layers=6,
        num_heads=8,
        d_ff=4,
        dropout=0.1,
        attention_type="linear",
        activation=ActivationFunctions.GEGLU,
    )

    config = ModelConfig(
        model_type="encoder",
        config=EncoderConfig(params=encoder_params),
        name="my_encoder",
    )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = create_model(config)

    assert bool(caught) == (not torch.cuda.is_available()), "a device that is not here is told"
    device = next(model.parameters()).device
    assert model(vectors(3, 512).to(device)).shape == (2, 3, 512)
    assert DecoderConfig.__name__, EncoderDecoderConfig.__name__


@pytest.mark.parametrize(
    ("block", "mixer", "features"),
    [
        ("attention_type: softmax", "attention", None),
        ("attention_type: linear\n    nb_features: 256", "favor", 256),
        ("attention_type: causal_linear\n    nb_features: 256", "favor", 256),
    ],
)
def test_attention_types(block: str, mixer: str, features: int | None) -> None:
    from windtunnel.factory import create_model, parse_model_config

    model = create_model(
        parse_model_config(written(ENCODER.replace("attention_type: softmax", block)))
    )
    layer = model.architecture.layers[0].mixer
    assert (layer.type, getattr(layer, "nb_features", None)) == (mixer, features)
    assert sum(isinstance(m, Favor) for m in model.modules()) == 4 * (mixer == "favor")


@pytest.mark.parametrize(
    ("block", "norm", "residual", "final"),
    [
        ("use_rezero: false\n    use_scalenorm: false", "layernorm", "add", "layernorm"),
        ("use_rezero: true", "none", "rezero", "none"),
        ("use_scalenorm: true", "scalenorm", "add", "layernorm"),
    ],
)
def test_normalization_strategies(block: str, norm: str, residual: str, final: str) -> None:
    from windtunnel.factory import parse_model_config

    spec = parse_model_config(written(ENCODER + f"    {block}\n")).to_spec()
    assert (spec.layers[0].norm.type, spec.layers[0].residual.type) == (norm, residual)
    assert spec.head.norm.type == final


@pytest.mark.parametrize("name", ["GELU", "RELU", "SILU", "GEGLU", "REGLU", "SWIGLU", "swiglu"])
def test_activation_functions(name: str) -> None:
    from windtunnel.factory import create_model, parse_model_config

    config = parse_model_config(written(ENCODER.replace("GELU", name)))
    mlp = create_model(config).architecture.layers[0].mlp
    gates = {"GEGLU": "gelu", "REGLU": "relu", "SWIGLU": "silu"}
    assert mlp.type == ("glu" if name.upper() in gates else "dense")
    assert mlp.activation == gates.get(name.upper(), name.lower())


@pytest.mark.parametrize(
    "name", ["encoder_model", "decoder_model", "example_model", "full_experiment"]
)
def test_example_configurations(name: str) -> None:
    from windtunnel.factory import create_model, parse_config

    config, found = parse_config(EXAMPLES / f"{name}.yml")
    config.validate()
    model = create_model(config)
    d = model.architecture.d_model
    inputs = (
        (vectors(5, d), vectors(4, d))
        if config.model_type == "encoder_decoder"
        else (vectors(4, d),)
    )
    assert model(*inputs).shape == (2, 4, d)
    assert bool(found) == (name == "full_experiment")


def test_every_dataset_of_the_guide_is_known() -> None:
    assert {"librispeech", "timit"} <= datasets.RECIPES.keys()


def test_the_page_lists_every_parameter_and_its_python_runs() -> None:
    page = (EXAMPLES.parents[1] / "docs" / "factory.md").read_text(encoding="utf-8")
    table = page.split("## The parameters")[1].split("## Calling")[0]
    for name in {**PerformerParams.model_fields, "use_cross_attention": None}:
        assert f"`{name}`" in table, f"docs/factory.md lacks {name}"
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    values: dict[str, object] = {"embeddings": vectors(3, 256)}
    exec(block.replace("examples/factory", str(EXAMPLES)), values)
    assert isinstance(values["output"], Tensor)
