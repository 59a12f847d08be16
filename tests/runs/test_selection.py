"""Tags, and runs chosen by tag, status and conditions."""

from pathlib import Path

import pytest

from windtunnel.errors import ConfigError, RunError, UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.runs.references import references
from windtunnel.runs.selection import condition, selected
from windtunnel.runs.tags import change_tags, read_tags


def make(store: RunStore, name: str, loss: float | None = None, **train: object) -> RunFolder:
    config = {"arch": {"layers": [{"mixer": {"type": name}}]}, "train": {"lr": 3e-4, **train}}
    folder = store.create(f"{name:k<64}", name, config)
    if loss is not None:
        folder.write_record({"status": "finished", "steps": 7, "final": {"loss": loss}})
    return folder


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "runs")
    for name, loss in (("gpt", 3.0), ("gru", 2.5), ("lstm", 2.75), ("new", None)):
        make(store, name, loss)
    return store


def names(store: RunStore, **asked: object) -> list[str]:
    return [run.name for run in selected(store.list(), **asked)]  # type: ignore[arg-type]


def test_tags_are_kept_beside_the_record(store: RunStore) -> None:
    folder = store.select("gpt")
    record = (folder.path / "record.json").read_bytes()
    assert change_tags(folder.path, add=["b", "paper/v1"]) == ("b", "paper/v1")
    assert change_tags(folder.path, add=["a"], remove=["b"]) == ("a", "paper/v1")
    assert read_tags(folder.path) == ("a", "paper/v1")
    assert (folder.path / "record.json").read_bytes() == record
    assert store.find(folder.key) is not None
    assert names(store, tags=["a"]) == ["gpt"]
    assert names(store, tags=["a", "b"]) == []


def test_the_index_sees_changed_tags(store: RunStore) -> None:
    assert names(store, tags=["x"]) == []
    change_tags(store.select("gru").path, add=["x"])
    assert names(RunStore(store.root), tags=["x"]) == ["gru"]
    change_tags(store.select("gru").path, remove=["x"])
    assert names(RunStore(store.root), tags=["x"]) == []


@pytest.mark.parametrize("tag", ["", "a b", "-a", "ä", "x" * 65, "a\n"])
def test_what_is_no_tag_is_refused(store: RunStore, tag: str) -> None:
    path = store.select("gpt").path
    with pytest.raises(UsageError, match="is no tag"):
        change_tags(path, add=["good", tag])
    assert read_tags(path) == ()


def test_a_tag_that_is_not_there_cannot_be_taken(store: RunStore) -> None:
    path = store.select("gpt").path
    change_tags(path, add=["a"])
    with pytest.raises(UsageError, match=r"has no tag 'b' \(there are: a\)"):
        change_tags(path, remove=["b"])


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]"])
def test_damaged_tags_are_an_error(store: RunStore, content: str) -> None:
    path = store.select("gpt").path
    (path / "tags.json").write_text(content)
    with pytest.raises(RunError, match=r"tags\.json: is damaged"):
        read_tags(path)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"sort": "loss"}, ["gru", "lstm", "gpt", "new"]),
        ({"sort": "-loss"}, ["gpt", "lstm", "gru", "new"]),
        ({"statuses": ["finished"], "sort": "-name"}, ["lstm", "gru", "gpt"]),
        ({"statuses": ["finished", "interrupted"]}, ["gpt", "gru", "lstm", "new"]),
        ({"where": ["loss<2.8"]}, ["gru", "lstm"]),
        ({"where": ["loss<=2.75", "loss > 2.5"]}, ["lstm"]),
        ({"where": ["loss!=2.50"]}, ["gpt", "lstm", "new"]),
        ({"where": ["loss=null"]}, ["new"]),
        ({"where": ["name~g"]}, ["gpt", "gru"]),
        ({"where": ["train.lr=0.0003"]}, ["gpt", "gru", "lstm", "new"]),
        ({"where": ["train.lr>3e-4"]}, []),
        ({"where": ["arch.layers[0].mixer.type=gru"]}, ["gru"]),
    ],
)
def test_runs_are_chosen(store: RunStore, asked: dict[str, object], expected: list[str]) -> None:
    assert names(store, **asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sort": "los"}, r"--sort: 'los'; did you mean 'loss'\?"),
        ({"statuses": ["finnished"]}, r"--status: 'finnished'; did you mean 'finished'\?"),
        ({"where": ["loss"]}, "not a condition such as"),
        ({"where": ["lss<3"]}, r"--where: 'lss'; did you mean 'loss'\?"),
        ({"where": ["train.larry=3"]}, "no run has 'train.larry' in its config"),
    ],
)
def test_a_mistake_is_told(store: RunStore, asked: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        names(store, **asked)


def test_a_run_without_its_config_is_left_out(
    store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.select("gru").config_path.unlink()
    assert names(store, where=["train.lr=3e-4"]) == ["gpt", "lstm", "new"]
    assert "config.yaml: No such file or directory; the run is left out" in caplog.text


def test_a_condition_on_a_place_that_is_no_path_is_told(store: RunStore) -> None:
    with pytest.raises(ConfigError, match="is not a path"):
        names(store, where=["train..lr=3"])


def test_a_number_is_compared_as_a_number_and_a_word_as_a_word() -> None:
    assert condition("a.b=1e-3").holds(0.001)
    assert condition("a.b=true").holds(True)
    assert not condition("a.b=1").holds(True)
    assert not condition("loss<3").holds(None)
    assert condition("tags=x").holds(("y", "x"))


def test_a_store_knows_what_studies_need(store: RunStore, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    store.refer(study, ["a"])
    store.refer(study, ["b"], ended=True)
    store.refer(tmp_path / "gone", ["c"])
    notes = {note.study.name: note for note in references(store.root)}
    assert notes["study"].keys == {"a", "b"}
    assert (notes["study"].ended, notes["study"].stands) == (True, True)
    assert not notes["gone"].stands
    assert len(store.list()) == 4
    notes["study"].path.write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        references(store.root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss<3 and step>1", r"'3 and step>1' is not a number; .*give --where twice"),
        ("loss<3,2", "'3,2' is not a number; .*give --where twice"),
        ("loss>=nan", "'nan' is not a number"),
        ("loss<null", "'null' is not a number"),
        ("step!=soon", "'soon' is not a number$"),
        ("train.lr<", "'' is not a number$"),
        ("loss==3", "there is no comparison =="),
        ("name<b", "name is a text, so < means nothing; write =, != or ~"),
    ],
)
def test_what_nothing_could_meet_is_a_mistake(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        condition(text)


def test_not_known_is_written_null(store: RunStore) -> None:
    assert names(store, where=["loss=null"]) == ["new"]
    assert names(store, where=["loss!=null", "loss!=2.5"]) == ["gpt", "lstm"]
    assert names(store, where=["loss<inf"]) == ["gpt", "gru", "lstm"]
