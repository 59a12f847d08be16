"""Pairs and labels: what is read, which side it goes to, what the cache holds."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.config import DataConfig
from windtunnel.data.dataset import Dataset, prepare
from windtunnel.data.sample_split import SampleCorpus
from windtunnel.data.samples import Marks, Sample, open_samples, prompt_text
from windtunnel.data.tokenizers.plain import BytesTokenizer
from windtunnel.errors import DataError, SourceError, UsageError


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"{n} =", "truth": f" {n}!"} for n in range(start, start + count)]


def config(**source: Any) -> DataConfig:
    validation = source.pop("validation", 0.2)
    return DataConfig.model_validate(
        {"source": source, "tokenizer": "bytes", "validation": validation}
    )


def texts(data: Dataset, side: str = "train") -> list[tuple[str, str]]:
    file = data.train if side == "train" else data.valid
    assert file.samples is not None
    found, start = [], 0
    for middle, end, _ in file.samples.tolist():
        cut = [data.tokenizer.decode(file.tokens[a:b]) for a, b in ((start, middle), (middle, end))]
        found.append((cut[0], cut[1]))
        start = end
    return found


class Listed:
    notes = ()

    def __init__(self, samples: Sequence[tuple[str, str]]) -> None:
        self._samples = samples

    def samples(self) -> Any:
        for number, (prompt, truth) in enumerate(self._samples):
            yield Sample(f"list:{number}", prompt, truth)


def test_json_lines_become_samples_on_two_sides(tmp_path: Path, cache: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", pairs(20))
    data = prepare(config(type="pairs", paths=str(file), separator=">"), cache=cache)
    assert data.kind == "pairs"
    expected = [(f"{n} =>", f" {n}!") for n in range(20)]
    train, valid = texts(data), texts(data, "valid")
    assert len(valid) == 4
    assert sorted(train + valid) == sorted(expected)
    assert train == [pair for pair in expected if pair in train]
    assert data.train.counts.documents == 16
    assert data.train.counts.text_bytes == sum(len(a) + len(b) for a, b in train)
    assert data.train.counts.tokens == data.train.counts.text_tokens
    assert prompt_text(config(type="pairs", paths=str(file), separator=">").source, "7 =") == "7 =>"


def test_keys_are_the_user_s_and_csv_is_read_alike(tmp_path: Path, cache: Path) -> None:
    rows = [("frage, eins", 'ant"wort'), ("zwei\nzeilen", "ja"), ("drei", "nein")]
    file = tmp_path / "a.csv"
    with open(file, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(
            [("q", "a", "more")] + [(*r, "") for r in rows]
        )
    source = {"paths": str(file), "prompt": "q", "truth": "a"}
    read = list(open_samples(config(type="pairs", **source).source).samples())
    assert [(s.prompt, s.truth) for s in read] == rows
    assert [s.name for s in read] == [f"{file}:{line}" for line in (2, 3, 5)]
    lines = write_lines(tmp_path / "a.jsonl", [{"q": q, "a": a} for q, a in rows])
    first, second = (
        prepare(config(type="pairs", **source | {"paths": str(path)}), cache=cache)
        for path in (file, lines)
    )
    assert first.fingerprint == second.fingerprint


def test_parallel_files_are_aligned_by_line(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "t.en").write_text("a dog\r\na cat\n\nbirds", encoding="utf-8")
    with gzip.open(tmp_path / "t.de.gz", "wt", encoding="utf-8") as stream:
        stream.write("ein Hund\neine Katze\nnichts\nVögel\n")
    source = {"source": str(tmp_path / "t.en"), "target": str(tmp_path / "t.de.gz")}
    data = prepare(config(type="parallel", **source, validation=0.3), cache=cache)
    expected = [("a cat", "eine Katze"), ("a dog", "ein Hund"), ("birds", "Vögel")]
    assert sorted(texts(data) + texts(data, "valid")) == expected
    assert data.notes == ("samples without a prompt or truth, left out: 1",)


@pytest.mark.parametrize(("english", "german"), [(3, 2), (2, 3), (0, 1)])
def test_unequal_line_counts_are_told_with_both_numbers(
    tmp_path: Path, cache: Path, english: int, german: int
) -> None:
    for name, count in (("a.en", english), ("a.de", german)):
        (tmp_path / name).write_text("x\n" * count)
    source = {"source": str(tmp_path / "a.en"), "target": str(tmp_path / "a.de")}
    with pytest.raises(DataError, match=f"a.en has {english} lines, but .*a.de has {german}"):
        prepare(config(type="parallel", **source), cache=cache)


def labelled(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {n}", "label": ("up", "down", 3)[n % 3]} for n in range(count)]


def test_labels_are_those_of_the_training_side_sorted(tmp_path: Path, cache: Path) -> None:
    file = write_lines(tmp_path / "l.jsonl", labelled(30))
    data = prepare(config(type="labels", paths=str(file)), cache=cache)
    assert (data.kind, data.labels) == ("labels", ("3", "down", "up"))
    assert data.train.samples is not None
    for (text, nothing), row in zip(texts(data), data.train.samples.tolist(), strict=True):
        number = int(text.split()[1])
        assert nothing == ""
        assert data.labels[row[2]] == ("up", "down", "3")[number % 3]


def test_an_unseen_validation_label_is_told_with_its_line(tmp_path: Path, cache: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", labelled(9))
    valid = write_lines(tmp_path / "valid.jsonl", [*labelled(2), {"text": "z", "label": "dwon"}])
    source = config(type="labels", paths=str(train), validation=str(valid))
    with pytest.raises(DataError, match=r"valid.jsonl:3: the label 'dwon' is not .*'down', 'up'"):
        prepare(source, cache=cache)


def test_validation_files_are_read_as_the_source_is(tmp_path: Path, cache: Path) -> None:
    one = write_lines(tmp_path / "a.jsonl", [{"q": str(n), "a": "b"} for n in range(4)])
    two = write_lines(tmp_path / "b.jsonl", [{"q": "3", "a": "c"}, {"q": "9", "a": "d"}])
    source = {"type": "pairs", "paths": str(one), "prompt": "q", "truth": "a"}
    data = prepare(config(**source, validation=str(two)), cache=cache)
    assert texts(data, "valid") == [("3", "c"), ("9", "d")]
    assert texts(data) == [("0", "b"), ("1", "b"), ("2", "b")]
    assert "prompt stands in validation too, left out: 1" in data.notes[0]
    for name in ("a.en", "a.de", "b.en", "b.de"):
        (tmp_path / name).write_text(f"{name}\n")
    parallel = config(
        type="parallel", separator="#",
        source=str(tmp_path / "a.en"), target=str(tmp_path / "a.de"),
        validation={"source": str(tmp_path / "b.en"), "target": str(tmp_path / "b.de")},
    )  # fmt: skip
    assert texts(prepare(parallel, cache=cache), "valid") == [("b.en#", "b.de")]


def test_sides_of_other_kinds_are_refused(tmp_path: Path) -> None:
    held = {"type": "labels", "paths": "b.jsonl"}
    with pytest.raises(ValueError, match=r"of type labels holds labels, but .* pairs"):
        config(type="pairs", paths="a.jsonl", validation=held)
    with pytest.raises(ValueError, match="padding has no effect on a text"):
        DataConfig.model_validate({"source": "./a.txt", "padding": "left"})


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40).filter(
        lambda found: len(set(found)) > 1
    ),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 9),
)
def test_no_prompt_stands_on_both_sides(prompts: list[str], fraction: float, seed: int) -> None:
    samples = [(prompt, str(number)) for number, prompt in enumerate(prompts)]
    corpus = SampleCorpus(Listed(samples), fraction, seed, "pairs")
    sides: dict[str, list[tuple[str, str]]] = {"train": [], "valid": []}
    for side, sample in corpus.pieces():
        sides[side].append((sample.prompt, sample.truth))
    assert sides["train"]
    assert sides["valid"]
    assert not {p for p, _ in sides["train"]} & {p for p, _ in sides["valid"]}
    assert sorted(sides["train"] + sides["valid"]) == sorted(samples)


def test_blank_samples_are_counted_and_nothing_but_them_is_an_error() -> None:
    samples = [("a", "b"), (" ", "c"), ("d", "\n"), ("e", "f")]
    corpus = SampleCorpus(Listed(samples), 0.5, 0, "pairs")
    assert corpus.notes == ("samples without a prompt or truth, left out: 2",)
    assert len(list(corpus.pieces())) == 2
    with pytest.raises(DataError, match="no sample holds any text"):
        SampleCorpus(Listed(samples[1:3]), 0.5, 0, "pairs")
    with pytest.raises(UsageError, match="samples of one prompt"):
        SampleCorpus(Listed([("a", "b"), ("a", "c")]), 0.5, 0, "pairs")


def test_a_source_that_changes_between_passes_is_an_error() -> None:
    reader = Listed([("a", "b"), ("c", "d")])
    corpus = SampleCorpus(reader, 0.5, 0, "pairs")
    reader._samples = [("a", "b"), ("c", "x")]
    with pytest.raises(DataError, match="list:1 changed"):
        list(corpus.pieces())
    reader._samples = [("a", "b")]
    with pytest.raises(DataError, match="vanished"):
        list(corpus.pieces())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{]", r"x.jsonl:1: not a line of JSON"),
        ("[1]", r"x.jsonl:1: expected a JSON object, not list"),
        ('\n{"prompt": "a"}', r"x.jsonl:2: no key 'truth' \(keys: prompt\)"),
        (
            '{"prompt": "a", "trut": "b"}',
            r"\(keys: prompt, trut\); did you mean 'trut'\? set `truth`",
        ),
        ('{"prompt": "a", "truth": "b", "truth": "c"}', "x.jsonl:1: the key 'truth' stands twice"),
        ('{"prompt": "a", "truth": 3}', r"x.jsonl:1: 'truth' holds no text but int"),
    ],
)
def test_a_bad_line_is_told_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        list(open_samples(config(type="pairs", paths=str(file)).source).samples())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na\n", "x.csv:2: not as many fields"),
        ("text,label\nok,1\na,b,c\n", "x.csv:3: not as many fields"),
        ('text,label\n"a,b\n', "x.csv:2: not CSV"),
        ("txt,label\na,b\n", r"x.csv:2: no key 'text' \(keys: txt, label\)"),
        ("text,label\nok,1\n\n\na\n", "x.csv:5: not as many fields"),
        ("\ntext,label,label\na,b,c\n", "x.csv:2: the column 'label' stands twice in the header"),
        ("\n\ntext,label\n\na,b,c\n", "x.csv:5: not as many fields"),
        ('text,label\n\n"a\n\nb",1\n\n"c\n', "x.csv:7: not CSV"),
    ],
)
def test_bad_csv_is_told_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        list(open_samples(config(type="labels", paths=str(file)).source).samples())
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(DataError, match="not a kind of file"):
        open_samples(config(type="labels", paths=str(tmp_path / "x.txt")).source)


def test_lines_of_a_csv_are_counted_with_those_that_are_blank(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('\ntext,label\n\nok,1\n\n\n"a\n\nb",2\n\nlast,3\n')
    samples = list(open_samples(config(type="labels", paths=str(file)).source).samples())
    assert [(s.name, s.prompt, s.truth) for s in samples] == [
        (f"{file}:4", "ok", "1"), (f"{file}:7", "a\n\nb", "2"), (f"{file}:11", "last", "3"),
    ]  # fmt: skip


def test_a_field_of_a_csv_may_be_as_long_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(f"text,label\n{'a' * 200_000},1\n")
    (sample,) = open_samples(config(type="labels", paths=str(file)).source).samples()
    assert len(sample.prompt) == 200_000


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_within_a_field_are_kept(tmp_path: Path, end: str) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(f'text,label{end}"a\r\nb\n",1{end}"c\r",2'.encode())
    samples = list(open_samples(config(type="labels", paths=str(file)).source).samples())
    assert [(s.prompt, s.truth) for s in samples] == [("a\r\nb\n", "1"), ("c\r", "2")]


def test_the_cache_is_used_and_a_damaged_entry_is_made_again(tmp_path: Path, cache: Path) -> None:
    file = write_lines(tmp_path / "l.jsonl", labelled(12))
    source = config(type="labels", paths=str(file))
    first = prepare(source, cache=cache)
    held = texts(first)
    written = (first.folder / "train.samples").stat().st_mtime_ns
    moved = write_lines(tmp_path / "other.jsonl", labelled(12))
    again = prepare(config(type="labels", paths=str(moved)), cache=cache)
    assert (again.folder / "train.samples").stat().st_mtime_ns == written
    assert again.fingerprint == first.fingerprint
    content = bytearray((first.folder / "train.samples").read_bytes())
    content[0] ^= 1
    (first.folder / "train.samples").write_bytes(bytes(content))
    mended = prepare(source, cache=cache)
    assert mended.fingerprint == first.fingerprint
    assert texts(mended) == held


def test_fingerprints_tell_labels_and_borders_apart(tmp_path: Path, cache: Path) -> None:
    found = set()
    for number, (key, first, second) in enumerate(
        [("pairs", "ab", "c"), ("pairs", "a", "bc"), ("labels", "abc", "x"), ("labels", "abc", "y")]
    ):
        rows = [{"prompt": f"{n}{first}", "truth": second} for n in range(4)]
        file = write_lines(tmp_path / f"{number}.jsonl", rows)
        names = {"text": "prompt", "label": "truth"} if key == "labels" else {}
        found.add(prepare(config(type=key, paths=str(file), **names), cache=cache).fingerprint)
    assert len(found) == 4


def test_a_missing_side_of_two_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("x")
    both = {"source": str(tmp_path / "a.en"), "target": str(tmp_path / "a.de")}
    with pytest.raises(SourceError, match=r"a\.de: no such file or folder; did you mean .*a\.en"):
        open_samples(config(type="parallel", **both).source)


def test_marks_need_an_end() -> None:
    assert Marks.of(BytesTokenizer(("eos",))) == Marks(0, 0)
    with pytest.raises(UsageError, match="specials has none; add eos"):
        Marks.of(BytesTokenizer(("bos",)))
