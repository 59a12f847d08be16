"""Documents that share a row: each gives what it gives alone, whatever mixes along time."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.arch.test_arch import DECODERS, spec_of, tiny

from windtunnel.arch import build, resolve
from windtunnel.errors import UsageError
from windtunnel.nn.component import Span

LENGTHS = ((3, 1, 5), (7, 2))


def packed_rows(padded: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, documents and which are real, of two rows of several documents."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50, (2, 9), generator=draw)
    documents = torch.stack(
        [torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n)) for n in LENGTHS]
    )
    real = torch.ones(2, 9, dtype=torch.bool)
    if padded:
        tokens, documents = (torch.nn.functional.pad(x, (2, 1)) for x in (tokens, documents))
        real = torch.nn.functional.pad(real, (2, 1))
    return tokens, documents, real


@pytest.mark.parametrize("name", DECODERS)
def test_a_document_of_a_packed_row_gives_its_logits_alone(name: str) -> None:
    spec = tiny(name).replace(vocab_size=50)
    if any(layer.depth is not None for layer in spec.layers):
        pytest.skip("layers with depth refuse documents that share a row")
    model = build(resolve(spec), seed=0).double().eval()
    for padded in (False, True):
        tokens, documents, real = packed_rows(padded)
        with torch.no_grad():
            found = model(tokens, real, documents=documents)
            for row, lengths in enumerate(LENGTHS):
                start = 2 * padded
                for length in lengths:
                    alone = model(tokens[row : row + 1, start : start + length])
                    torch.testing.assert_close(found[row : row + 1, start : start + length], alone)
                    start += length


def test_gradients_do_not_cross_documents() -> None:
    text = "{d_model: 16, vocab_size: 50, layers: [{mixer: {type: attention, num_heads: 2}}]}"
    model: Any = build(resolve(spec_of(text)), seed=0).double()
    tokens, documents, real = packed_rows(False)
    x = model.embedding.looked_up(tokens).detach().requires_grad_()
    model(x, real, documents=documents)[0, 3].sum().backward()  # the document of one token
    assert x.grad is not None
    touched = x.grad.abs().sum(-1) > 0
    assert touched[0].tolist() == [False, False, False, True, *[False] * 5]
    assert not touched[1].any()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4),
    left=st.booleans(),
)
def test_documents_are_taken_apart_and_put_together_again(
    rows: list[list[int]], left: bool
) -> None:
    t = max(sum(row) for row in rows)
    ids, real = torch.zeros(len(rows), t, dtype=torch.long), torch.zeros(len(rows), t).bool()
    expected = torch.full((len(rows), t), -1)
    for number, row in enumerate(rows):
        start = t - sum(row) if left else 0
        for document, length in enumerate(row):
            ids[number, start : start + length] = document
            real[number, start : start + length] = True
            expected[number, start : start + length] = torch.arange(length)
            start += length
    span = Span.of_documents(ids, real)
    assert torch.equal(span.positions, expected)
    assert span.documents is not None
    assert len(span.documents.index) == sum(len(row) for row in rows)

    class Doubled:
        def __call__(self, x: torch.Tensor, apart: Span) -> torch.Tensor:
            assert torch.equal(apart.real.sum(1), torch.tensor([n for row in rows for n in row]))
            return 2 * x

    x = torch.randn(len(rows), t, 3)
    mixed = span.documents.mixed(Doubled(), x)  # type: ignore[arg-type]
    assert torch.equal(mixed[real], 2 * x[real])


def test_a_layer_with_depth_refuses() -> None:
    text = "{d_model: 16, vocab_size: 50, layers: [{mixer: lstm, depth: {capacity: 0.5}}]}"
    model = build(resolve(spec_of(text)), seed=0)
    tokens, documents, real = packed_rows(False)
    with pytest.raises(UsageError, match="a layer with depth cannot keep apart"):
        model(tokens, real, documents=documents)
