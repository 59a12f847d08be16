"""A user's own mixer: written, checked, trained, resumed, generated from."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.apart import components_apart, forget_plugins
from tests.conftest import Command

OWN = "mixer: {type: attention, num_heads: 2}", "mixer: my_mixer"


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    with components_apart():
        yield


@pytest.fixture
def own(windtunnel: Command, workplace: Path) -> Path:
    """The file of a new mixer, and a run file, own.yaml, that uses it."""
    assert windtunnel("new", "mixer", "my_mixer").code == 0
    text = (workplace / "run.yaml").read_text(encoding="utf-8").replace(*OWN)
    (workplace / "own.yaml").write_text("plugins: [my_mixer.py]\n" + text, encoding="utf-8")
    return workplace / "my_mixer.py"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
    forget_plugins()


def test_a_new_mixer_keeps_every_contract(windtunnel: Command, own: Path) -> None:
    answer = windtunnel("check", "--contracts", own.name)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        f"mixer my_mixer({knob}): 12 contracts hold" for knob in ("", "d_hidden=24", "d_hidden=1")
    ]
    tree = json.loads(windtunnel("check", "--contracts", own.name, "--json").out)["contracts"]
    assert tree["hold"] is True
    assert [(row["contracts"], row["passed"], row["failures"]) for row in tree["examples"]] == [
        (12, 12, [])
    ] * 3


@pytest.mark.parametrize(
    ("old", "new", "contract", "message"),
    [
        ("span.real if span.padded else None", "None", "padding", "pads get a gradient of"),
        ("self.out(average.to(x.dtype))", "self.out(average.flip(1).to(x.dtype))", "causality",
         "editing token 1 on: off by"),
        ("params=n,", "params=2 * n,", "cost", "parameters: predicted"),
        ("self.out(average.to(x.dtype))", "self.no(x)", "shape", "AttributeError: 'MyMixer'"),
        ("(cls.Config(), cls.Config(d_hidden=24), cls.Config(d_hidden=1))", "()", "examples",
         "there is none"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_component_and_contract(
    windtunnel: Command, own: Path, old: str, new: str, contract: str, message: str
) -> None:
    edit(own, old, new)
    answer = windtunnel("check", "--contracts", own.name)
    assert (answer.code, answer.err) == (1, "")
    assert f"  mixer my_mixer(): {contract}: {message}" in answer.out
    forget_plugins()
    tree = json.loads(windtunnel("check", "--contracts", own.name, "--json").out)["contracts"]
    assert tree["hold"] is False
    failures = tree["examples"][0]["failures"]
    assert any(f["contract"] == contract and message in f["message"] for f in failures)


def test_contracts_and_costs_in_one_call(windtunnel: Command, own: Path) -> None:
    answer = windtunnel("check", "own.yaml", "--contracts", own.name, "--json")
    tree = json.loads(answer.out)
    assert (answer.code, tree["contracts"]["hold"]) == (0, True)
    assert tree["parts"][1]["kind"] == "my_mixer + glu"
    assert "12 contracts hold" in windtunnel("check", "own.yaml", "--contracts", own.name).out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "empty.py: no such file"),
        ("x = 1\n", "empty.py: registers no component"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def\n", "SyntaxError: invalid syntax"),
    ],
)
def test_a_file_without_components_is_a_mistake(
    windtunnel: Command, workplace: Path, source: str | None, message: str
) -> None:
    if source is not None:
        (workplace / "empty.py").write_text(source, encoding="utf-8")
    answer = windtunnel("check", "--contracts", "empty.py")
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("new", "mixer"), "a mixer needs a name"),
        (("new", "mixer", "My Mixer"), "is no name for a mixer"),
        (("new", "mixer", "../up"), "is no name for a mixer"),
        (("new", "mixer", "lambda"), "is no name for a mixer"),
        (("new", "mixer", "attention"), "there is a mixer 'attention' already"),
        (("new", "mixer", "random"), "would hide the Python module"),
        (("new", "mixer", "mine", "--out", "nowhere"), "No such file or directory"),
        (("new", "mixer", "mine", "--preset", "gpt2"), "--preset is for run files"),
        (("new", "a.yaml", "mine"), "unexpected 'mine'"),
        (("new", "a.yaml", "--out", "."), "--out is for a mixer"),
        (("check",), "missing FILE"),
        (("check", "--contracts", "x.py", "--seq-len", "3"), "missing FILE"),
        (("check", "run.yaml", "--contracts", "x.py", "--resolved"), "leave out --contracts"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line_and_writes_nothing(
    windtunnel: Command, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = sorted(workplace.iterdir())
    answer = windtunnel(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert sorted(workplace.iterdir()) == before


def test_a_mixer_is_never_overwritten(windtunnel: Command, own: Path) -> None:
    own.write_text("mine\n", encoding="utf-8")
    answer = windtunnel("new", "mixer", "my_mixer")
    assert (answer.code, "exists already; nothing was written" in answer.err) == (2, True)
    assert own.read_text(encoding="utf-8") == "mine\n"
    (own.parent / "parts").mkdir()
    assert windtunnel("new", "mixer", "my_mixer", "--out", "parts").code == 0
    assert windtunnel("new", "mixer.yaml").code == 0
    assert (own.parent / "mixer.yaml").read_text(encoding="utf-8").startswith("# A run")


@pytest.mark.parametrize("name", ["a", "linear_mixer", "x2__y_"])
def test_any_name_gives_a_mixer_that_works(windtunnel: Command, name: str) -> None:
    assert windtunnel("new", "mixer", name).code == 0
    answer = windtunnel("check", "--contracts", f"{name}.py")
    assert (answer.code, answer.err) == (0, "")


def train(windtunnel: Command, out: str, *more: str) -> dict:
    forget_plugins()
    answer = windtunnel("train", "own.yaml", "--out", out, "--json", *more)
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_an_own_mixer_trains_resumes_and_writes_text(
    windtunnel: Command, own: Path, workplace: Path
) -> None:
    whole = train(windtunnel, "whole")
    assert whole["status"] == "finished"
    assert train(windtunnel, "again")["final"]["loss"] == whole["final"]["loss"]
    (workplace / "again" / "record.json").unlink()  # as if killed after the last but one checkpoint
    newest = max(path for path in (workplace / "again" / "checkpoints").iterdir() if path.is_dir())
    shutil.rmtree(newest)
    resumed = train(windtunnel, "again", "--resume")
    events = (workplace / "again" / "events.jsonl").read_text(encoding="utf-8")
    assert '"resume"' in events
    assert resumed["key"] == whole["key"]
    assert resumed["final"]["loss"] == whole["final"]["loss"]
    forget_plugins()
    text = windtunnel("generate", "whole", "the king", "-n", 8, "--greedy")
    assert (text.code, text.out.startswith("the king")) == (0, True)


def test_another_plugin_is_another_run(windtunnel: Command, own: Path) -> None:
    first = train(windtunnel, "first")
    edit(own, "uniform(4.0)", "uniform(3.0)")
    second = train(windtunnel, "second")
    assert first["key"] != second["key"]
    assert first["final"]["loss"] != second["final"]["loss"]
    answer = windtunnel("train", "own.yaml", "--out", "first")
    assert (answer.code, "another config" in answer.err) == (2, True)
