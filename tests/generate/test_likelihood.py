"""Log probabilities of given texts: right, and the same however they are batched."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.arch import build, resolve
from windtunnel.arch.spec import ArchSpec
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.generate import SamplingConfig, generate
from windtunnel.generate.likelihood import Likelihood, Query, log_likelihoods, windows

V = 13
ATTENTION: dict[str, Any] = {"mixer": {"type": "attention", "num_heads": 2}, "mlp": "glu"}
LEARNED = {"position": "learned"}
SPECS: dict[str, dict[str, Any]] = {
    "llama": {"layers": (ATTENTION,)},
    "gpt2": {"embedding": LEARNED, "max_seq_len": 24, "layers": (ATTENTION, ATTENTION)},
    "gru": {"layers": ({"mixer": "gru", "mlp": "none"},)},
    "mamba": {"layers": ({"mixer": "mamba", "mlp": "none"},)},
    "moe": {"layers": ({"mixer": "gla", "mlp": {"type": "moe", "num_experts": 4}},)},
    "window": {"layers": ({"mixer": {"type": "attention", "num_heads": 2, "window": 3}},)},
    "softcap": {"layers": (ATTENTION,), "head": {"softcap": 5.0}},
}
SEQ2SEQ: dict[str, Any] = {
    "type": "encoder_decoder",
    "embedding": {"position": "learned"},
    "max_seq_len": 24,
    "encoder": {"layers": (ATTENTION,)},
    "decoder": {"layers": (ATTENTION,)},
}
ALL = [*SPECS, "seq2seq"]
_made: dict[str, Any] = {}


def model_of(name: str) -> Any:
    """In float64, with weights large enough for the answers to differ."""
    if name not in _made:
        spec = SEQ2SEQ if name == "seq2seq" else SPECS[name]
        made = build(
            resolve(ArchSpec.model_validate({"d_model": 8, "vocab_size": V, **spec})), seed=1
        ).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1.5)
        _made[name] = made
    return _made[name]


def naive(model: Any, query: Query) -> Likelihood:
    """One query alone, token by token, from the logits of the whole text."""
    whole = [*query.context, *query.continuation]
    values, hits = [], []
    for place in range(len(query.context), len(whole)):
        read = torch.tensor([whole[:place]])
        with torch.no_grad():
            if query.source:
                logits = model(torch.tensor([list(query.source)]), read)[0, -1]
            else:
                logits = model(read)[0, -1]
        logits = logits.double()
        values.append(float(logits[whole[place]] - logits.logsumexp(-1)))
        hits.append(int(logits.argmax()) == whole[place])
    return Likelihood(np.array(values), np.array(hits))


def agree(found: Likelihood, wanted: Likelihood, *, within: float = 1e-9) -> None:
    assert found.log_probabilities.dtype == "float64"
    assert found.log_probabilities == pytest.approx(wanted.log_probabilities, abs=within)
    assert found.most_likely.tolist() == wanted.most_likely.tolist()
    assert found.total == pytest.approx(math.fsum(wanted.log_probabilities), abs=within * 9)


ids = st.integers(0, V - 1)


def queries(source: bool) -> st.SearchStrategy[list[Query]]:
    one = st.builds(
        Query,
        st.lists(ids, min_size=1, max_size=9),
        st.lists(ids, min_size=1, max_size=6),
        st.lists(ids, min_size=1, max_size=9) if source else st.just(()),
    )
    return st.lists(one, min_size=1, max_size=7)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), batch_size=st.integers(1, 5))
def test_a_batch_gives_what_each_text_gives_alone(
    name: str, data: st.DataObject, batch_size: int
) -> None:
    model, asked = model_of(name), data.draw(queries(name == "seq2seq"))
    found = log_likelihoods(model, asked, batch_size=batch_size)
    assert len(found) == len(asked)
    for query, one in zip(asked, found, strict=True):
        agree(one, naive(model, query))


@pytest.mark.parametrize("name", ALL)
def test_probabilities_of_all_continuations_of_a_length_sum_to_one(name: str) -> None:
    model, source = model_of(name), (1, 2) if name == "seq2seq" else ()
    two = [Query((3, 4), (a, b), source) for a in range(V) for b in range(V)]
    assert sum(math.exp(one.total) for one in log_likelihoods(model, two)) == pytest.approx(1.0)


def test_greedy_is_what_greedy_decoding_writes() -> None:
    model = model_of("llama")
    written = generate(
        model, [[1, 2, 3], [4]], max_new_tokens=5, sampling=SamplingConfig(temperature=0.0)
    )
    asked = [Query(p, t) for p, t in zip([[1, 2, 3], [4]], written, strict=True)]
    assert [one.greedy for one in log_likelihoods(model, asked)] == [True, True]
    other = [Query(q.context, [*q.continuation[:-1], (q.continuation[-1] + 1) % V]) for q in asked]
    assert [one.greedy for one in log_likelihoods(model, other)] == [False, False]
    assert log_likelihoods(model, other)[0].most_likely.tolist() == [True] * 4 + [False]


def test_texts_that_read_the_same_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = model_of("gru"), []
    read = model.hidden

    def hidden(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(tokens))
        return read(tokens, *rest)

    monkeypatch.setattr(model, "hidden", hidden)
    asked = [Query((1, 2), (n,)) for n in range(V)] + [Query((1,), (2, 5)), Query((1, 2), (5,))]
    found = log_likelihoods(model, asked)
    assert rows == [1]
    for query, one in zip(asked, found, strict=True):
        agree(one, naive(model, query))
    assert found[5].total == found[-1].total  # a tie is a tie, to the bit


def test_ids_that_stand_for_no_text_get_no_probability() -> None:
    model, known = model_of("llama"), 6
    every = [Query((1, 2), (n,)) for n in range(known)]
    found = log_likelihoods(model, every, vocab_size=known)
    assert sum(math.exp(one.total) for one in found) == pytest.approx(1.0)
    assert sum(math.exp(one.total) for one in log_likelihoods(model, every)) < 0.999
    assert any(one.greedy for one in found), "one of the known ones is the most likely of them"
    with pytest.raises(UsageError, match="ids outside of 0 to 5"):
        log_likelihoods(model, [Query((1,), (known,))], vocab_size=known)


@pytest.mark.parametrize("name", ["gpt2", "seq2seq"])
def test_learned_positions_end_in_an_error_or_a_cut(name: str) -> None:
    model, source = model_of(name), tuple(n % V for n in range(30)) if name == "seq2seq" else ()
    long = Query(tuple(n % V for n in range(30)), (1, 2, 3), source)
    with pytest.raises(UsageError, match="learned positions end at 24"):
        log_likelihoods(model, [long])
    cut = Query(long.context[-22:], long.continuation, source[-24:])
    assert len(cut.inputs) == 24
    found = log_likelihoods(model, [long], too_long="cut")[0]
    agree(found, naive(model, cut))
    fits = Query((1,), tuple(n % V for n in range(24)), (5,) * bool(source))
    assert log_likelihoods(model, [fits], too_long="cut")[0].total < 0
    with pytest.raises(UsageError, match="a continuation of 25 tokens has no room"):
        log_likelihoods(
            model, [Query((1,), (2,) * 25, (5,) * bool(source))], too_long="cut"
        )  # fmt: skip


def test_logits_that_are_not_finite_say_nothing() -> None:
    model = build(resolve(ArchSpec.model_validate({"d_model": 8, "vocab_size": V,
                                                   "layers": (ATTENTION,)})), seed=0)  # fmt: skip
    with torch.no_grad():
        model.embedding.weight.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="its training has diverged"):
        log_likelihoods(model, [Query((1,), (2,))])


def test_a_wide_vocabulary_goes_through_the_head_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("mamba")
    asked = [Query((1, 2), (3, 4, 5, 6)), Query((2,), (1, 2))]
    whole = log_likelihoods(model, asked)
    monkeypatch.setattr("windtunnel.generate.likelihood._LOGITS_AT_ONCE", 2 * V)
    for one, other in zip(log_likelihoods(model, asked), whole, strict=True):
        agree(one, other, within=1e-12)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (Query((), (1,)), "needs a token of context"),
        (Query((1,), ()), "one to follow it"),
        (Query((1,), (V,)), "outside of 0 to 12"),
        (Query((-1,), (1,)), "outside of 0 to 12"),
        (Query((1,), (1,), (2,)), "has a source, and the model is of type decoder"),
    ],
)
def test_mistakes_name_the_query(query: Query, told: str) -> None:
    with pytest.raises(UsageError, match="query 2 .*" + told):
        log_likelihoods(model_of("llama"), [Query((1,), (2,)), query])


def test_a_source_is_needed_where_an_encoder_reads() -> None:
    with pytest.raises(UsageError, match="query 1 needs a source"):
        log_likelihoods(model_of("seq2seq"), [Query((1,), (2,))])
    with pytest.raises(UsageError, match="outside of 0 to 12"):
        log_likelihoods(model_of("seq2seq"), [Query((1,), (2,), (V,))])


def test_an_encoder_gives_no_next_token() -> None:
    spec = {"type": "encoder", "d_model": 8, "vocab_size": V, "layers": (ATTENTION,)}
    encoder = build(resolve(ArchSpec.model_validate(spec)), seed=0)
    with pytest.raises(UsageError, match="gives no next token"):
        log_likelihoods(encoder, [Query((1,), (2,))])


@given(
    begin=st.lists(ids, min_size=1, max_size=3),
    text=st.lists(ids, max_size=40),
    length=st.integers(3, 12),
)
def test_windows_score_each_token_once_and_are_full(
    begin: Sequence[int], text: Sequence[int], length: int
) -> None:
    found, whole = windows(begin, text, length), [*begin, *text]
    assert [i for query in found for i in query.continuation] == list(text)
    reached = len(begin)
    for query in found:
        assert 1 <= len(query.inputs) <= length
        reached += len(query.continuation)
        # what is read is a piece of the text, and it is as long as it can be
        assert query.inputs == tuple(whole[max(0, reached - 1 - length) : reached - 1])


def test_windows_that_hold_the_text_give_its_probability() -> None:
    model, text = model_of("gpt2"), [n * 5 % V for n in range(23)]
    assert len(windows([1], text, 24)) == 1
    several = log_likelihoods(model, windows([1], text, 8))
    assert [len(one.log_probabilities) for one in several] == [8, 8, 7]
    assert several[2].total == pytest.approx(
        naive(model, Query(tuple(text[14:16]), tuple(text[16:]))).total, abs=1e-9
    )
