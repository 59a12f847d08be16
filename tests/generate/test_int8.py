"""8-bit weights: near the plain ones, through whole sequences and token by token."""

import pytest
import torch
from tests.generate.test_generate import VOCABULARY, model

from windtunnel.arch import ArchSpec, build, resolve
from windtunnel.config import Document, decode
from windtunnel.generate import as_decoded, generate, quantized
from windtunnel.generate.int8 import Int8Linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 24), (2, 3, 24), (4, 9, 24)])
def test_a_product_is_near_the_plain_one(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(24, 40, bias=bias)
    small, x = Int8Linear(plain.weight, plain.bias), torch.randn(shape)
    step = plain.weight.abs().amax(1, keepdim=True) / 127
    assert ((small.weight - plain.weight).abs() <= step / 2 + 1e-7).all()
    exact = torch.nn.functional.linear(x, small.weight, plain.bias)
    torch.testing.assert_close(small(x), exact, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(small(x), plain(x), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("d_in", [1, 3, 16, 31, 64, 65, 200])
@pytest.mark.parametrize("d_out", [1, 2, 5, 16, 33])
def test_any_width_will_do(d_in: int, d_out: int) -> None:
    generator = torch.Generator().manual_seed(d_in * 100 + d_out)
    weight = torch.randn(d_out, d_in, generator=generator)
    small, x = Int8Linear(weight, None), torch.randn(2, d_in, generator=generator)
    exact = x @ small.weight.T
    error = (small(x) - exact).abs()
    scale = x.abs() @ small.weight.abs().T  # what bfloat16 rounds is at most a 2⁻⁸ of it
    assert small(x).shape == (2, d_out)
    assert (error <= 2**-7 * scale).all()


def test_a_row_of_zeros_stays_so() -> None:
    weight = torch.zeros(2, 8)
    weight[1, 3] = 5.0
    small = Int8Linear(weight, None)
    assert torch.equal(small.weight, weight)


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "deepseek", "mamba", "mixtral", "gemma2", "lstm"]
)
def test_a_model_keeps_its_logits_nearly_and_itself_wholly(name: str) -> None:
    plain = model(name).float().eval()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    small = quantized(plain)
    assert any(isinstance(module, Int8Linear) for module in small.modules())
    tokens = torch.arange(10).expand(2, -1) % VOCABULARY
    with torch.no_grad():
        expected, found = plain(tokens), small(tokens)
        with as_decoded(small):
            decoded = small(tokens)
    spread = expected.std()
    assert 0 < (found - expected).abs().mean() < 0.1 * spread
    assert 0 < (decoded - found).abs().mean() < 0.1 * spread
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in before.items())
    assert all(len(text) == 5 for text in generate(small, [[1], [2, 3]], max_new_tokens=5))


def test_vectors_of_unified_maps_are_in_the_8_bits() -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2}, "mlp": "glu", "linear": "unified"}
    spec = {"vocab_size": 20, "d_model": 16, "layers": [layer]}
    plain = build(resolve(decode(Document(spec), ArchSpec)), seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(plain.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.manual_seed(i)))
    x = torch.arange(9)[None]
    expected, found = plain(x), quantized(plain)(x)
    assert (found - expected).norm() < 0.05 * expected.norm()
