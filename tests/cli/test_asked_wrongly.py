"""What was asked for and cannot be: exit code 2, one line, and the nearest that can be."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RUN, Command

from windtunnel.cli import tracing
from windtunnel.cli.options import amount
from windtunnel.cli.reporting import report_study
from windtunnel.errors import UsageError
from windtunnel.runs import RunFolder


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("loss<3.4 and params>1", "'3.4 and params>1' is not a number; one condition at a time: "
         "give --where twice"),
        ("loss<<3", "'<3' is not a number"),
        ("loss=abc", "'abc' is not a number"),
        ("loss<", "'' is not a number"),
    ],
)  # fmt: skip
def test_a_condition_that_nothing_meets_is_a_mistake(
    windtunnel: Command, condition: str, message: str
) -> None:
    answer = windtunnel("runs", "list", "--where", condition)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("run.yaml", "run.yaml: is a file; a study's folder is expected"),
        ("studdy", "studdy: no such folder; did you mean 'study'?"),
        ("study/x", "study/x: no such folder"),
        ("study", "study: holds no study"),
    ],
)
def test_a_report_of_what_is_no_folder(workplace: Path, path: str, message: str) -> None:
    (workplace / "study").mkdir()
    with pytest.raises(UsageError) as caught:
        report_study(Path(path))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "runn.yaml"), "runn.yaml: No such file or directory; did you mean 'run.yaml'?"),
        (("check", "zebra.yaml"), "zebra.yaml: No such file or directory\n"),
        (("generate", "reff", "x"), "no run 'reff' in runs; did you mean 'ref'? there are 0 runs"),
        (("generate", "./reff", "x"), "did you mean 'ref'?"),
        (("generate", "run.yaml", "x"), "run.yaml: is a run file, not a run: windtunnel train"),
        (("generate", "corpus.txt", "x"), "corpus.txt: is a file, not a run; a run is a folder"),
        (("generate", "r" * 300, "x"), "no run 'rrr"),
        (("check", "--contracts", "ref"), "--contracts ref: is a folder; a Python file"),
        (("check", "--contracts", "min.py"), "--contracts min.py: no such file; did you mean "
         "'mine.py'?"),
        (("check", "run.yaml", "--set", "=3"), "--set: the path is empty"),
        (("check", "run.yaml", "--set", "arch.layers[x].mlp=glu"),
         "--set: arch.layers[x].mlp: is not a path such as"),
        (("check", "list.yaml"), "list.yaml: expected a mapping (a run file has `arch: …`, a "
         "search `space: …`), not a list"),
        (("check", "text.yaml"), "not 'arch'"),
        (("check", "run.yaml", "--set", 'arch.name="a\\nb\\e[31m"'),
         "--set: arch.name: a name takes no control characters such as '\\n'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_place_that_is_not_there_names_what_is(
    windtunnel: Command, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    RunFolder.create(workplace / "ref", key="k" * 64, name="r", config={})
    (workplace / "mine.py").touch()
    (workplace / "list.yaml").write_text("- a\n", encoding="utf-8")
    (workplace / "text.yaml").write_text("arch\n", encoding="utf-8")
    answer = windtunnel(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "\x1b" not in answer.err


PLUGIN = """
from typing import Literal
from windtunnel.nn.component import ComponentConfig, Norm, register

class MyConfig(ComponentConfig):
    type: Literal["asked_twice"] = "asked_twice"

@register("norm")
class Mine(Norm[MyConfig]):
    Config = MyConfig
    def forward(self, x):
        return x
"""


def test_two_plugins_of_one_name_are_both_named(windtunnel: Command, workplace: Path) -> None:
    for version in ("v1", "v2"):
        (workplace / f"{version}.py").write_text(PLUGIN, encoding="utf-8")
        text = f"plugins: [{version}.py]\n{RUN}"
        (workplace / f"{version}.yaml").write_text(text, encoding="utf-8")
    answer = windtunnel("compare", "v1.yaml", "v2.yaml", "--out", "s", "--dry-run")
    assert answer.code == 2
    for word in (f"Mine of {workplace / 'v1.py'}", f"Mine of {workplace / 'v2.py'}",
                 "norm 'asked_twice' is registered twice", "give one another name"):  # fmt: skip
        assert word in answer.err
    assert "windtunnel_plugin_" not in answer.err


@pytest.mark.parametrize(
    ("text", "value"), [("10k", 1e4), ("1.5M", 1.5e6), ("2e6", 2e6), ("640", 640), ("1_000", 1e3)]
)
def test_amounts_take_units(text: str, value: float) -> None:
    assert amount(text) == value


@pytest.mark.parametrize("text", ["ten", "-3", "nan", "0", "10q"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget: .* is not a number above 0 such as 500k"):
        amount(text)


def test_a_budget_with_a_unit(windtunnel: Command) -> None:
    asked = ("compare", "run.yaml", "run.yaml", "--seeds", 1, "--out", "s", "--dry-run", "--json")
    plans = [windtunnel(*asked, "--budget", text) for text in ("1k", "1000")]
    assert [plan.code for plan in plans] == [0, 0], plans[0].err
    one, other = (json.loads(plan.out)["arms"] for plan in plans)
    assert [arm["config"] for arm in one] == [arm["config"] for arm in other]
    assert windtunnel(*asked, "--budget", "some").code == 2


def test_a_trace_that_no_memory_holds_is_refused(
    windtunnel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("nothing is built")

    monkeypatch.setattr(tracing, "free_memory_bytes", lambda: 2**30)
    monkeypatch.setattr(tracing, "build", never)
    answer = windtunnel("trace", "run.yaml", "--seq-len", 100_000_000)
    assert answer.code == 2
    assert "a batch of 2 × 100,000,000 tokens" in answer.err
    assert "1 GB are free; give a smaller --seq-len" in answer.err


MIXED = """\
arch:
  d_model: 32
  layers:
    - mixer: {type: attention, num_heads: 4, num_kv_heads: 2}
      mlp: {type: glu, d_ff: 64}
    - mixer: {type: attention, num_heads: 8, num_kv_heads: 2}
      mlp: {type: glu, d_ff: 64}
data: {source: ./corpus.txt, tokenizer: bytes}
train: {steps: 6, batch_size: 4, seq_len: 16}
"""


def test_no_width_is_a_multiple_of_heads(windtunnel: Command, workplace: Path) -> None:
    """Heads are 8 and 4 wide: no letter is theirs, and least of all 4·g."""
    (workplace / "mixed.yaml").write_text(MIXED, encoding="utf-8")
    answer = windtunnel("trace", "mixed.yaml", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)

    def axes(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = value.get("axes", [])
            return [*own, *(a for item in value.values() for a in axes(item))]
        return [a for item in value for a in axes(item)] if isinstance(value, list) else []

    names = set(axes(found["root"]))
    assert "d" in names
    assert not [name for name in names if name.endswith("·g") and name[0].isdigit()]
