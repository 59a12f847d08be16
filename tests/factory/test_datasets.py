"""Datasets of the factory format: names, paths, and what recipes give."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from windtunnel.errors import ConfigError, DataError, UsageError
from windtunnel.factory import DatasetConfig, DatasetManager, parse_dataset_configs
from windtunnel.factory.recipes import RECIPES

FILE = """
global_config: {corpus_dir: ./data, output_dir: ./manifests/, process_params: {num_jobs: 4}}
datasets:
  - name: LibriSpeech
    process_params: {num_jobs: 2}
  - {name: timit, corpus_dir: /timit, output_dir: /out, force_download: true}
"""


class Recordings(list[str]):
    """Stands for a RecordingSet."""


class Cuts:
    """Stands for a CutSet."""

    def __init__(self, recordings: Any, supervisions: Any) -> None:
        self.parts = (recordings, supervisions)

    @classmethod
    def from_manifests(cls, recordings: Any = None, supervisions: Any = None) -> "Cuts":
        return cls(recordings, supervisions)


class Lhotse(ModuleType):
    """Stands for lhotse: its recipes record how they are called."""

    CutSet = Cuts
    RecordingSet = Recordings

    def __init__(self) -> None:
        super().__init__("lhotse")
        self.__path__: list[str] = []
        self.recipes = ModuleType("lhotse.recipes")
        self.recipes.__path__ = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.manifests: Any = {"train": {"recordings": Recordings(["a"]), "supervisions": "s"}}
        self.folder: Any = Path("/downloaded")
        for name in ("librispeech", "timit"):
            self.add(self.recipes, name)

    def add(self, module: ModuleType, name: str) -> None:
        def download(target_dir: str = ".", force_download: bool = False) -> Any:
            self.calls.append((f"download_{name}", {"to": target_dir, "again": force_download}))
            return self.folder

        def prepare(corpus_dir: Any, output_dir: Any = None, num_jobs: int = 1) -> Any:
            values = {"from": str(corpus_dir), "to": output_dir, "jobs": num_jobs}
            self.calls.append((f"prepare_{name}", values))
            return self.manifests

        download.__name__, prepare.__name__ = f"download_{name}", f"prepare_{name}"
        setattr(module, download.__name__, download)
        setattr(module, prepare.__name__, prepare)


@pytest.fixture
def lhotse(monkeypatch: pytest.MonkeyPatch) -> Lhotse:
    stand_in = Lhotse()
    monkeypatch.setitem(sys.modules, "lhotse", stand_in)
    monkeypatch.setitem(sys.modules, "lhotse.recipes", stand_in.recipes)
    return stand_in


def configs(tmp_path: Path, text: str = FILE) -> tuple[DatasetConfig, ...]:
    path = tmp_path / "f.yml"
    path.write_text(text, encoding="utf-8")
    return parse_dataset_configs(path)


def test_there_are_sixty_names() -> None:
    assert len(RECIPES) == 60
    assert all(name == name.lower() for name in RECIPES)


def test_what_a_dataset_leaves_out_is_global(tmp_path: Path) -> None:
    first, second = configs(tmp_path)
    assert (first.name, first.corpus_dir) == ("librispeech", "./data")
    assert first.output_dir == "./manifests/librispeech"
    assert first.process_params == {"num_jobs": 2}
    assert (second.corpus_dir, second.output_dir) == ("/timit", "/out")
    assert second.process_params == {"num_jobs": 4}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LibriSpeech", "librispech", "did you mean 'librispeech'?"),
        ("name: timit", "nme: timit", "did you mean 'name'?"),
        ("corpus_dir: /timit", "corpus_dir: 3", "expected text"),
        ("output_dir: ./man", "output_dirs: ./man", "did you mean 'output_dir'?"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configs(tmp_path, FILE.replace(old, new, 1))
    assert message in str(caught.value)
    assert "f.yml:" in str(caught.value)


def test_a_recipe_is_downloaded_then_prepared_from_where_the_download_put_it(
    tmp_path: Path, lhotse: Lhotse
) -> None:
    cuts = DatasetManager.load_datasets(datasets=configs(tmp_path))
    assert [c.parts for c in cuts] == [(["a"], "s")] * 2
    assert lhotse.calls == [
        ("download_librispeech", {"to": "./data", "again": False}),
        (
            "prepare_librispeech",
            {"from": "/downloaded", "to": "./manifests/librispeech", "jobs": 2},
        ),
        ("download_timit", {"to": "/timit", "again": True}),
        ("prepare_timit", {"from": "/downloaded", "to": "/out", "jobs": 4}),
    ]


def test_without_a_path_from_the_download_the_told_folder_is_read(lhotse: Lhotse) -> None:
    lhotse.folder = None
    DatasetManager.load_datasets([DatasetConfig(name="timit", corpus_dir="/here")])
    assert lhotse.calls[-1][1]["from"] == "/here"


R = Recordings(["r"])


@pytest.mark.parametrize(
    ("manifests", "expected"),
    [
        ((R, "s"), [(R, "s")]),
        ((R, None), [(R, None)]),
        (R, [(R, None)]),
        ({"recordings": R, "supervisions": "s"}, [(R, "s")]),
        ({"audio": R, "supervisions": "s"}, [(R, "s")]),
        ({"cuts": Cuts(R, "c")}, [(R, "c")]),
        (
            {"dev": {"recordings": R}, "test": {"recordings": R, "supervisions": "t"}},
            [(R, None), (R, "t")],
        ),
        ({"mic": {"dev": (R, "s")}}, [(R, "s")]),
    ],
    ids=["pair", "half", "recordings", "flat", "audio", "cuts", "nested", "deep"],
)
def test_every_form_of_manifests_becomes_cuts(
    lhotse: Lhotse, manifests: Any, expected: list[Any]
) -> None:
    lhotse.manifests = manifests
    cuts = DatasetManager.load_datasets([DatasetConfig(name="timit", corpus_dir=".")])
    assert [c.parts for c in cuts] == expected


@pytest.mark.parametrize("manifests", [None, {}, {"supervisions": "s"}, {"dev": None}])
def test_a_recipe_without_recordings_is_a_failure(lhotse: Lhotse, manifests: Any) -> None:
    lhotse.manifests = manifests
    with pytest.raises(DataError, match="gave no recordings"):
        DatasetManager.load_datasets([DatasetConfig(name="timit", corpus_dir=".")])


def test_arguments_are_checked_before_anything_is_downloaded(lhotse: Lhotse) -> None:
    good = DatasetConfig(name="timit", corpus_dir=".")
    bad = DatasetConfig(name="librispeech", process_params={"num_job": 3})
    with pytest.raises(UsageError, match="no argument 'num_job'; did you mean 'num_jobs'"):
        DatasetManager.load_datasets([good, bad])
    assert lhotse.calls == []


def test_a_recipe_that_is_not_exported_is_found_in_its_module(
    lhotse: Lhotse, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("lhotse.recipes.primewords")
    lhotse.add(module, "primewords")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert len(DatasetManager.load_datasets([DatasetConfig(name="primewords")])) == 1
    with pytest.raises(UsageError, match="no recipe 'yesno'"):
        DatasetManager.load_datasets([DatasetConfig(name="yesno")])


def test_without_lhotse_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(UsageError, match=r"windtunnel\[speech\]"):
        DatasetManager.load_datasets([])


def test_a_corpus_that_cannot_be_downloaded_must_be_somewhere(
    lhotse: Lhotse, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("lhotse.recipes.nsc")
    lhotse.add(module, "nsc")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(UsageError, match="nsc: has no download; give corpus_dir"):
        DatasetManager.load_datasets([DatasetConfig(name="nsc")])
    DatasetManager.load_datasets([DatasetConfig(name="nsc", corpus_dir="/nsc")])
    assert [name for name, _ in lhotse.calls] == ["prepare_nsc"]
