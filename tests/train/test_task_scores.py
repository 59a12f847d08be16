"""How runs answer tasks: laid out as they were trained, scored from one place, measured."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import corpus_text

from windtunnel.config import parse_document
from windtunnel.data.forms import DecoderForm, Encoded, PairForm
from windtunnel.data.samples import Marks
from windtunnel.data.tasks import Item, Task, TaskKind, read_task
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.generate.likelihood import Likelihood, Query, log_likelihoods
from windtunnel.train.launch import ready_run, run_parts
from windtunnel.train.objectives.make import objective_of
from windtunnel.train.run_config import RunConfig, load_run_document
from windtunnel.train.task_scores import (
    CannotAsk,
    Layout,
    answer_task,
    answered,
    common_start,
    share_of_best,
)

LAYERS = "layers: [{mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]"
PLAIN = f"{{d_model: 16, {LAYERS}}}"
LEARNED = f"{{d_model: 16, max_seq_len: 16, embedding: {{position: learned}}, {LAYERS}}}"
PAIRS = "{source: {type: pairs, paths: p.jsonl, separator: '>'}, tokenizer: bytes}"
SEQ2SEQ = (
    "{type: encoder_decoder, d_model: 16, max_seq_len: 16, embedding: {position: learned}, "
    f"encoder: {{{LAYERS}}}, decoder: {{{LAYERS}}}}}"
)


class Run(NamedTuple):
    model: Any
    tokenizer: Tokenizer
    config: RunConfig

    @property
    def layout(self) -> Layout:
        return Layout(*self)


def run_of(arch: str, data: str, more: str = "") -> Run:
    """A run before its first step, with the weights large enough for answers to differ."""
    Path("p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n}:", "truth": f" {n % 7}"}) + "\n" for n in range(60))
    )
    rows = [{"text": f"{n}:", "label": n % 2} for n in range(40)]
    Path("l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (
        f"arch: {arch}\ndata: {data}\n"
        f"train: {{steps: 2, batch_size: 2, seq_len: 16, device: cpu, threads: 1{more}}}\n"
    )
    ready = ready_run(load_run_document(parse_document(text, "run.yaml")))
    model = run_parts(ready).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return Run(model.double().eval(), ready.dataset.tokenizer, ready.config)


def text_run(arch: str = PLAIN, tokenizer: str = "bytes") -> Run:
    return run_of(arch, f"{{source: ./corpus.txt, tokenizer: {tokenizer}}}")


def task_of(tmp: Path, *lines: dict[str, Any]) -> Task:
    path = tmp / "task.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return read_task(path)


def item(prompt: str, *choices: str) -> Item:
    return Item("t:1", prompt, choices, 0)


def likelihood(*values: float, hits: Sequence[bool] = ()) -> Likelihood:
    return Likelihood(np.array(values), np.array(hits or [False] * len(values)))


# what is scored


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("bpe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WINDTUNNEL_CACHE", str(folder))
        Path("corpus.txt").write_text(corpus_text(), encoding="utf-8")
        run = text_run(tokenizer="{type: bpe, vocab_size: 300}")
    assert run.tokenizer.vocab_size == 300
    return run


pieces = st.lists(
    st.sampled_from([*"tehking sp.\n", "the", " king", "queen", " speaks", "é", "  "]), max_size=6
).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(prompt=pieces, choices=st.lists(pieces.filter(bool), min_size=1, max_size=4))
def test_no_boundary_is_left_out_or_scored_without_its_context(
    bpe: Run, prompt: str, choices: list[str]
) -> None:
    """What is scored of a choice and what is shared are the text, as it is tokenized whole."""
    laid = bpe.layout.lay_out(item(prompt, *choices))
    contexts = {tuple(query.context) for query in laid.queries}
    assert len(contexts) == 1, "all choices are scored from the same place"
    context = contexts.pop()
    assert context[0] == bpe.tokenizer.bos
    shared = bpe.tokenizer.decode_bytes(context)
    assert prompt.encode().startswith(shared), "nothing of a choice is given away"
    assert laid.early == (shared != prompt.encode())
    for query, choice in zip(laid.queries, choices, strict=True):
        whole = bpe.tokenizer.encode(prompt + choice)
        assert [*query.context[1:], *query.continuation] == whole
    queries = [*laid.queries, *(Query(context[:1], context[1:]) for _ in context[1:2])]
    queries += [Query(context[:1], (*q.context[1:], *q.continuation)) for q in laid.queries]
    found = [one.total for one in log_likelihoods(bpe.model, queries)]
    of_shared = found[len(choices)] if len(context) > 1 else 0.0
    for scored, whole_total in zip(found, found[-len(choices) :], strict=False):
        assert scored + of_shared == pytest.approx(whole_total, abs=1e-9)


def test_a_token_over_the_prompts_end_is_scored_whole_for_all_choices(bpe: Run) -> None:
    encode, decode = bpe.tokenizer.encode, bpe.tokenizer.decode
    assert encode("the king")[-1] != encode("the ")[-1], "the space belongs to the word"
    laid = bpe.layout.lay_out(item("the ", "king", "!"))
    assert [decode(q.context) for q in laid.queries] == ["the", "the"]
    assert [decode(q.continuation) for q in laid.queries] == [" king", " !"]
    assert laid.early
    clean = bpe.layout.lay_out(item("the", " king", " queen"))
    assert [decode(q.continuation) for q in clean.queries] == [" king", " queen"]
    assert not clean.early


@pytest.mark.parametrize(
    ("specials", "begins"), [("[bos, eos, pad]", "bos"), ("[eos, pad]", "eos"), ("[]", "")]
)
def test_a_text_begins_as_documents_do(workplace: Path, specials: str, begins: str) -> None:
    run = text_run(tokenizer=f"{{type: bytes, specials: {specials}}}")
    ids = run.tokenizer.encode
    begin = [run.tokenizer.specials[begins]] if begins else []
    laid = run.layout.lay_out(item("", "ab", "ac"))
    if begin:
        assert [[*q.context] for q in laid.queries] == [begin, begin]
        assert [[*q.continuation] for q in laid.queries] == [ids("ab"), ids("ac")]
    else:  # the first letter, which both have, is given: nothing stands before it
        assert [[*q.context] for q in laid.queries] == [ids("a"), ids("a")]
        assert [[*q.continuation] for q in laid.queries] == [ids("b"), ids("c")]
        with pytest.raises(CannotAsk, match="differ before there is anything to read"):
            run.layout.lay_out(item("", "ab", "xb"))
    context = run.layout.lay_out(item("xy", "a", "b")).queries[0].context
    assert [*context] == [*begin, *ids("xy")]


def test_an_encoder_and_a_decoder_share_the_context_of_a_text(workplace: Path) -> None:
    run = text_run(SEQ2SEQ)
    ids, bos = run.tokenizer.encode, run.tokenizer.bos
    query = run.layout.lay_out(item("the", " king")).queries[0]
    assert ([*query.source], [*query.context]) == ([bos, *ids("th")], ids("e"))
    assert [*query.continuation] == ids(" king")
    whole = run.layout.lay_out(item("", "the", "tha")).queries
    assert [([*q.source], [*q.context]) for q in whole] == [([bos], ids("t"))] * 2
    with pytest.raises(CannotAsk, match="differ before"):
        run.layout.lay_out(item("", "the", "a"))


@pytest.mark.parametrize(("arch", "objective"), [(PLAIN, ""), (PLAIN, ", objective: {type: "
                         "next_token, loss_on: all}"), (SEQ2SEQ, "")])  # fmt: skip
def test_a_run_on_pairs_scores_what_its_training_scores(
    workplace: Path, arch: str, objective: str
) -> None:
    run = run_of(arch, PAIRS, objective)
    marks, ids = Marks.of(run.tokenizer), run.tokenizer.encode
    form: Any = (PairForm if arch == SEQ2SEQ else DecoderForm)(marks, 16)
    sample = Encoded(np.array(ids("17:>")), np.array(ids(" 3")))
    trained = objective_of(run.config.train.objective, run.model)
    batch = form.batch([sample])
    nats, _ = trained.score(run.model, batch, torch.Generator())
    laid = run.layout.lay_out(item("17:", " 3", " 4"))
    found = log_likelihoods(run.model, laid.queries)
    assert found[0].total == pytest.approx(-nats, abs=1e-6)
    assert [len(one.log_probabilities) for one in found] == [3, 3], "the end mark is scored"


def test_a_text_scores_what_its_training_scores(workplace: Path) -> None:
    run = text_run()
    row = torch.tensor([run.tokenizer.encode("the king speaks", add_special=True)[:-1]])
    logits = run.model(row[:, :-1]).detach().log_softmax(-1)
    wanted = logits.gather(2, row[:, 1:, None]).sum()
    query = run.layout.lay_out(item("", "the king speaks", "the")).queries[0]
    assert log_likelihoods(run.model, [query])[0].total == pytest.approx(float(wanted), abs=1e-6)


# what does not fit


def test_a_prompt_loses_its_first_tokens_where_positions_end(
    workplace: Path, tmp_path: Path
) -> None:
    run = text_run(LEARNED)
    prompt = "the king never sleeps and"
    lines = [
        {"prompt": prompt, "choices": [" a", " the"], "answer": 1},
        {"prompt": "king", "choices": [" a", "x" * 17], "answer": 0},
        {"prompt": "king", "choices": [" a", "x" * 16], "answer": 0},
        {"prompt": "the king", "choices": [" a", " b"], "answer": 0},
    ]
    found = answer_task(*run, task_of(tmp_path, *lines))
    assert (found.cut, found.long, found.early, found.unknown) == (2, 2, 0, 0)
    assert found.left_out == {1: "one of its choices is too long for the 16 learned positions"}
    assert found.words(16) == [
        "1 left out: one of its choices is too long for the 16 learned positions",
        "2 of 4 items lost the first tokens of their prompt: the learned positions end",
        "2 of 4 items have more tokens than a row of the training (seq_len 16)",
    ]
    assert found.items[1] is None
    laid = run.layout.lay_out(item(prompt, " a", " the"))
    assert {tuple(q.context) for q in laid.queries} == {tuple(run.tokenizer.encode(prompt)[-13:])}
    assert max(len(q.inputs) for q in laid.queries) == 16
    one = run.layout.lay_out(item("king", " a", "x" * 16))
    assert {tuple(q.context) for q in one.queries} == {tuple(run.tokenizer.encode("g"))}


def test_on_pairs_the_marks_stay_when_a_prompt_is_cut(workplace: Path) -> None:
    long, learned = "abcdefghijklmnopqrst", LEARNED
    run = run_of(learned, PAIRS)
    marks, ids = Marks.of(run.tokenizer), run.tokenizer.encode
    laid = run.layout.lay_out(item(long, "12", "3"))
    assert laid.cut
    assert {tuple(q.context) for q in laid.queries} == {(marks.begin, *ids(f"{long}>")[-13:])}
    assert max(len(q.inputs) for q in laid.queries) == 16
    run = run_of(SEQ2SEQ, PAIRS)
    laid = run.layout.lay_out(item(long, "12", "3"))
    assert laid.cut
    assert {tuple(q.source) for q in laid.queries} == {(*ids(f"{long}>")[-15:], marks.end)}
    assert {tuple(q.context) for q in laid.queries} == {(marks.begin,)}
    short = run.layout.lay_out(item("a", "b" * 15))
    assert not short.cut
    assert len(short.queries[0].inputs) == 16
    log_likelihoods(run.model, [*laid.queries, *short.queries])  # all of them fit
    with pytest.raises(CannotAsk, match="too long for the 16"):
        run.layout.lay_out(item("a", "b" * 16))
    with pytest.raises(CannotAsk, match="there is no prompt"):
        run.layout.lay_out(item(" ", "b"))


def test_unknown_characters_are_counted_and_tie(workplace: Path, tmp_path: Path) -> None:
    run = text_run(tokenizer="chars")
    lines = [
        {"prompt": "the ", "choices": ["éé", "ßß"], "answer": 1},
        {"prompt": "the ", "choices": ["king", "queen"], "answer": 0},
    ]
    found = answer_task(*run, task_of(tmp_path, *lines))
    assert found.unknown == 1
    assert found.words(99)[-1] == (
        "1 of 2 items have characters that the tokenizer does not know and reads as one sign"
    )
    first = found.items[0]
    assert first is not None
    assert first.measures["accuracy"] == 0.5, "both are the same to it"


def test_what_leaves_no_item_is_an_error(workplace: Path, tmp_path: Path) -> None:
    run = text_run(LEARNED)
    task = task_of(tmp_path, {"good": "x" * 20, "bad": "y" * 20})
    with pytest.raises(UsageError, match="can be asked no item: one of its choices is too long"):
        answer_task(*run, task)


# measures


def choice(*found: Likelihood, answer: int = 0, kind: TaskKind = "choice") -> dict[str, float]:
    texts = ("abcd", "ef", "ghé")[: len(found)]
    asked = Item("t:1", "p", texts, answer)
    return dict(answered(kind, asked, found).measures)


def test_the_measures_of_a_choice() -> None:
    found = choice(likelihood(-1.0, -3.0), likelihood(-2.5), likelihood(-8.0))
    assert found["accuracy"] == 0.0  # −2.5 is above −4
    assert found["accuracy_per_byte"] == 1.0  # −1 a byte against −1.25 and −2
    rates = [-4 / 4, -2.5 / 2, -8 / 4]  # é has two bytes
    right = math.exp(rates[0]) / sum(map(math.exp, rates))
    assert found["right_probability"] == pytest.approx(right, abs=1e-15)
    assert found["bits_per_byte"] == pytest.approx(1 / math.log(2))
    other = choice(likelihood(-1.0, -3.0), likelihood(-2.5), likelihood(-8.0), answer=1)
    assert (other["accuracy"], other["accuracy_per_byte"]) == (1.0, 0.0)


def test_ties_count_as_their_share() -> None:
    found = choice(likelihood(-4.0), likelihood(-4.0), likelihood(-5.0))
    assert found["accuracy"] == 0.5
    assert found["accuracy_per_byte"] == 1.0
    assert share_of_best([-1.0, -1.0, -1.0], 2) == pytest.approx(1 / 3)
    assert share_of_best([-1.0, -2.0, -1.0], 1) == 0.0


def test_the_measures_of_a_pair_and_a_cloze() -> None:
    assert choice(likelihood(-2.0), likelihood(-2.5), kind="pair") == {"accuracy": 1.0}
    assert choice(likelihood(-2.0), likelihood(-1.5), kind="pair") == {"accuracy": 0.0}
    found = choice(likelihood(-1.0, -1.0, hits=[True, True]), kind="cloze")
    assert found == {"accuracy": 1.0, "bits_per_byte": pytest.approx(0.5 / math.log(2))}
    assert choice(likelihood(-1.0, -1.0, hits=[True, False]), kind="cloze")["accuracy"] == 0.0


def test_probabilities_far_below_one_do_not_underflow() -> None:
    found = choice(likelihood(-4e5), likelihood(-2e5 - 2))
    assert found["right_probability"] == pytest.approx(1 / (1 + math.exp(-1)))
    with pytest.raises(NotFiniteError, match="the probability 0"):
        choice(likelihood(-1.0), likelihood(-math.inf))


def test_answers_are_those_of_the_items_one_by_one(workplace: Path, tmp_path: Path) -> None:
    run = text_run()
    lines = [
        {"prompt": "the king"[: n % 8], "choices": [" speaks", " a"[: 1 + n % 2], "x" * (n + 1)],
         "answer": n % 3}
        for n in range(9)
    ]  # fmt: skip
    together = answer_task(*run, task_of(tmp_path, *lines), batch_size=4)
    done: list[int] = []
    for number, line in enumerate(lines):
        alone = answer_task(*run, task_of(tmp_path, line), batch_size=1, on_done=done.append)
        mine, its = together.items[number], alone.items[0]
        assert mine is not None
        assert its is not None
        assert mine.log_probabilities == pytest.approx(its.log_probabilities, abs=1e-9)
        assert mine.measures == pytest.approx(its.measures, abs=1e-9)
    assert done == [1] * 9
    values = [one.measures["bits_per_byte"] for one in together.items if one is not None]
    assert together.mean("bits_per_byte") == pytest.approx(sum(values) / 9)


def test_a_padded_vocabulary_changes_nothing(workplace: Path, tmp_path: Path) -> None:
    """Its ids get no probability: what is known shares out all of it."""
    run = text_run(f"{{d_model: 16, vocab_size: 512, {LAYERS}}}")
    assert run.model.architecture.vocab_size == 512
    found = answer_task(
        *run, task_of(tmp_path, {"prompt": "the", "choices": ["a", "b"], "answer": 0})
    )
    first = found.items[0]
    assert first is not None
    context = torch.tensor([[run.tokenizer.bos, *run.tokenizer.encode("the")]])
    logits = run.model(context)[0, -1, : run.tokenizer.vocab_size].log_softmax(-1)
    assert first.log_probabilities[0] == pytest.approx(
        float(logits[run.tokenizer.encode("a")[0]]), abs=1e-9
    )


# who cannot answer


@pytest.mark.parametrize(
    ("arch", "data", "more", "told"),
    [
        (f"{{type: encoder, d_model: 16, {LAYERS}}}", "{source: ./corpus.txt, tokenizer: bytes}",
         "", "is trained by masked_token, which gives no probability of a text"),
        (f"{{type: encoder, d_model: 16, embedding: {{init_std: 1.0}}, {LAYERS}}}", PAIRS,
         ", objective: {type: diffusion, steps: 5}", "is trained by diffusion"),
        (f"{{type: encoder, d_model: 16, {LAYERS}, head: {{type: classification, num_classes: 2,"
         " pooling: first}}", "{source: {type: labels, paths: l.jsonl}, tokenizer: bytes}", "",
         "is trained by classification"),
        (PLAIN, "{source: {type: parity, length: 12}}", "", "trained on a synthetic task"),
    ],
)  # fmt: skip
def test_runs_that_give_no_probability_of_texts_are_refused(
    workplace: Path, tmp_path: Path, arch: str, data: str, more: str, told: str
) -> None:
    run = run_of(arch, data, more)
    with pytest.raises(UsageError, match=told):
        answer_task(*run, task_of(tmp_path, {"good": "a", "bad": "b"}))


def test_whole_texts_are_not_asked_of_a_run_on_pairs(workplace: Path, tmp_path: Path) -> None:
    run = run_of(PLAIN, PAIRS)
    with pytest.raises(UsageError, match="trained on pairs: it writes an answer to a prompt"):
        answer_task(*run, task_of(tmp_path, {"good": "a", "bad": "b"}))


def test_a_model_that_is_not_finite_cannot_be_measured(workplace: Path, tmp_path: Path) -> None:
    run = text_run()
    with torch.no_grad():
        run.model.embedding.weight.fill_(math.nan)
    with pytest.raises(NotFiniteError):
        answer_task(*run, task_of(tmp_path, {"good": "a", "bad": "b"}))


@given(rows=st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=4))
def test_the_common_start(rows: list[list[int]]) -> None:
    n = common_start(rows)
    assert all(row[:n] == rows[0][:n] and len(row) >= n for row in rows)
    assert any(len(row) == n for row in rows) or len({row[n] for row in rows}) > 1
