"""Synthetic tasks: every one of the registry keeps the contract, and is solved from what it shows.

The solvers read the names of the symbols, not the ids, and share no code with the generators.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from windtunnel.config import decode, parse_document
from windtunnel.data import probes
from windtunnel.data.config import DataConfig
from windtunnel.data.dataset import Dataset, prepare
from windtunnel.data.forms import AnswerForm
from windtunnel.data.loader import NO_LOSS
from windtunnel.data.probe import Draw, Example, ProbeSource, register_probe
from windtunnel.data.probe_packing import ProbeCorpus
from windtunnel.data.probes import probe_classes
from windtunnel.data.sample_loader import SampleBatches, Samples
from windtunnel.data.tokenizers import load_tokenizer
from windtunnel.data.tokenizers.symbols import SymbolTokenizer
from windtunnel.errors import ConfigError, DataError, UsageError

OURS = sorted(n for n, cls in probe_classes().items() if cls.__module__.startswith("windtunnel"))
SMALL: Mapping[str, Any] = {"samples": 40, "held_samples": 12}
AXES: Mapping[str, tuple[dict[str, Any], ...]] = {
    "mqar": ({"num_pairs": 7, "length": 21}, {"gap_power": 1.0, "length": 50}),
    "noisy_recall": ({"noise": 0.0}, {"noise": 0.8, "num_noise": 1}),
    "fuzzy_recall": ({"key_len": 1, "value_len": 1}, {"num_pairs": 16, "key_len": 3}),
    "compression": ({"num_kept": 3, "num_tokens": 200},),
    "memorization": ({"key_len": 1, "num_facts": 32}, {"key_len": 3, "num_keys": 7, "length": 2}),
    "selective_copying": ({"num_copied": 16}, {"num_copied": 1, "length": 90}),
    "induction": ({"length": 12, "num_answers": 11}, {"num_answers": 1, "num_tokens": 100}),
    "parity": ({"length": 40},),
    "cyclic": ({"modulus": 2}, {"modulus": 12, "length": 9}),
    "permutations": ({"group": "S4"}, {"group": "S5"}, {"group": "A5"}),
}
FORMS = [
    pytest.param(name, axes, id=f"{name} {axes or ''}")
    for name in OURS
    for axes in ({}, *AXES[name], *probe_classes()[name].levels.values())
]


TRACKING = {"parity", "cyclic", "permutations"}
"""Their first answer is the first symbol, and should be."""


def task_of(name: str, **axes: Any) -> ProbeSource:
    return probe_classes()[name].model_validate({"type": name, **SMALL, **axes})


def read(task: ProbeSource, example: Example) -> tuple[list[str], dict[int, str]]:
    """The sequence and its answers by place, in names."""
    names = task.symbols
    return [names[t] for t in example.tokens], {place: names[a] for place, a in example.answers}


def look_up(words: list[str], at: int) -> str:
    """The value after the first place where the key at ``at`` stood."""
    return words[words.index(words[at]) + 1]


def solve_mqar(words: list[str], task: Any) -> dict[int, str]:
    return {
        place: look_up(words, place)
        for place in range(2 * task.num_pairs, len(words))
        if words[place] != "."
    }


def solve_noisy(words: list[str], task: Any) -> dict[int, str]:
    keys = [place for place, word in enumerate(words) if word[0] == "k"]
    return {p: look_up(words, p) for p in keys if words.index(words[p]) != p}


def solve_fuzzy(words: list[str], task: Any) -> dict[int, str]:
    """Cuts the text into runs of keys and values; a run that was a key before has its value."""
    runs: list[tuple[int, list[str]]] = []
    for place, word in enumerate(words):
        if runs and runs[-1][1][0][0] == word[0]:
            runs[-1][1].append(word)
        else:
            runs.append((place, [word]))
    known = {tuple(runs[i][1]): runs[i + 1][1] for i in range(0, 2 * task.num_pairs, 2)}
    found = {}
    for start, run in runs[2 * task.num_pairs :: 2]:
        for offset, word in enumerate(known[tuple(run)]):
            found[start + len(run) - 1 + offset] = word
    return found


def solve_compression(words: list[str], task: Any) -> dict[int, str]:
    return {p: words[int(word[1:])] for p, word in enumerate(words) if word[0] == "p"}


def solve_copying(words: list[str], task: Any) -> dict[int, str]:
    kept = [word for word in words if word[0] == "x"]
    marks = [place for place, word in enumerate(words) if word == ">"]
    return dict(zip(marks, kept, strict=True))


def solve_induction(words: list[str], task: Any) -> dict[int, str]:
    return {p: look_up(words, p) for p in range(len(words)) if words.index(words[p]) < p}


def solve_parity(words: list[str], task: Any) -> dict[int, str]:
    return {p: "01"[words[: p + 1].count("1") % 2] for p in range(len(words))}


def solve_cyclic(words: list[str], task: Any) -> dict[int, str]:
    return {p: str(sum(map(int, words[: p + 1])) % task.modulus) for p in range(len(words))}


def solve_permutations(words: list[str], task: Any) -> dict[int, str]:
    """Moves things about: the thing at i goes to where the i-th figure says."""
    where = list(range(len(words[0])))
    found = {}
    for place, word in enumerate(words):
        where = [int(word[now]) - 1 for now in where]
        found[place] = "".join(str(now + 1) for now in where)
    return found


SOLVERS: Mapping[str, Callable[[list[str], Any], dict[int, str]]] = {
    "mqar": solve_mqar,
    "noisy_recall": solve_noisy,
    "fuzzy_recall": solve_fuzzy,
    "compression": solve_compression,
    "selective_copying": solve_copying,
    "induction": solve_induction,
    "parity": solve_parity,
    "cyclic": solve_cyclic,
    "permutations": solve_permutations,
}


def test_every_task_is_here() -> None:
    assert len(OURS) >= 10
    assert set(AXES) == set(OURS)
    assert {*SOLVERS, "memorization"} == set(OURS)
    files = {path.stem for path in Path(inspect.getfile(probes)).parent.glob("*.py")}
    assert files - {"__init__"} == set(OURS)  # one file each, by its name


@pytest.mark.parametrize(("name", "axes"), FORMS)
def test_an_example_is_solved_from_what_it_shows(name: str, axes: dict[str, Any]) -> None:
    task = task_of(name, **axes)
    assert len(set(task.symbols)) == len(task.symbols)
    assert not any(symbol.split() != [symbol] for symbol in task.symbols)
    for number in range(25):
        example = task.example(Draw(0, "test", number))
        places = [place for place, _ in example.answers]
        assert places == sorted(set(places))
        assert places
        assert all(0 <= place < len(example.tokens) for place in places)
        assert 0 < len(example.tokens) <= task.span
        assert all(0 <= t < len(task.symbols) for t in example.tokens)
        if name in SOLVERS:
            words, answers = read(task, example)
            assert SOLVERS[name](words, task) == answers


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_an_answer_needs_nothing_that_comes_later(name: str) -> None:
    """A causal model can find it: the solver does, from the tokens up to the place."""
    task = task_of(name)
    words, answers = read(task, task.example(Draw(1, "causal")))
    for place, answer in answers.items():
        seen = words[: place + 1]
        if name == "selective_copying":  # its solver wants as many marks as symbols
            seen = seen + [">"] * (task.num_copied - seen.count(">"))  # type: ignore[attr-defined]
        assert SOLVERS[name](seen, task)[place] == answer


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - TRACKING - {"fuzzy_recall"}))
def test_an_answer_is_not_shown_where_it_is_asked_for(name: str) -> None:
    """What stands at the place of an answer says nothing about it: over many examples each
    symbol there has many answers."""
    task = task_of(name, **({"num_pairs": 2, "num_keys": 2} if name == "mqar" else {}))
    after: dict[str, set[str]] = {}
    for number in range(400):
        words, answers = read(task, task.example(Draw(3, number)))
        for place, answer in answers.items():
            after.setdefault(words[place], set()).add(answer)
    assert all(len(found) > 4 for found in after.values())


@pytest.mark.parametrize("name", OURS)
def test_chance_is_what_the_best_blind_answer_gets(name: str) -> None:
    """The commonest answer is right as often as is said, within the error of counting."""
    task = task_of(name)
    counts: Counter[int] = Counter()
    for number in range(1500):
        counts.update(a for _, a in task.example(Draw(number, "blind", number)).answers)
    total, best = counts.total(), max(counts.values())
    error = (task.chance * (1 - task.chance) / total) ** 0.5
    # Of the many symbols one is luckiest; answers of one sequence hang together.
    assert abs(best / total - task.chance) < 6 * error * (2 if name in ("permutations",) else 1)
    assert len(counts) == round(1 / task.chance)


@pytest.mark.parametrize("name", OURS)
def test_examples_depend_on_the_seed_and_their_number_alone(name: str) -> None:
    first = ProbeCorpus(task_of(name), 0)
    again = ProbeCorpus(task_of(name, samples=99), 0)
    other = ProbeCorpus(task_of(name), 1)
    found = [first.example("train", number) for number in (5, 1, 5)]
    assert found[0] == found[2] == again.example("train", 5)
    assert found[0] != found[1]
    assert [first.example("train", n) for n in range(9)] != [
        other.example("train", n) for n in range(9)
    ]


def test_examples_are_the_same_on_every_machine() -> None:
    """Golden: another order of draws would be another corpus under the same name."""
    task = task_of("mqar", num_keys=4, num_values=4, num_pairs=2, length=8)
    words, answers = read(task, ProbeCorpus(task, 0).example("train", 0))
    assert (" ".join(words), answers) == GOLDEN
    assert [Draw(7).below(100), Draw(7, "a").below(100)] == GOLDEN_DRAWS


@pytest.mark.parametrize("name", OURS)
def test_no_sequence_is_on_two_sides(name: str) -> None:
    axes = {"length": 4} if "length" in probe_classes()[name].model_fields else {}
    if name in ("mqar", "induction"):
        axes = {"num_pairs": 1, "length": 4} if name == "mqar" else {"length": 4, "num_answers": 1}
    corpus = ProbeCorpus(task_of(name, samples=200, held_samples=100, **axes), 0)
    sides = {
        side: {tuple(e.tokens) for _, e in corpus.examples(side)}
        for side in ("train", "valid", "test")
    }
    both = sum(len(a & b) for a in sides.values() for b in sides.values() if a is not b)
    assert (both == 0) == corpus.task.disjoint or name == "memorization"


def test_facts_are_those_of_the_seed_on_every_side() -> None:
    corpus = ProbeCorpus(task_of("memorization", num_facts=20, num_keys=8), 4)
    known: dict[tuple[str, ...], str] = {}
    for side in ("train", "valid", "test"):
        for _, example in corpus.examples(side):
            words, answers = read(corpus.task, example)
            for place, answer in answers.items():
                key = tuple(words[place - 1 : place + 1])
                assert [word[0] for word in key] == ["a", "b"]
                assert known.setdefault(key, answer) == answer
    assert len(known) == 20
    others = ProbeCorpus(task_of("memorization", num_facts=20, num_keys=8), 5)
    tokens = {tuple(e.tokens[:2]) for _, e in others.examples("train")}
    assert tokens != {tuple(e.tokens[:2]) for _, e in corpus.examples("train")}


def test_a_task_with_too_few_sequences_says_so(cache: Path) -> None:
    data = DataConfig.model_validate({"source": {"type": "compression", "num_kept": 1, **SMALL}})
    few = data.source.replace(num_tokens=2)
    with pytest.raises(UsageError, match="compression has too few different sequences"):
        prepare(data.replace(source=few), cache=cache)


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_repeated_keys_lie_as_is_said(power: float) -> None:
    """The first of the places after the pairs is taken as often as its weight says."""
    task: Any = task_of("mqar", num_pairs=1, length=12, gap_power=power)
    free = task.length - 2
    places = Counter(task.example(Draw(n)).answers[0][0] - 2 for n in range(4000))
    weights = np.arange(1, free + 1) ** (power - 1.0)
    expected = weights / weights.sum()
    found = np.array([places[g] / 4000 for g in range(free)])
    assert np.abs(found - expected).max() < 5 * (0.25 / 4000) ** 0.5


def test_longer_test_sequences_are_asked_beyond_what_was_trained() -> None:
    corpus = ProbeCorpus(task_of("parity", test_lengths=[24, 40]), 0)
    by_length: dict[int, list[Example]] = {}
    for group, example in corpus.examples("test"):
        by_length.setdefault(group, []).append(example)
    assert {g: len(found) for g, found in by_length.items()} == {0: 12, 1: 12, 2: 12}
    for group, length in ((1, 24), (2, 40)):
        for example in by_length[group]:
            assert [place for place, _ in example.answers] == list(range(16, length))
            words, answers = read(corpus.task, example)
            full = solve_parity(words, corpus.task)
            assert {p: full[p] for p in answers} == answers
    assert corpus.task.lengths == (16, 24, 40)
    copying = task_of("selective_copying", test_lengths=[32])
    assert copying.lengths == (20, 36)
    assert copying.longer_example(Draw(0), 32).tokens.count(copying.symbols.index(">")) == 4


def prepared(cache: Path, **source: Any) -> Dataset:
    return prepare(DataConfig.model_validate({"source": {**SMALL, **source}}), cache=cache)


@pytest.mark.parametrize("name", OURS)
def test_a_task_is_a_data_source_like_any_other(name: str, cache: Path) -> None:
    data = prepared(cache, type=name)
    task = task_of(name)
    assert (data.kind, data.tokenizer.vocab_size) == ("probe", len(task.symbols))
    assert data.test is not None
    assert [f.counts.documents for f in (data.train, data.valid, data.test)] == [40, 12, 12]
    again = prepared(cache, type=name)
    assert again.fingerprint == data.fingerprint
    assert again.folder == data.folder
    assert prepared(cache.with_name("else"), type=name).fingerprint == data.fingerprint
    expected = [ProbeCorpus(task, 0).example("train", n) for n in range(40)]
    samples = Samples(data.train, AnswerForm())
    assert len(samples) == 40
    assert samples.note("train") is None
    batch = samples.form.batch(samples.encoded(np.arange(40)))
    for row, example in enumerate(expected):
        length, answers = len(example.tokens), dict(example.answers)
        assert batch.inputs[row, :length].tolist() == example.tokens
        assert batch.real[row].tolist() == [t < length for t in range(batch.inputs.shape[1])]
        wanted = [answers.get(place, NO_LOSS) for place in range(batch.inputs.shape[1])]
        assert batch.targets[row].tolist() == wanted
    assert samples.targets.tolist() == [len(e.answers) for e in expected]


def test_the_order_of_training_is_that_of_its_own_seed(cache: Path) -> None:
    samples = Samples(prepared(cache, type="mqar").train, AnswerForm())
    seen = [SampleBatches(samples, batch_size=20, seed=s).at(0).inputs.tolist() for s in (0, 0, 1)]
    assert seen[0] == seen[1] != seen[2]


def test_a_damaged_corpus_is_made_again(cache: Path) -> None:
    data = prepared(cache, type="parity")
    (data.folder / "test.bin").write_bytes(b"")
    again = prepared(cache, type="parity")
    assert again.fingerprint == data.fingerprint
    assert again.test is not None
    assert len(again.test.tokens) > 0


def test_other_code_is_another_corpus(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(cache, type="parity")
    monkeypatch.setattr("windtunnel.data.probe_packing.code_of", lambda task: "other")
    second = prepared(cache, type="parity")
    assert first.folder != second.folder
    assert first.fingerprint == second.fingerprint


def test_symbols_are_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = SymbolTokenizer(task_of("mqar").symbols)
    ids = tokenizer.encode("k3 v0  .")
    assert tokenizer.decode(ids) == " k3 v0 ."
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.token_bytes.tolist() == [0] * tokenizer.vocab_size
    assert tokenizer.eos is None
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).digest == tokenizer.digest
    with pytest.raises(DataError, match="'k99' is none of the 17 symbols: k0 k1"):
        tokenizer.encode("k99")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source: mqra", "did you mean 'mqar'?"),
        ("source: {type: mqar, num_pair: 3}", "did you mean 'num_pairs'?"),
        ("source: {type: mqar, num_pairs: 0}", "source.num_pairs: must be > 0, not 0"),
        ("source: {type: mqar, num_pairs: 40}", "num_pairs 40 is more than num_keys or num_values"),
        ("source: {type: mqar, num_pairs: 8}", "length 16 is less than 3 × num_pairs = 24"),
        ("source: {type: noisy_recall, noise: 1}", "source.noise: must be < 1"),
        ("source: {type: fuzzy_recall, num_keys: 3}", "num_pairs 4 is more than num_keys 3"),
        ("source: {type: induction, length: 40}", "length 40 is more than num_tokens 12"),
        ("source: {type: induction, num_answers: 16}", "must be less than length 10"),
        ("source: {type: selective_copying, num_copied: 17}", "num_copied 17 is more than length"),
        ("source: {type: memorization, num_facts: 2000}", "num_keys ** key_len = 1024"),
        ("source: {type: permutations, group: S6}", "source.group"),
        ("source: {type: parity, test_lengths: [32, 16]}", "must ascend, each more than length 16"),
        ("source: {type: parity, test_lengths: 8}", "must ascend"),
        ("source: {type: compression, test_lengths: 32}", "has no `length`"),
        ("source: {type: induction, test_lengths: 33}", "with length 33: length 33 is more than"),
        ("source: {type: parity, samples: 100000000}", "at most 134,217,728 are kept"),
        ("{source: parity, tokenizer: bytes}", "parity has symbols of its own"),
        ("{source: shakespeare, tokenizer: symbols}", "a shakespeare source has none"),
        ("{source: parity, validation: 0.2}", "set source.held_samples instead"),
        ("{source: parity, packing: documents}", "has a row of its own"),
        ("sources: {a: parity, b: mqar}", "a synthetic task stands alone"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(parse_document(text, "run.yaml"), DataConfig)
    assert expected in str(caught.value)
    assert len(caught.value.problems) == 1
    assert "run.yaml:1:" in str(caught.value)


@pytest.mark.parametrize("name", OURS)
def test_a_task_survives_the_way_through_json_and_is_in_the_schema(name: str) -> None:
    config = DataConfig.model_validate({"source": {"type": name, **AXES[name][0]}})
    tree = config.model_dump(mode="json")
    assert DataConfig.model_validate(tree) == config
    assert tree["source"]["type"] == name
    assert set(AXES[name][0]) <= set(tree["source"])
    assert config.replace(seed=2).source == config.source
    schema = TypeAdapter(DataConfig).json_schema()
    described = schema["$defs"][probe_classes()[name].__name__]["properties"]
    assert all(field.get("description") for field in described.values())


@pytest.mark.parametrize("name", OURS)
def test_levels_are_more_difficult_forms_of_a_task(name: str) -> None:
    task = probe_classes()[name]()
    assert task.at_level("easy") is task
    assert set(task.levels) == {"medium", "hard"}
    harder = [task.at_level(level) for level in ("easy", "medium", "hard")]
    assert len({form.model_dump_json() for form in harder}) == 3
    assert [form.type for form in harder] == [name] * 3


def test_a_task_of_one_s_own_is_one_class() -> None:
    from typing import Literal

    @register_probe
    class Echo(ProbeSource):
        type: Literal["echo-of-a-test"] = "echo-of-a-test"

        @property
        def symbols(self) -> tuple[str, ...]:
            return ("a", "b")

        @property
        def chance(self) -> float:
            return 0.5

        @property
        def span(self) -> int:
            return 20

        def example(self, draw: Draw) -> Example:
            tokens = [draw.below(2) for _ in range(20)]
            return Example(tokens, list(enumerate(tokens)))

    source = DataConfig.model_validate({"source": "echo-of-a-test"}).source
    assert isinstance(source, Echo)
    with pytest.raises(ValueError, match="'mqar' already"):
        register_probe(type("Mine", (Echo,), {"__annotations__": {"type": str}, "type": "mqar"}))


@given(st.integers(0, 10**6), st.integers(1, 200), st.data())
@settings(max_examples=60, deadline=None)
def test_draws_are_as_they_should_be(seed: int, n: int, data: Any) -> None:
    count = data.draw(st.integers(0, n))
    found = Draw(seed).distinct(n, count)
    assert len(set(found)) == count
    assert set(found) <= set(range(n))
    assert Draw(seed).places(n, count) == sorted(found)
    assert sorted(Draw(seed).shuffled("abcde")) == list("abcde")
    assert 0 <= Draw(seed).share() < 1


def test_draws_are_even() -> None:
    firsts = Counter(tuple(Draw(n, "even").distinct(4, 2)) for n in range(6000))
    assert len(firsts) == 12
    assert max(abs(count - 500) for count in firsts.values()) < 5 * 500**0.5


def test_no_numpy_is_needed_to_know_the_tasks() -> None:
    code = "import sys, windtunnel.data.config; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


GOLDEN = ("k3 v0 k1 v1 k1 . k3 .", {4: "v1", 6: "v0"})
GOLDEN_DRAWS = [64, 38]
