"""Runs on pairs and labels, from a file to what is written: learned, resumed, equal however cut."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Command
from torch import Tensor

from windtunnel.config import parse_document
from windtunnel.data.sample_loader import _chosen
from windtunnel.errors import ConfigError, UsageError
from windtunnel.generate import SamplingConfig
from windtunnel.nn.initialize import keyed_generator
from windtunnel.runs import RunFolder
from windtunnel.train.batch import count_targets
from windtunnel.train.feed import feed_of
from windtunnel.train.launch import (
    create_run_folder,
    open_trained,
    ready_run,
    run_in_folder,
    run_parts,
)
from windtunnel.train.loop import accumulate, create_train_state
from windtunnel.train.objectives.make import objective_of
from windtunnel.train.run_config import load_run_document
from windtunnel.train.tensors import read_tensors
from windtunnel.train.writing import Writer

WORDS = {"cat": "Katze", "dog": "Hund", "old": "alt", "king": "Koenig"}
LAYERS = "[{mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]"
ENCODER = f"{{type: encoder, d_model: 32, layers: {LAYERS}"
ARCHS = {
    "decoder": f"{{d_model: 32, layers: {LAYERS}}}",
    "encoder_decoder": (
        "{type: encoder_decoder, d_model: 32, embedding: {position: sinusoidal}, "
        f"encoder: {{layers: {LAYERS}}}, decoder: {{layers: {LAYERS}}}}}"
    ),
    "classifier": f"{ENCODER}, head: {{type: classification, num_classes: 4, pooling: first}}}}",
    "decoding classifier": (
        f"{{d_model: 32, layers: {LAYERS}, "
        "head: {type: classification, num_classes: 4, pooling: last}}"
    ),
    "diffusion": f"{ENCODER}, embedding: {{init_std: 1.0, position: learned}}}}",
}
OBJECTIVES = {"diffusion": ", objective: {type: diffusion, steps: 50}"}
KINDS = tuple(ARCHS)


@pytest.fixture
def corpus(workplace: Path) -> Path:
    pairs, labels, english, german = [], [], [], []
    for words in product(WORDS, repeat=3):
        text, truth = " ".join(words), " ".join(WORDS[word] for word in words)
        pairs.append(json.dumps({"prompt": text, "truth": truth}))
        labels.append(json.dumps({"text": text, "label": words[0]}))
        english.append(text)
        german.append(truth)
    for name, lines in (
        ("p.jsonl", pairs), ("l.jsonl", labels), ("a.en", english), ("a.de", german)
    ):  # fmt: skip
        (workplace / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return workplace


def source_of(kind: str) -> str:
    if kind == "encoder_decoder":
        return "{type: parallel, source: a.en, target: a.de}"
    if "classifier" in kind:
        return "{type: labels, paths: l.jsonl}"
    return "{type: pairs, paths: p.jsonl, separator: ' = '}"


def run_file(kind: str, data: str = "", train: str = "", steps: int = 50) -> str:
    return (
        f"arch: {ARCHS[kind]}\n"
        f"data: {{source: {source_of(kind)}, tokenizer: bytes{data}}}\n"
        f"train: {{steps: {steps}, batch_size: 16, seq_len: 48, lr: 0.01, eval_every: 25, "
        f"checkpoint_every: 25, device: cpu, threads: 1{OBJECTIVES.get(kind, '')}{train}}}\n"
    )


def ready(kind: str, data: str = "", train: str = "") -> Any:
    return ready_run(load_run_document(parse_document(run_file(kind, data, train), "f.yaml")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_resumes_to_the_bit_and_shows_what_it_makes(kind: str, corpus: Path) -> None:
    folder = create_run_folder(ready(kind), corpus / "whole")
    losses: list[float] = []
    record = run_in_folder(folder, on_step=lambda info: losses.append(info.loss))
    first, last = sum(losses[:5]), sum(losses[-5:])
    assert last < 0.6 * first
    assert record["final"]["loss"] < record["best"]["loss"] + 1.0
    assert len(record["samples"]) == 3
    assert set(record["samples"][0]) == {"prompt", "text", "truth"}
    assert (record["left_out"], record["cut"]) == (0, 0)
    assert record["flops"] > 0
    of_text = kind in ("decoder", "encoder_decoder")
    assert (record["final"]["bits_per_byte"] is not None) == of_text
    assert (record["final"]["perplexity"] is not None) == of_text

    torn = create_run_folder(ready(kind), corpus / "torn")

    class Torn(Exception):
        pass

    def tear(info: Any) -> None:
        if info.step == 33:
            raise Torn

    with pytest.raises(Torn):
        run_in_folder(torn, on_step=tear)
    again = run_in_folder(RunFolder.open(torn.path), resume=True)
    assert {k: again["final"][k] for k in ("loss", "accuracy", "tokens")} == {
        k: record["final"][k] for k in ("loss", "accuracy", "tokens")
    }
    one, other = (
        read_tensors(f.path / "checkpoints" / "step-00000050" / "model.safetensors")
        for f in (folder, torn)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def gradient(kind: str, micro: str, padding: str = "right") -> Tensor:
    data = f", padding: {padding}" if kind != "diffusion" else ""
    parts = run_parts(ready(kind, data, f", micro_batch_size: {micro}"))
    state = create_train_state(parts.model.double(), parts.batches, parts.train)
    batch = state.objective.prepare(parts.batches.at(3), keyed_generator(0))
    accumulate(state, batch, count_targets(batch))
    return torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_depends_on_neither_the_cut_nor_the_side_of_pads(
    kind: str, corpus: Path
) -> None:
    whole = gradient(kind, "null")
    torch.testing.assert_close(gradient(kind, "5"), whole, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient(kind, "1", "left"), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder", "diffusion"])
def test_prompts_of_a_batch_are_answered_as_alone(kind: str, corpus: Path) -> None:
    folder = create_run_folder(ready(kind, train=", eval_tokens: 100"), corpus / "run")
    run_in_folder(folder)
    trained = open_trained(folder)
    writer = Writer(trained.model, trained.tokenizer, trained.config)
    prompts = writer.encode(["cat", "king old dog", "a longer one than all"])
    for temperature in (0.0, 1.0):
        sampling = SamplingConfig(temperature=temperature)
        together = writer.write(prompts[:1], max_new_tokens=9, sampling=sampling, seed=4)
        together += writer.write(prompts, max_new_tokens=9, sampling=sampling, seed=4)[:1]
        assert together[0] == together[1]
    greedy = SamplingConfig(temperature=0.0)
    batch = writer.write(prompts, max_new_tokens=9, sampling=greedy)
    assert batch == [writer.write([p], max_new_tokens=9, sampling=greedy)[0] for p in prompts]
    if kind != "diffusion":
        tokens = list(writer.stream(prompts[1], max_new_tokens=9, sampling=greedy))
        assert tokens == batch[1]


def test_generation_builds_the_prompt_of_training(corpus: Path) -> None:
    """The prompt that a decoder is given equals, to the token, what stood before the truth."""
    made = ready("decoder")
    batch: Any = feed_of(made.dataset, made.config).batches.at(0)
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        before = int((targets != -100).nonzero()[0]) + 1
        text = made.dataset.tokenizer.decode(inputs[1:before].tolist())
        assert text.endswith(" = ")
        writer = Writer(None, made.dataset.tokenizer, made.config)
        asked = writer.encode([text.removesuffix(" = ")])
        assert writer._rows(asked) == [inputs[:before].tolist()]


def test_the_command_line_trains_answers_and_classifies(windtunnel: Command, corpus: Path) -> None:
    for kind in ("encoder_decoder", "classifier", "diffusion"):
        name = kind.replace("_", "-")
        (corpus / f"{name}.yaml").write_text(run_file(kind, steps=80), encoding="utf-8")
        answer = windtunnel("train", f"{name}.yaml", "--out", name)
        assert answer.code == 0, answer.err
    answer = windtunnel("classify", "classifier", "cat old dog", "dog old cat", "--json")
    found = json.loads(answer.out)
    assert [row["label"] for row in found] == ["cat", "dog"]
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1.0)
    assert windtunnel("classify", "classifier", "cat").out.split()[0] in WORDS
    written = windtunnel("generate", "encoder-decoder", "cat old dog", "dog", "--greedy").out
    assert len(written.splitlines()) == 2
    assert "cat" not in written
    streamed = windtunnel("generate", "encoder-decoder", "cat old dog", "--greedy", "--stream")
    assert streamed.out.splitlines()[0] == written.splitlines()[0]
    assert windtunnel("generate", "diffusion", "cat old dog", "--steps", "5").code == 0
    for arguments, message in (
        (("generate", "classifier", "cat"), "see windtunnel classify"),
        (("classify", "encoder-decoder", "cat"), "was not trained to classify"),
        (("generate", "diffusion", "cat", "--stream"), "does not write token by token"),
        (("generate", "diffusion", "cat", "--steps", "99"), "within 1 and 50"),
        (("generate", "diffusion", "cat" * 20), "leaves no room for a target"),
    ):
        answer = windtunnel(*arguments)
        assert answer.code == 2
        assert message in answer.err


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("decoder", ("type: pairs", "type: files"), "unknown key"),
        ("classifier", ("num_classes: 4", "num_classes: 7"), "is 7, but the training side has 4"),
        ("decoder", ("tokenizer: bytes", "tokenizer: {type: bytes, specials: [bos]}"),
         "data.tokenizer: samples end with eos"),
        ("diffusion", ("type: diffusion, steps: 50", "type: masked_token"),
         "train.objective: masked_token needs text"),
        ("decoder", ("lr: 0.01", "lr: 0.01, objective: classification"),
         "train.objective: classification reads a classification head"),
        ("classifier", ("type: labels", "type: files"),
         r"train.objective: classification needs labels \(data.source of type labels\)"),
        ("diffusion", ("lr: 0.01", "lr: 0.01, groups: [{match: 'embedding.*', lr: 2.0}]"),
         "train.groups: no rules with diffusion"),
        ("encoder_decoder", ("encoder: {", "encoder: {vocab_size: 99, embedding: {}, "),
         "arch.encoder.vocab_size: 99, but the tokenizer has 259 ids"),
        ("decoder", ("seq_len: 48", "seq_len: 6"), "none of the 58 samples leaves a token"),
        ("decoder", ("batch_size: 16", "batch_size: 160"), "has 58 samples, but train.batch_size"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_written(
    kind: str, changes: tuple[str, str], message: str, corpus: Path
) -> None:
    text = run_file(kind)
    assert changes[0] in text
    with pytest.raises((ConfigError, UsageError), match=message):
        ready_run(load_run_document(parse_document(text.replace(*changes), "f.yaml")))


def test_the_loss_on_all_counts_the_prompt_too(corpus: Path) -> None:
    alone, everything = (
        feed_of(made.dataset, made.config).batches.at(0)
        for made in (
            ready("decoder"),
            ready("decoder", train=", objective: {type: next_token, loss_on: all}"),
        )
    )
    assert torch.equal(alone.inputs, everything.inputs)
    assert count_targets(everything) == int((alone.real).sum())  # type: ignore[attr-defined]
    assert count_targets(alone) < count_targets(everything)


def test_layout_counts_in_a_run_s_key_only_where_it_is_written(corpus: Path) -> None:
    plain, right, left = (
        ready("decoder", data) for data in ("", ", padding: right", ", padding: left")
    )
    assert plain.key == right.key != left.key
    assert plain.identity["data"] == plain.dataset.fingerprint


def test_cut_and_left_out_samples_are_recorded(corpus: Path, caplog: Any) -> None:
    with open(corpus / "p.jsonl", "a", encoding="utf-8") as stream:
        for number in range(20):
            stream.write(json.dumps({"prompt": "x" * 60 + str(number), "truth": "y"}) + "\n")
            stream.write(json.dumps({"prompt": str(number), "truth": "z" * 60}) + "\n")
    made = ready("decoder", train=", eval_tokens: 50")
    record = run_in_folder(create_run_folder(made, corpus / "run"), ready=made)
    assert (record["left_out"], record["cut"]) == (20, 20)
    assert "left out, their prompts leave no token to learn" in caplog.text


def test_packed_samples_give_the_gradient_of_the_same_samples_alone(corpus: Path) -> None:
    packed: Any = feed_of(*_data(long("decoder", ", packing: documents"))).batches
    parts = run_parts(long("decoder"))
    state = create_train_state(parts.model.double(), parts.batches, parts.train)
    batch = packed.at(0)
    assert batch.documents is not None
    assert batch.documents.amax() >= 1
    (stream,) = packed.sources.values()
    samples = stream.samples
    rows = _chosen(len(stream.rows), stream.batch_size, stream.seed, 0)
    members = [samples.encoded(stream.rows[row]) for row in rows]
    alone = samples.form.batch([sample for row in members for sample in row])
    assert count_targets(batch) == count_targets(alone)
    found = []
    for given in (batch, alone):
        state.weights.clear()
        accumulate(state, given, count_targets(given))
        found.append(
            torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


def long(kind: str, data: str = "") -> Any:
    """Rows with room for several samples."""
    text = run_file(kind, data).replace("seq_len: 48", "seq_len: 96")
    return ready_run(load_run_document(parse_document(text, "f.yaml")))


def _data(made: Any) -> tuple[Any, Any]:
    return made.dataset, made.config


def test_packed_runs_learn_and_count_in_the_key(corpus: Path) -> None:
    made = long("decoder", ", packing: documents")
    assert made.key != long("decoder").key
    record = run_in_folder(create_run_folder(made, corpus / "run"), ready=made)
    assert record["final"]["loss"] < 2.0
    step = feed_of(*_data(made)).step
    assert step is not None
    assert record["tokens"] == pytest.approx(50 * step.targets, rel=0.05)
    assert record["flops"] == pytest.approx(50 * step.train_flops(made.architecture), rel=0.05)


def test_documents_of_a_text_do_not_see_each_other(corpus: Path) -> None:
    (corpus / "t.jsonl").write_text(
        "".join(json.dumps({"text": f"number {n} is a document"}) + "\n" for n in range(60))
    )
    text = run_file("decoder").replace(source_of("decoder"), "./t.jsonl")
    plain = ready_run(load_run_document(parse_document(text, "f.yaml")))
    apart = ready_run(
        load_run_document(
            parse_document(text.replace("tokenizer: bytes", "tokenizer: bytes, packing: documents"))
        )
    )
    assert plain.key != apart.key
    assert plain.dataset.fingerprint == apart.dataset.fingerprint
    one, other = (feed_of(*_data(made)).batches.at(2) for made in (plain, apart))
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)
    found: Any = other
    bos = plain.dataset.tokenizer.bos
    inside = found.inputs[:, 1:] == bos
    assert torch.equal(found.documents[:, 1:] - found.documents[:, :-1], inside.long())
    record = run_in_folder(create_run_folder(apart, corpus / "run"), ready=apart)
    assert record["final"]["loss"] < 3.0


def test_documents_stay_apart_where_the_loss_is_in_chunks(corpus: Path) -> None:
    made = long("decoder", ", packing: documents")
    batches: Any = feed_of(*_data(made)).batches
    batch = batches.at(0)
    model = run_parts(made).model.double()
    found: dict[int | None, tuple[Any, ...]] = {}
    for rows in (None, 16):
        objective = objective_of(made.config.train.objective, model)
        objective.loss_rows = rows
        model.zero_grad()
        loss = objective.summed(model, batch)
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        scored = objective.score(model, batch, torch.Generator())
        found[rows] = loss.detach().double(), torch.cat(grads), torch.tensor(scored)
    for plain, chunked in zip(found[None], found[16], strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-4, atol=1e-4)  # losses are float32
    mixed = objective.summed(model, replace(batch, documents=None))
    assert abs(mixed.item() - found[None][0].item()) > 1e-3, "they would see each other"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("encoder_decoder", ("tokenizer: bytes", "tokenizer: bytes, packing: documents"),
         "data.packing: seq2seq has one sample"),
        ("decoder", ("mlp: {type: dense}}]}", "mlp: {type: dense}, depth: {capacity: 0.5}}]}"),
         r"arch.layers\[0\].depth: cannot keep apart"),
    ],
)  # fmt: skip
def test_packing_that_cannot_be_is_refused_by_name(
    kind: str, changes: tuple[str, str], message: str, corpus: Path
) -> None:
    text = run_file(kind, ", packing: documents" if kind == "decoder" else "")
    assert changes[0] in text
    with pytest.raises(ConfigError, match=message):
        load_run_document(parse_document(text.replace(*changes), "f.yaml"))
