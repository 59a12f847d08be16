"""Presets at their published sizes have the published number of parameters, counted, not built."""

import pytest

from windtunnel.arch import ArchSpec, build, cost, preset_document, preset_names, resolve
from windtunnel.arch.presets import preset_family
from windtunnel.config import decode

HF = "the model card's count on the Hugging Face hub"
PUBLISHED: dict[str, tuple[int, str]] = {
    "gpt2-small": (124_439_808, "the released weights; the paper's table says 117M by mistake"),
    "gpt2-medium": (354_823_168, "the released weights"),
    "gpt2-large": (774_030_080, "the released weights; 774M in the release note"),
    "gpt2-xl": (1_557_611_200, "the released weights; 1.5B in the release note"),
    "llama2-7b": (6_738_415_616, HF),
    "llama2-13b": (13_015_864_320, HF),
    "llama2-70b": (68_976_648_192, HF),
    "llama3-8b": (8_030_261_248, HF),
    "llama3-70b": (70_553_706_496, HF),
    "llama3.2-1b": (1_235_814_400, HF),
    "llama3.2-3b": (3_212_749_824, HF),
    "smollm2-135m": (134_515_008, HF),
    "smollm2-360m": (361_821_120, HF),
    "smollm2-1.7b": (1_711_376_384, HF),
    "tinyllama-1.1b": (1_100_048_384, HF),
    "mistral-7b": (7_241_732_096, HF),
    "mixtral-8x7b": (46_702_792_704, HF),
    "gemma-2b": (2_506_172_416, HF),
    "gemma-7b": (8_537_680_896, HF),
    "gemma2-2b": (2_614_341_888, HF),
    "gemma2-9b": (9_241_705_984, HF),
    "gemma3-1b": (999_885_952, HF),
    "qwen3-0.6b": (596_049_920, HF + ", with the tied weight once"),
    "qwen3-1.7b": (1_720_574_976, HF + ", with the tied weight once"),
    "qwen3-8b": (8_190_735_360, HF),
    "gpt-neox-20b": (20_554_567_680, "arXiv:2204.06745, table 1, and " + HF),
    "pythia-160m": (162_322_944, "arXiv:2304.01373, table 1"),
    "pythia-1.4b": (1_414_647_808, "arXiv:2304.01373, table 1"),
    "phi-2": (2_779_683_840, HF),
    "mamba-130m": (129_135_360, HF),
    "mamba-2.8b": (2_768_345_600, HF),
    "mamba2-130m": (128_989_632, HF),
    "deepseek-v2-lite": (15_706_484_224, HF),
    "deepseek-v3": (671_026_419_200, HF + ", without multi-token prediction"),
    "olmo2-7b": (7_298_617_344, HF),
    "bert-base": (109_482_240, HF),
    "bert-large": (335_141_888, HF),
    "t5-small": (60_506_624, HF),
    "t5-base": (222_903_552, HF),
}
ROUNDED: dict[str, tuple[float, float, str]] = {
    "transformer-base": (65e6, 0.03, "arXiv:1706.03762, table 3"),
    "transformer-big": (213e6, 0.03, "arXiv:1706.03762, table 3"),
    "grok-1": (314e9, 0.01, "xAI's release, March 2024"),
}
"""Where the source rounds, or leaves the exact vocabulary open: how far the count may be off."""


def bert(d: int) -> int:
    """The head of masked tokens, a linear map with its norm and the biases of the logits, more; the
    pooler, a linear map as large, less."""
    return (d * d + d) + 2 * d + 30_522 - (d * d + d)


DIFFERENCES: dict[str, int] = {
    "deepseek-v3": -58 * 256,  # the biases that balance experts are no parameters here
    "bert-base": bert(768),
    "bert-large": bert(1024),
}
"""What a preset leaves out or adds, to the last parameter; its own first line says so."""


def params(name: str) -> int:
    return int(cost(resolve(decode(preset_document(name), ArchSpec))).total.params)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_has_the_published_number_of_parameters(name: str) -> None:
    assert params(name) == PUBLISHED[name][0] + DIFFERENCES.get(name, 0)


@pytest.mark.parametrize("name", ROUNDED)
def test_a_rounded_size_is_met_nearly(name: str) -> None:
    published, tolerance, _ = ROUNDED[name]
    assert params(name) == pytest.approx(published, rel=tolerance)


def test_every_published_size_has_its_source() -> None:
    sized = {n for n in preset_names() if "vocab_size" in preset_document(n).tree}
    assert sized == PUBLISHED.keys() | ROUNDED.keys()
    assert DIFFERENCES.keys() <= PUBLISHED.keys()


@pytest.mark.parametrize("name", [*PUBLISHED, *ROUNDED])
def test_one_layer_of_each_kind_is_built_as_it_is_counted(name: str) -> None:
    document = preset_document(name)
    stacks = [p for p in ("layers", "encoder.layers", "decoder.layers") if _has(document.tree, p)]
    for stack in stacks:
        document = document.edit(f"{stack}[*].repeat=1")
    architecture = resolve(decode(document, ArchSpec))
    built = sum(p.numel() for p in build(architecture, device="meta").parameters())
    assert cost(architecture).total.params == built


def _has(tree: dict[str, object], path: str) -> bool:
    first, _, rest = path.partition(".")
    inner = tree.get(first)
    return inner is not None if not rest else isinstance(inner, dict) and rest in inner


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_called_by_its_file_and_belongs_to_a_family(name: str) -> None:
    assert preset_document(name).tree["name"] == name
    family = preset_family(name)
    assert family in preset_names()
    assert preset_family(family) == family
