"""Every verb, as a user types it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from windtunnel.cli.main import app
from windtunnel.cli.one_run import _gone_unless_it_began
from windtunnel.errors import RunError
from windtunnel.generate import SamplingConfig
from windtunnel.runs import RunFolder
from windtunnel.train.launch import open_trained
from windtunnel.train.writing import Writer

MISTAKES = """\
arch:
  d_model: 10
  layers:
    - mixer: {type: atention}
    - mixer: {type: attention, num_heads: 3}
      mpl: glu
train:
  lr: "3e-4"
  stepz: 3
"""


def test_check_prints_the_costs_and_allocates_nothing(windtunnel) -> None:
    answer = windtunnel("check", "run.yaml", "--json")
    tree = json.loads(answer.out)
    assert answer.code == 0
    assert [part["part"] for part in tree["parts"]] == ["embedding", "layers.0", "layers.1", "head"]
    assert tree["total"]["params"] == sum(part["params"] for part in tree["parts"])
    assert tree["memory_bytes"] == sum(tree["memory"].values()) > 0
    shown = windtunnel("check", "run.yaml")
    for word in ("embedding", "attention + glu", "head", "total", "peak", "6 steps", "cosine"):
        assert word in shown.out


def test_check_counts_any_sequence_length(windtunnel) -> None:
    short, long = (
        json.loads(windtunnel("check", "run.yaml", "--seq-len", n, "--json").out) for n in (16, 64)
    )
    assert long["total"]["decode_flops"] > short["total"]["decode_flops"]
    assert long["total"]["params"] == short["total"]["params"]


def test_five_mistakes_are_five_lines_with_their_places(windtunnel, workplace: Path) -> None:
    (workplace / "bad.yaml").write_text(MISTAKES, encoding="utf-8")
    before = sorted(workplace.iterdir())
    answer = windtunnel("check", "bad.yaml")
    assert answer.code == 2
    assert answer.out == ""
    found = answer.err.splitlines()
    expected = [
        "bad.yaml:4:21: arch.layers[0].mixer.type: unknown mixer 'atention'; did you mean ",
        "bad.yaml:5:14: arch.layers[1].mixer: num_heads 3 does not divide d_model 10; choose a ",
        "bad.yaml:6:7: arch.layers[1].mpl: unknown key; did you mean 'mlp'? (allowed: norm, ",
        "bad.yaml:8:7: train.lr: expected a number, not '3e-4' (without quotes)",
        "bad.yaml:9:3: train.stepz: unknown key; did you mean 'steps'? (allowed: ",
    ]
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(f"windtunnel: {start}")
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "missing.yaml"), "missing.yaml: No such file"),
        (("check", "."), "is a folder"),
        (("check", "run.yaml", "--set", "train.lr"), "is not an edit"),
        (("check", "run.yaml", "--set", "train.lr=fast"), "train.lr: expected a number"),
        (("check", "run.yaml", "--set", "arch.layers[3].mlp=glu"), "has 1 entries, none at 3"),
        (("check", "run.yaml", "--set", "arch.preset=lama"), "did you mean 'llama'?"),
        (("new", "x.yaml", "--preset", "gtp2"), "did you mean 'gpt2'?"),
        (("new", "run.yaml"), "exists already; nothing was written"),
        (("generate", "nothing", "x"), "no run 'nothing'"),
        (("runs", "show", "nothing"), "no run 'nothing'"),
        (("report", "."), "holds no study"),
        (("compare", "run.yaml", "--out", "c"), "at least 2 configs"),
        (("compare", "run.yaml", "run.yaml", "--out", "c", "--match", "token"), "'tokens'"),
        (("train", "run.yaml", "--set", "data.source=./no.txt"), "no.txt"),
        (("train", "run.yaml", "--set", "train.seq_len=100000"), "shorter than one batch"),
        (("train", "run.yaml", "--set", "train.device=cuda:7"), "cuda:7 is not here"),
        (("train", "run.yaml", "--out", "/proc/nowhere"), "/proc/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_clear_line(windtunnel, workplace: Path, arguments, message) -> None:
    answer = windtunnel(*arguments)
    assert answer.code in (1, 2)
    assert message in answer.err
    assert not (workplace / "c").exists()
    assert not (workplace / "runs").exists()


def test_new_writes_a_file_that_checks(windtunnel, workplace: Path) -> None:
    for preset in ("llama", "gpt2", "lstm"):
        assert windtunnel("new", f"{preset}.yaml", "--preset", preset).code == 0
        assert windtunnel("check", f"{preset}.yaml").code == 0
        text = (workplace / f"{preset}.yaml").read_text(encoding="utf-8")
        assert "# The highest learning rate." in text


def test_resolved_says_where_each_value_came_from(windtunnel) -> None:
    answer = windtunnel("check", "run.yaml", "--resolved", "--set", "train.lr=1e-3")
    lines = {line.split("#")[0].strip(): line.split("#")[1].strip() for line in
             answer.out.splitlines() if "#" in line}  # fmt: skip
    assert lines["lr: 0.001"] == "--set"
    assert lines["steps: 6"] == "run.yaml:12:16"
    assert lines["type: rmsnorm"] in ("run.yaml:8:13", "default")
    assert lines["head_dim: 8"] == "derived"
    assert lines["weight_decay: 0.1"] == "default"


def test_trace_shows_the_tree_with_named_shapes(windtunnel) -> None:
    tree = json.loads(windtunnel("trace", "run.yaml", "--json").out)
    assert tree["root"]["class"] == "Model"
    shown = windtunnel("trace", "run.yaml", "--depth", 2)
    assert "(b, t, d)" in shown.out
    assert "(b, t, V)" in shown.out


WANTED = """
    gpt2 gpt2-small gpt2-medium gpt2-large gpt2-xl llama llama2-7b llama3-8b mistral mixtral gemma
    gemma2 gemma3 grok qwen3 olmo2 gpt-neox phi deepseek performer-encoder performer-decoder
    performer-encoder-decoder transformer transformer-base transformer-big t5 bert rnn lstm gru
    mamba mamba2 griffin retnet rwkv deltanet jamba samba gpt_encoder mini_gpt
    rnn-small rnn-default rnn-large lstm-small lstm-default lstm-large
    gpt-small gpt-default gpt-large transformer-small transformer-default transformer-large
"""


def test_presets_and_schema_are_json(windtunnel) -> None:
    names = {row["name"] for row in json.loads(windtunnel("presets", "--json").out)}
    assert set(WANTED.split()) <= names
    assert "llama" in windtunnel("presets").out
    found = json.loads(windtunnel("presets", "Mistral", "--json").out)
    assert {"mistral", "mistral-7b", "mixtral"} == {row["name"] for row in found}
    published = next(row for row in found if row["name"] == "mistral-7b")
    assert published["params"] == 7_241_732_096
    assert (published["family"], published["size"]) == ("mistral", "published")
    nothing = windtunnel("presets", "llamma")
    assert nothing.code == 2
    assert "did you mean 'llama'?" in nothing.err
    schema = json.loads(windtunnel("schema").out)
    assert {"arch", "data", "train"} <= schema["properties"].keys()


def test_data_reports_the_corpus(windtunnel) -> None:
    report = json.loads(windtunnel("data", "run.yaml", "--json").out)
    assert report["vocab_size"] == 259
    assert report["train"]["bytes_per_token"] == pytest.approx(1.0)
    assert "bytes per token" in windtunnel("data", "run.yaml").out


def test_a_run_from_training_to_text(windtunnel) -> None:
    record = json.loads(windtunnel("train", "run.yaml", "--out", "out/a", "--json").out)
    assert record["status"] == "finished"
    assert record["final"]["loss"] < 5.6
    assert record["steps"] == 6
    greedy = [
        windtunnel("generate", "out/a", "the king", "-n", 8, "--greedy").out for _ in range(2)
    ]
    assert greedy[0] == greedy[1]
    assert greedy[0].startswith("the king")
    texts = json.loads(windtunnel("generate", "out/a", "the", "a", "-n", 4, "--json").out)
    assert [text["prompt"] for text in texts] == ["the", "a"]
    streamed = windtunnel("generate", "out/a", "the king", "-n", 8, "--greedy", "--stream").out
    assert streamed.rstrip("\n") == greedy[0].rstrip("\n")
    again = windtunnel("train", "run.yaml", "--out", "out/a")
    assert (again.code, "nothing to do" in again.err) == (0, True)
    changed = windtunnel("train", "run.yaml", "--out", "out/a", "--set", "train.lr=1")
    assert (changed.code, "another config" in changed.err) == (2, True)


def test_generate_with_beams_stop_strings_and_8_bit_weights(windtunnel) -> None:
    assert windtunnel("train", "run.yaml", "--out", "out/a").code == 0
    ask = ("generate", "out/a", "the king", "-n", 12)
    greedy = windtunnel(*ask, "--greedy").out
    assert windtunnel(*ask, "--beams", 1).out == greedy
    assert windtunnel(*ask, "--beams", 3, "--length-penalty", 1.0).code == 0
    text = greedy.removeprefix("the king").rstrip("\n")
    cut = windtunnel(*ask, "--greedy", "--stop", text[3:6]).out
    assert cut == f"the king{text[: text.index(text[3:6])]}\n"
    assert windtunnel(*ask, "--greedy", "--stop", text[3:6], "--stream").out == cut
    small = windtunnel(*ask, "--greedy", "--int8")
    assert small.code == 0
    assert "8-bit weights: validation loss" in small.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--length-penalty", 1.0), "no effect without --beams"),
        (("--beams", 2, "--stream"), "--stream and --beams"),
        (("--stop", ""), "a stop string is empty"),
        (("--beams", 4, "--top-k", 3), "--top-k has no effect with --beams"),
        (("--beams", 4, "--seed", 0), "--seed has no effect with --beams"),
        (
            ("--beams", 4, "--greedy", "--repetition-penalty", 2),
            "--greedy and --repetition-penalty have no effect with --beams",
        ),
        (("--greedy", "--temperature", 0.5), "--temperature has no effect with --greedy"),
        (("--greedy", "--top-k", 5), "--top-k has no effect where the most likely token is"),
        (("--temperature", 0, "--seed", 5), "--seed has no effect where the most likely"),
        (("--steps", 5), "--steps has no effect but on a run with the objective diffusion"),
    ],
)
def test_wishes_that_do_not_go_together(
    arguments: tuple[object, ...], message: str, windtunnel
) -> None:
    assert windtunnel("train", "run.yaml", "--out", "out/a").code == 0
    answer = windtunnel("generate", "out/a", "the", *arguments)
    assert answer.code == 2
    assert message in answer.err


def test_data_and_runs_that_are_not_there_are_mistakes(windtunnel, workplace: Path) -> None:
    (workplace / "empty.txt").touch()
    (workplace / "plain").mkdir()
    assert windtunnel("train", "run.yaml", "--out", "o1").code == 0
    train, data = ("train", "run.yaml", "--out", "x", "--set"), ("data", "run.yaml", "--set")
    pairs = "data.source={type: pairs, paths: p.jsonl, prompt: question}"
    (workplace / "p.jsonl").write_text('{"prompt": "a", "truth": "b"}\n', encoding="utf-8")
    frozen = "train.groups=[{match: 'embedding.*', freeze: true, lr: 2}]"
    for arguments, message in (
        ((*train, "data.source=./corps.txt"), "did you mean './corpus.txt'?"),
        ((*train, "data.source=./run.yaml"), "data.source: run.yaml: not a kind of file"),
        ((*train, "data.source=./empty.txt"), "data.source: the source is empty"),
        ((*train, "data.tokenizer={type: hf, path: ./nope}"), "data.tokenizer.path: ./nope: no"),
        ((*train, frozen), "lr of what is frozen"),
        ((*data, pairs), "no key 'question' (keys: prompt, truth); set `prompt`"),
        (("branch", "o1", "--step", 5), "no checkpoint of step 5"),
        (("generate", "plain", "abc"), "plain: is a folder, but not a run's: it has no run.json"),
        (("generate", "nowhere", "abc"), "no run 'nowhere'"),
    ):
        answer = windtunnel(*arguments)
        assert (answer.code, message in answer.err) == (2, True), answer.err
    assert not (workplace / "x").exists()


def test_a_finished_run_is_found_by_its_key(windtunnel) -> None:
    windtunnel("train", "run.yaml")
    assert "nothing to do" in windtunnel("train", "run.yaml").err
    (run,) = json.loads(windtunnel("runs", "list", "--json").out)
    assert run["status"] == "finished"
    assert "finished" in windtunnel("runs", "list").out
    assert windtunnel("runs", "show", run["key"][:8]).out.startswith("path")
    shown = json.loads(windtunnel("runs", "show", "small", "--json").out)
    assert shown["record"]["params"] == run["params"]
    (Path(run["path"]) / "events.jsonl").write_text("{\n{\n{\n")
    answer = windtunnel("runs", "show", "small")
    assert (answer.code, "no evaluations: " in answer.err) == (0, True)


def test_a_comparison_ends_with_a_verdict_and_a_page(
    windtunnel, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = (workplace / "run.yaml").read_text(encoding="utf-8").replace("small", "gru")
    other = other.replace("{type: attention, num_heads: 2}", "gru")
    (workplace / "other.yaml").write_text(other, encoding="utf-8")
    command = ("compare", "run.yaml", "other.yaml", "--seeds", 2, "--budget", 300, "--out", "c")
    plan = json.loads(windtunnel(*command, "--dry-run", "--json").out)
    assert len(plan["runs"]) == 4
    assert not (workplace / "c").exists()
    first = windtunnel(*command, "--json")
    result = json.loads(first.out)
    assert first.code == 0
    assert "4 runs, " in first.err
    for arm in result["arms"]:
        assert arm["loss"]["low"] <= arm["loss"]["mean"] <= arm["loss"]["high"]
        assert {"name", "params", "tokens", "delta", "p_value", "verdict"} <= arm.keys()
    assert next(arm["verdict"] for arm in result["arms"]) == "reference"
    page = (workplace / "c" / "report.html").read_text(encoding="utf-8")
    assert "<script src=" not in page
    assert "num_kv_heads: 2" in page  # resolved, not as it was written
    again = windtunnel(*command)
    assert "(4 of them finished already)" in again.err
    assert ("measuring speeds" in first.err, "measuring speeds" in again.err) == (True, False)
    assert "reference" in again.out
    assert json.loads(windtunnel("report", "c", "--json").out)["arms"] == result["arms"]
    (workplace / "runs").rename(workplace / "kept")
    lost = windtunnel("report", "c")
    assert (lost.code, "WINDTUNNEL_RUNS" in lost.err) == (1, True)
    monkeypatch.setenv("WINDTUNNEL_RUNS", "kept")
    assert json.loads(windtunnel("report", "c", "--json").out)["arms"] == result["arms"]
    monkeypatch.delenv("WINDTUNNEL_RUNS")
    (workplace / "kept").rename(workplace / "c" / "runs")
    assert json.loads(windtunnel("report", "c", "--json").out)["arms"] == result["arms"]
    (workplace / "c" / "runs").rename(workplace / "runs")
    taken = windtunnel("compare", "run.yaml", "other.yaml", "--seeds", 1, "--budget", 300,
                       "--out", "c")  # fmt: skip
    assert (taken.code, "holds another study" in taken.err) == (2, True)
    damaged = Path(next(iter(result["runs"].values()))) / "events.jsonl"
    damaged.write_text("{\n{\n{\n")
    report = windtunnel("report", "c", "--json")
    assert (report.code, json.loads(report.out)["arms"]) == (0, result["arms"])
    assert f"{damaged}:1: this line is damaged" in report.err
    assert "the curve of small, seed 0, is left out" in report.err


def test_a_runs_folder_that_cannot_be_written_leaves_nothing(windtunnel, workplace: Path) -> None:
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    (workplace / "twin.yaml").write_text(text.replace("small", "twin"), encoding="utf-8")
    (workplace / "file").touch()
    answer = windtunnel("compare", "run.yaml", "twin.yaml", "--seeds", 1, "--budget", 200,
                        "--out", "c", "--runs", "file/runs")  # fmt: skip
    assert (answer.code, "file/runs: cannot be" in answer.err) == (2, True)
    assert not (workplace / "c").exists()


def test_an_architecture_against_itself_is_undecided(windtunnel, workplace: Path) -> None:
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    (workplace / "twin.yaml").write_text(text.replace("small", "twin"), encoding="utf-8")
    answer = windtunnel("compare", "run.yaml", "twin.yaml", "--seeds", 2, "--budget", 200,
                        "--out", "c", "--json")  # fmt: skip
    twin = json.loads(answer.out)["arms"][1]
    assert (twin["name"], twin["verdict"], twin["delta"]["mean"]) == ("twin", "undecided", 0.0)
    assert "2 runs, " in answer.err


def test_every_verb_has_help_and_stands_in_the_reference() -> None:
    from windtunnel.cli.reference import render

    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == render(), (
        "run `python -m windtunnel.cli.reference > docs/cli.md`"
    )
    assert len(app.registered_commands) >= 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top-p", "0"), "top_p 0.0"),
        (("--min-p", "0"), "min_p 0.0"),
        (("--top-p", "-1"), "top_p -1.0: input should be greater than 0"),
        (("--repetition-penalty", "0"), "repetition_penalty 0.0: input should be greater than 0"),
        (("--repetition-penalty", "-1"), "repetition_penalty -1.0: input should be greater than 0"),
    ],
)
def test_sampling_out_of_range_is_a_usage_error(windtunnel, arguments, message) -> None:
    answer = windtunnel("generate", "nothing", "x", *arguments)
    assert (answer.code, message in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("arch.layers[0].mlp.ratio=.inf", "finite"),
        (f"train.steps={'9' * 5000}", "5,000 digits"),
        ("arch.layers[0].mixer.type=atention", "--set: arch.layers[0].mixer.type: unknown mixer"),
    ],
    ids=["infinite", "digits", "place"],
)
def test_an_odd_edit_is_one_clear_line(windtunnel, edit: str, message: str) -> None:
    answer = windtunnel("check", "run.yaml", "--set", edit)
    assert answer.code == 2
    assert message in answer.err


def test_edits_may_choose_the_preset(windtunnel) -> None:
    for edit in ("arch={preset: gpt2}", "arch.preset=gpt2"):
        resolved = windtunnel("check", "run.yaml", "--resolved", "--set", edit, "--set",
                              "arch.d_model=64")  # fmt: skip
        assert resolved.code == 0, resolved.err
        assert "d_model: 64" in resolved.out


def test_a_file_nested_too_deeply_is_told(windtunnel, workplace: Path) -> None:
    (workplace / "deep.yaml").write_text("arch: " + "[" * 3000 + "]" * 3000, encoding="utf-8")
    answer = windtunnel("check", "deep.yaml")
    assert (answer.code, "nested too deeply" in answer.err) == (2, True)


def test_markup_in_a_name_is_text(windtunnel) -> None:
    answer = windtunnel("check", "run.yaml", "--set", "arch.name='a[/b]'")
    assert answer.code == 0
    assert "a[/b]" in answer.out


def test_a_folder_that_is_no_run_is_left_alone(windtunnel, workplace: Path) -> None:
    (workplace / "mine").mkdir()
    answer = windtunnel("train", "run.yaml", "--out", "mine")
    assert (answer.code, "is not a run's folder" in answer.err) == (2, True)
    assert list((workplace / "mine").iterdir()) == []


def test_a_run_that_has_not_begun_takes_no_other_config(windtunnel, workplace: Path) -> None:
    windtunnel("train", "run.yaml", "--out", "k")
    for name in ("record.json", "events.jsonl"):
        (workplace / "k" / name).unlink()
    (workplace / "k" / "events.jsonl").touch()
    answer = windtunnel("train", "run.yaml", "--out", "k", "--resume", "--set", "train.lr=1e-4")
    assert (answer.code, "was made for another config" in answer.err) == (2, True)


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_a_folder_whose_run_never_began_is_made_anew(windtunnel, workplace: Path, flags) -> None:
    windtunnel("train", "run.yaml", "--out", "k")
    (workplace / "k" / "record.json").unlink()
    (workplace / "k" / "events.jsonl").write_bytes(b"")
    shutil.rmtree(workplace / "k" / "checkpoints")
    old = json.loads((workplace / "k" / "run.json").read_text())["key"]
    answer = windtunnel(
        "train", "run.yaml", "--out", "k", *flags, "--set", "train.lr=1e-4", "--json"
    )
    assert (answer.code, "never began; made anew" in answer.err) == (0, True)
    assert json.loads(answer.out)["status"] == "finished"
    assert json.loads((workplace / "k" / "run.json").read_text())["key"] != old
    assert "lr: 0.0001" in (workplace / "k" / "config.yaml").read_text()


def test_a_run_that_no_memory_holds_leaves_no_folder(windtunnel, workplace: Path) -> None:
    huge = ("train", "run.yaml", "--set", "arch.d_model=2000000000")
    for out in (("--out", "out/huge"), ("--runs", "store")):
        answer = windtunnel(*huge, *out)
        assert (answer.code, "no memory holds them" in answer.err) == (2, True), answer.err
    assert not (workplace / "out/huge").exists()
    assert not list((workplace / "store").glob("*/run.json"))


def test_a_folder_that_another_process_is_about_to_begin_stays(workplace: Path) -> None:
    folder = RunFolder.create(workplace / "k", key="k" * 64, name="k", config={})
    with pytest.raises(RunError, match="is held"), folder.lock(), _gone_unless_it_began(folder):
        raise RunError("the lock is held")
    assert folder.config_path.exists()
    with pytest.raises(RunError, match="cannot begin"), _gone_unless_it_began(folder):
        raise RunError("it cannot begin")
    assert not folder.path.exists()


def test_the_average_of_the_weights_writes_and_is_exported(windtunnel) -> None:
    keys = ("--set", "train.ema={decay: 0.9999, warmup: false}", "--set", "train.lr=0.3")
    assert windtunnel("train", "run.yaml", "--out", "out/a", *keys).code == 0
    ask = ("generate", "out/a", "the king", "-n", 12, "--greedy")
    plain, averaged = windtunnel(*ask), windtunnel(*ask, "--ema")
    assert (plain.code, averaged.code) == (0, 0)
    assert plain.out != averaged.out
    trained = open_trained(RunFolder.open(Path("out/a")), ema=True)
    writer = Writer(trained.model, trained.tokenizer, trained.config)
    greedy = SamplingConfig(temperature=0.0)
    (tokens,) = writer.write(writer.encode(["the king"]), max_new_tokens=12, sampling=greedy)
    text = trained.tokenizer.decode_bytes(tokens).decode("utf-8", errors="replace")
    assert averaged.out == f"the king{text}\n"
    assert windtunnel("export", "hf", "out/a", "out/hf", "--ema").code == 0
    exported = load_file("out/hf/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(exported, trained.model.state_dict()["embedding.weight"])
    assert windtunnel("train", "run.yaml", "--out", "out/b").code == 0
    for verb in (("generate", "out/b", "a"), ("export", "hf", "out/b", "out/hf2")):
        answer = windtunnel(*verb, "--ema")
        assert (answer.code, "keeps no average of its weights" in answer.err) == (2, True)
    assert not Path("out/hf2").exists()


def test_a_run_that_diverges_says_so_and_fails(windtunnel) -> None:
    answer = windtunnel("train", "run.yaml", "--out", "d", "--set", "train.lr=1e30", "--set",
                        "train.steps=40", "--set", "train.clip=~", "--json")  # fmt: skip
    assert answer.code == 1
    assert json.loads(answer.out)["status"] == "diverged"
    assert "windtunnel generate" not in answer.err
