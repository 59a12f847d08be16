"""Mistakes that ``--set`` makes: told once, at ``--set``, however many files it is for."""

from pathlib import Path

import pytest

from windtunnel.cli.comparing import load_run_files
from windtunnel.errors import ConfigError
from windtunnel.train.run_config import load_run

FILE = """\
arch:
  name: {name}
  d_model: {width}
  vocab_size: auto
  layers:
    - mixer: {{type: attention, num_heads: 4}}
data: {{tokenizer: bytes}}
train: {{steps: 6, batch_size: 4, seq_len: 16}}
"""


def write(folder: Path, name: str, width: int = 64, more: str = "") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(FILE.format(name=name, width=width) + more, encoding="utf-8")
    return file


def mistakes(files: list[Path], *edits: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_run_files(files, edits)
    return str(caught.value).splitlines()


def test_a_mistake_of_two_keys_is_placed_at_the_edit_that_makes_it(tmp_path: Path) -> None:
    file = write(tmp_path, "a")
    with pytest.raises(ConfigError) as caught:
        load_run(file, ["arch.d_model=30"])
    (told,) = str(caught.value).splitlines()
    assert told.startswith("--set: arch.layers[0].mixer: num_heads 4 does not divide")
    assert "d_model is written at --set" in told


def test_where_the_file_has_mistakes_of_its_own_these_keep_their_places(tmp_path: Path) -> None:
    file = write(tmp_path, "a", width=30)
    told = mistakes([file], "train.lr=1e-3")
    assert [line.startswith(f"{file}:6:") for line in told] == [True]


def test_a_mistake_of_an_edit_is_told_once_for_all_files(tmp_path: Path) -> None:
    files = [write(tmp_path, name) for name in "abc"]
    assert len(mistakes(files, "train.lrr=1")) == 1
    assert len(mistakes(files, "arch.d_model=30")) == 1
    (both, _) = told = mistakes(files, "train.lr=no", "arch.d_model=wide")
    assert len(told) == 2
    assert both.startswith("--set: ")
    assert ".yaml" not in "".join(told)


def test_the_files_are_named_where_it_concerns_some(tmp_path: Path) -> None:
    files = [write(tmp_path, "a"), write(tmp_path, "b", width=60), write(tmp_path, "c")]
    told = mistakes(files, "arch.layers[0].mixer.num_heads=15")
    assert told
    assert all(line.startswith("--set: ") for line in told)
    assert str(files[1]) not in "".join(told)
    assert any(line.endswith(f"(in {files[0]})") for line in told)


def test_mistakes_of_files_stand_at_each(tmp_path: Path) -> None:
    files = [write(tmp_path, name, more="eval: 1\n") for name in "ab"]
    told = mistakes(files)
    assert [line.partition(":")[0] for line in told] == [str(file) for file in files]
