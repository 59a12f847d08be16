"""Files of tasks: three kinds of items, and every mistake in one told with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.tasks import read_task
from windtunnel.errors import SourceError, UsageError

CHOICE = {"prompt": "2 + 2 =", "choices": [" 4", " 5", " 6"], "answer": 0}
PAIR = {"good": "the cats sleep", "bad": "the cats sleeps"}
CLOZE = {"prompt": "one two", "truth": " three"}


def written(path: Path, *lines: Any) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def test_a_choice_a_pair_and_a_cloze(tmp_path: Path) -> None:
    two = {"prompt": "", "choices": ["a", "b"], "answer": 1}
    found = read_task(written(tmp_path / "sums.jsonl", CHOICE, "", two))
    assert (found.name, found.kind, len(found.items), found.notes) == ("sums", "choice", 2, ())
    assert (found.items[0].choices, found.items[0].right) == ((" 4", " 5", " 6"), " 4")
    assert found.items[1].name == f"{tmp_path / 'sums.jsonl'}:3"
    assert found.chance == pytest.approx((1 / 3 + 1 / 2) / 2)
    pair = read_task(written(tmp_path / "p.jsonl", PAIR))
    assert (pair.kind, pair.items[0].prompt, pair.items[0].answer) == ("pair", "", 0)
    assert (pair.items[0].choices, pair.chance) == (("the cats sleep", "the cats sleeps"), 0.5)
    cloze = read_task(str(written(tmp_path / "c.jsonl", CLOZE)))
    assert (cloze.kind, cloze.items[0].choices, cloze.chance) == ("cloze", (" three",), None)


def test_a_file_may_be_gzipped_and_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "agreement.v2.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(PAIR).encode()))
    found = read_task(path)
    plain = read_task(written(tmp_path / "p.jsonl", PAIR))
    assert (found.name, found.digest) == ("agreement.v2", plain.digest)


def test_the_digest_is_of_what_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first = read_task(written(path, CHOICE)).digest
    assert read_task(written(path, "", {**CHOICE, "id": 7})).digest == first
    for other in ({**CHOICE, "answer": 1}, {**CHOICE, "prompt": "2+2="}, PAIR):
        assert read_task(written(path, other)).digest != first
    assert read_task(written(path, CHOICE, CHOICE | {"answer": 2})).digest != first
    assert read_task(path, limit=1).digest == first


def test_notes_tell_of_limits_repeats_and_keys_that_are_not_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "t.jsonl", PAIR, {**PAIR, "UID": 3, "field": "x"}, {**PAIR, "bad": "."}
    )
    assert read_task(path).notes == (
        "1 of 3 items stand in the file before; each counts, as if it were another one, so "
        "intervals are too narrow",
        "keys that are not read: UID, field",
    )
    limited = read_task(path, limit=1)
    assert (len(limited.items), limited.notes[0]) == (1, "the first 1 of 3 items")
    assert len(read_task(path, limit=9).items) == 3
    with pytest.raises(UsageError, match="--limit must be ≥ 1, not 0"):
        read_task(path, limit=0)


def test_a_line_behind_the_limit_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"t\.jsonl:2: "):
        read_task(written(tmp_path / "t.jsonl", PAIR, CLOZE), limit=1)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"prompt": "a", "chioces": ["b", "c"]}, "chioces.; did you mean 'choices'"),
        ({}, r"is no item \(keys: none\) \(allowed: choice: prompt, choices, answer; pair"),
        ({**PAIR, **CLOZE}, "has keys of a pair and of a cloze"),
        ({"promt": "a", "choices": ["b", "c"], "answer": 0}, "'prompt'; did you mean .* 'promt'"),
        ({"prompt": "a", "choices": ["b", "c"]}, r"'answer' \(needed: prompt, choices, answer\)"),
        ({"good": "a", "worse": "b"}, "a pair needs the key 'bad'"),
        ({"truth": "a"}, "a cloze needs the key 'prompt'"),
        ({**CHOICE, "prompt": 3}, "prompt: expected a text, not int"),
        ({**CHOICE, "choices": "bc"}, "choices: expected a list of two texts or more"),
        ({**CHOICE, "choices": ["b"]}, "choices: expected a list of two texts or more"),
        ({**CHOICE, "choices": []}, "choices: expected a list of two texts or more"),
        ({**CHOICE, "choices": ["b", 3]}, "choices: expected a text, not int"),
        ({**CHOICE, "choices": ["b", ""]}, "choices: the text is empty"),
        ({**CHOICE, "choices": ["b", "c", "b"]}, "choices: two are the same"),
        ({**CHOICE, "answer": 3}, r"answer: 3 is none of the choices \(0 to 2\)"),
        ({**CHOICE, "answer": -1}, r"answer: -1 is none of the choices"),
        ({**CHOICE, "answer": "4"}, "answer: expected the number of the right choice, not '4'"),
        ({**CHOICE, "answer": True}, "answer: expected the number of the right choice, not True"),
        ({**CHOICE, "answer": 0.0}, "answer: expected the number of the right choice, not 0.0"),
        ({"good": "a", "bad": "a"}, "good and bad: two are the same"),
        ({"good": "a", "bad": ""}, "bad: the text is empty"),
        ({"prompt": "a", "truth": ""}, "truth: the text is empty"),
        ('{"good": "a", "bad": "\\ud800"}', "bad: a lone surrogate at character 0"),
        ('{"good": "a", "good": "b"}', "the key 'good' stands twice"),
        ('{"good": "a"', "not a line of JSON"),
        ("[1, 2]", "expected a JSON object, not list"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path: Path, line: Any, told: str) -> None:
    path = written(tmp_path / "t.jsonl", "", line)
    with pytest.raises(SourceError, match=rf"^{path}:2: .*{told}") as caught:
        read_task(path)
    assert caught.value.exit_code == 2


def test_kinds_are_not_mixed(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", CLOZE, CLOZE, PAIR)
    with pytest.raises(SourceError, match=rf"{path}:3: is a pair, and {path}:1 a cloze"):
        read_task(path)


def test_files_that_are_no_tasks(tmp_path: Path) -> None:
    written(tmp_path / "agreement.jsonl", "", "  ")
    with pytest.raises(SourceError, match="holds no item"):
        read_task(tmp_path / "agreement.jsonl")
    with pytest.raises(SourceError, match=r"no such file .*did you mean '.*agreement\.jsonl'"):
        read_task(tmp_path / "agrement.jsonl")
    for name in ("t.csv", "t.txt.gz", "t.json"):
        with pytest.raises(SourceError, match="a task is a file of JSON Lines"):
            read_task(written(tmp_path / name, PAIR))
    with pytest.raises(SourceError, match="a task is a file of JSON Lines"):
        read_task(tmp_path)
    (tmp_path / "t.jsonl").write_bytes(b'{"good": "\xff"}')
    with pytest.raises(SourceError, match="not UTF-8 at byte 10"):
        read_task(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(Exception, match="damaged gzip file"):
        read_task(tmp_path / "t.jsonl.gz")
