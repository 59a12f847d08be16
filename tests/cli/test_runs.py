"""``windtunnel runs``: list, diff, tag, prune, rebuild."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Command


def test_runs_are_compared_tagged_listed_and_pruned(windtunnel: Command, workplace: Path) -> None:
    for out, edits in (("a", ()), ("b", ("--set", "train.lr=1e-3", "--set", "arch.name=other"))):
        assert windtunnel("train", "run.yaml", *edits, "--out", f"runs/{out}").code == 0
    found = json.loads(windtunnel("runs", "diff", "small", "other", "--json").out)
    assert ["train.lr", 0.003, 0.001] in found["config"]
    loss = found["figures"]["loss"]
    assert loss["difference"] == pytest.approx(loss["second"] - loss["first"])
    assert {"params", "tokens", "bits_per_byte", "train_seconds"} <= found["figures"].keys()
    text = windtunnel("runs", "diff", "a", "b").out
    assert "train.lr" in text
    assert f"{loss['first']:,.4f}" in text
    assert "config: no difference" in windtunnel("runs", "diff", "a", "a").out

    tagged = windtunnel("runs", "tag", "small", "base", "paper", "--json")
    assert json.loads(tagged.out)["tags"] == ["base", "paper"]
    assert windtunnel("runs", "tag", "small", "paper", "--remove").out == "a: base\n"
    (run,) = json.loads(windtunnel("runs", "list", "--tag", "base", "--json").out)
    assert (run["name"], run["tags"]) == ("small", ["base"])
    assert "base" in windtunnel("runs", "list").out
    (run,) = json.loads(windtunnel("runs", "list", "--where", "train.lr=1e-3", "--json").out)
    assert run["name"] == "other"
    lines = windtunnel("runs", "list", "--sort=-loss", "--status", "finished").out.splitlines()
    worst = "b" if loss["difference"] > 0 else "a"
    assert lines[1].startswith(worst)
    assert "none is asked for" in windtunnel("runs", "list", "--status", "failed").out

    prune = ("runs", "prune", "--what", "unused", "--min-age", "0")
    shown = json.loads(windtunnel(*prune, "--json").out)
    assert [removal["run"] for removal in shown["removals"]] == ["b"]
    assert not shown["deleted"]
    answer = windtunnel(*prune)
    assert "--yes deletes" in answer.out
    assert "stays: a has the tag base" in answer.err
    assert (workplace / "runs" / "b").is_dir()
    assert "deleted: " in windtunnel(*prune, "--yes").out
    assert not (workplace / "runs" / "b").exists()
    assert json.loads(windtunnel("runs", "rebuild", "--json").out) == {"runs": 1}
    assert "nothing to delete" in windtunnel(*prune).out


def test_a_comparison_protects_its_runs(windtunnel: Command, workplace: Path) -> None:
    text = (workplace / "run.yaml").read_text().replace("small", "other")
    (workplace / "other.yaml").write_text(text.replace("ratio: 2", "ratio: 3"))
    answer = windtunnel(
        "compare", "run.yaml", "other.yaml", "--seeds", 1, "--budget", 128, "--out", "study"
    )
    assert answer.code == 0
    prune = ("runs", "prune", "--what", "unused", "--min-age", "0", "--json")
    shown = json.loads(windtunnel(*prune).out)
    assert shown["removals"] == []
    assert all("belongs to the study" in why for why in shown["kept"].values())
    (workplace / "study").rename(workplace / "moved")
    assert len(json.loads(windtunnel(*prune).out)["removals"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--sort", "los"), "did you mean 'loss'?"),
        (("list", "--where", "loss"), "not a condition"),
        (("tag", "nothing", "x"), "no run 'nothing'"),
        (("diff", "nothing", "x"), "no run 'nothing'"),
        (("prune", "--what", "all"), "--what: 'all'"),
    ],
)
def test_a_mistake_is_one_message(
    windtunnel: Command, arguments: tuple[str, ...], message: str
) -> None:
    answer = windtunnel("runs", *arguments)
    assert (answer.code, message in answer.err) == (2, True)


@pytest.mark.parametrize("verb", ["list", "diff", "tag", "prune", "rebuild"])
def test_the_verbs_need_no_torch(verb: str, tmp_path: Path) -> None:
    words = {"list": [], "diff": ["a", "b"], "tag": ["a", "x"], "prune": [], "rebuild": []}[verb]
    script = (
        "import sys; from windtunnel.cli.main import app\n"
        "try: app(sys.argv[1:], standalone_mode=False)\n"
        "except Exception as error: print(type(error).__name__, file=sys.stderr)\n"
        "sys.exit('torch' in sys.modules)"
    )
    arguments = ["runs", verb, *words, "--runs", str(tmp_path)]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, timeout=60)


def test_a_run_outside_the_store_is_meant_by_its_folder(
    windtunnel: Command, workplace: Path
) -> None:
    for out in ("o1", "o2"):
        assert windtunnel("train", "run.yaml", "--out", out).code == 0
    assert windtunnel("runs", "show", "o1").out == windtunnel("runs", "show", "./o1").out
    assert "config: no difference" in windtunnel("runs", "diff", "o1", "o2").out
    more = ("--set", "train.steps=8")
    assert windtunnel("branch", "o1", *more, "--out", "longer").code == 0
    assert windtunnel("train", "run.yaml", "--init", "o1", *more, "--out", "warm").code == 0
    (workplace / "o1" / "config.yaml").unlink()
    answer = windtunnel("runs", "show", "o1")
    assert (answer.code, "no config: o1/config.yaml: cannot be read" in answer.err) == (0, True)
    deeper = ("--set", "arch.layers[0].repeat=3", "--out", "deeper")
    found = windtunnel("branch", "o2", "--set", "train.steps=8", *deeper)
    assert (found.code, "layers: 2 → 3 (layers[2] is new)" in found.err) == (2, True)
    assert windtunnel("branch", "o2", "--set", "train.steps=8", *deeper, "--lenient").code == 0
    rows = json.loads(windtunnel("runs", "diff", "o2", "deeper", "--json").out)["config"]
    assert [row[:2] for row in rows if row[0].startswith("arch.layers[0]")]
