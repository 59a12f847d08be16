"""A user's own mixer: written, checked, trained, resumed, generated from."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.apart import components_apart, forget_plugins
from tests.conftest import Command
from torch import Tensor

from windtunnel.arch import build, resolve
from windtunnel.cli.own_mixer import STARTS, render_mixer
from windtunnel.errors import UsageError
from windtunnel.nn.component import Scope, Span
from windtunnel.nn.initialize import initialize
from windtunnel.nn.mixers.attention import Attention, AttentionConfig
from windtunnel.nn.mixers.softmax_attention import SoftmaxAttention
from windtunnel.nn.positions.alibi import alibi_slopes
from windtunnel.train.run_config import load_run

OWN = "mixer: {type: attention, num_heads: 2}", "mixer: my_mixer"
READ = "        values = self.value(x).to(state.average.dtype)\n"
MADE = "        self.value = Linear(d, n, bias=False)\n"
SCALED = "self.value.register_forward_hook(lambda module, args, y: y * s)"


def reading(*lines: str) -> tuple[str, str]:
    """An edit of the new mixer: lines before its extend reads x, t tokens long."""
    return READ, "".join(f"        {line}\n" for line in ("t = x.shape[1]", *lines)) + READ


def making(*lines: str) -> tuple[str, str]:
    """An edit of the new mixer: lines in its __init__."""
    return MADE, MADE + "".join(f"        {line}\n" for line in lines)


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


@pytest.fixture
def gated(windtunnel: Command, workplace: Path) -> Path:
    """The file of an attention of one's own, and a run file, own.yaml, that uses it."""
    assert windtunnel("new", "mixer", "gated", "--from", "attention").code == 0
    file = workplace / "gated.py"
    text = (workplace / "run.yaml").read_text(encoding="utf-8")
    text = text.replace(OWN[0], "mixer: {type: gated, gate: head, num_heads: 2, window: 12}")
    text = "plugins: [gated.py]\n" + text.replace("name: small", "name: gated")
    (workplace / "own.yaml").write_text(text, encoding="utf-8")
    return file


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
    forget_plugins()


def test_a_new_mixer_keeps_every_contract(windtunnel: Command, own: Path) -> None:
    answer = windtunnel("check", "--contracts", own.name)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        f"mixer my_mixer({knob}): 16 contracts hold" for knob in ("", "d_hidden=24", "d_hidden=1")
    ]
    tree = json.loads(windtunnel("check", "--contracts", own.name, "--json").out)["contracts"]
    assert tree["hold"] is True
    assert [(row["contracts"], row["passed"], row["failures"]) for row in tree["examples"]] == [
        (16, 16, [])
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
        (*reading("if t > 32: x = x + torch.roll(x, -1, 1)"), "long",
         "editing token 1 of 199 on: off by"),
        (*reading("if t > 64: x = torch.cat([x[:, :64], 2 * x[:, 64:]], 1)"), "long",
         "extend of 199 tokens cut at (1, 2, 66): off by"),
        ("span.real if span.padded else None",
         "span.real if span.padded and x.shape[1] < 64 else None", "long",
         "pads get a gradient of"),
        (*reading("if self.training: x = x - x.mean(1, keepdim=True)"), "training",
         "in training, editing token 1 on: off by"),
        (*reading("if self.training and t > 8: x = 2 * x"), "training",
         "in training, extend of 11 tokens cut at (1, 2, 7, 8): off by"),
        (*reading("if self.training: x = x + torch.randn_like(x)"), "training",
         "in training, the output is random, without a knob named dropout or noise"),
        (*reading("if self.training: x.mul_(0.5)"), "training",
         "in training, the input was changed"),
        (*reading("if self.training: self.n = getattr(self, 'n', 0) + 1",
                  "x = x + getattr(self, 'n', 0)"), "saved",
         "training changed something that is not in the state_dict"),
        (*making("s = float(torch.randn(()))", SCALED), "meta",
         "__init__ cannot run on torch's meta device"),
        (*making("s = torch.initial_seed() + 1.0", SCALED), "seed",
         "the output depends on torch's random state while it is built"),
        (*making("self.table = torch.ones(n)"), "meta", "table is a plain tensor"),
        (*making("self.register_buffer('seen', torch.ones(n), persistent=False)"), "meta",
         "seen has no values: give them in `buffer_values`"),
        (*reading("x.mul_(0.5)"), "shape", "the input was changed"),
        (*reading("x.mul_(0.5)"), "padding", "the input was changed"),
        (*reading("raise SystemExit(3)"), "shape", "SystemExit: 3"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_component_and_contract(
    windtunnel: Command, own: Path, old: str, new: str, contract: str, message: str
) -> None:
    edit(own, old, new)
    answer = windtunnel("check", "--contracts", own.name)
    assert (answer.code, answer.err) == (1, "")
    line = rf"^  mixer my_mixer\(\): (\w+, )*{contract}(, \w+)*: {re.escape(message)}"
    assert re.search(line, answer.out, re.MULTILINE), answer.out
    forget_plugins()
    tree = json.loads(windtunnel("check", "--contracts", own.name, "--json").out)["contracts"]
    assert tree["hold"] is False
    failures = tree["examples"][0]["failures"]
    assert any(f["contract"] == contract and message in f["message"] for f in failures)


def test_a_buffer_without_values_is_told_once_with_the_lines_that_give_them(
    windtunnel: Command, own: Path
) -> None:
    edit(own, *making("self.register_buffer('seen', torch.ones(3))"))
    answer = windtunnel("check", "--contracts", own.name)
    assert (answer.code, answer.out.count("['seen']")) == (1, 1)
    assert "(and in 2 more examples)" in answer.out
    told = answer.out.partition("as in `")[2].partition("`")[0]
    edit(own, "    def initial_state", f"    {told}\n\n    def initial_state")
    answer = windtunnel("check", "--contracts", own.name)
    assert (answer.code, answer.out.count(": 16 contracts hold")) == (0, 3)


def test_what_a_plugin_prints_is_no_part_of_the_answer(windtunnel: Command, own: Path) -> None:
    edit(own, READ, "        print('reading')\n" + READ)
    own.write_text(own.read_text(encoding="utf-8") + "\nprint('loading')\n", encoding="utf-8")
    for arguments in (("--contracts", own.name), ("own.yaml",)):
        forget_plugins()
        answer = windtunnel("check", *arguments, "--json")
        assert (answer.code, "loading" in answer.err) == (0, True)
        json.loads(answer.out)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (*making("self.s = float(torch.rand(()))"),
         "layers[0]: mixer my_mixer cannot be built: RuntimeError: Tensor.item() cannot be called"),
        ('return {"decay": uniform(4.0)}', "return {}",
         "layers.0.mixer cannot be initialized: AssertionError: layers.0.mixer: no init for"),
        (*making("self.register_buffer('seen', torch.ones(n))"),
         "layers.0.mixer cannot be initialized: AssertionError: layers.0.mixer: no values for"),
    ],
)  # fmt: skip
def test_a_mixer_that_cannot_be_built_is_a_mistake(
    windtunnel: Command, own: Path, old: str, new: str, message: str
) -> None:
    edit(own, old, new)
    answer = windtunnel("train", "own.yaml", "--out", "run")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines()[-1].startswith(f"windtunnel: {message}")
    assert "Traceback" not in answer.err


def test_contracts_and_costs_in_one_call(windtunnel: Command, own: Path) -> None:
    answer = windtunnel("check", "own.yaml", "--contracts", own.name, "--json")
    tree = json.loads(answer.out)
    assert (answer.code, tree["contracts"]["hold"]) == (0, True)
    assert tree["parts"][1]["kind"] == "my_mixer + glu"
    assert "16 contracts hold" in windtunnel("check", "own.yaml", "--contracts", own.name).out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "empty.py: no such file"),
        ("x = 1\n", "empty.py: registers no component"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def\n", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)\n", "empty.py: SystemExit: 3"),
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
        (("new", "mixer", "mine", "--from", "atention"),
         "begins from 'atention'; did you mean 'attention'? (allowed: average, attention)"),
        (("new", "a.yaml", "--from", "attention"), "--from is for a mixer"),
        (("new", "a.yaml", "mine"), "unexpected 'mine'"),
        (("new", "a.yaml", "--out", "."), "--out is for a mixer"),
        (("check",), "missing FILE"),
        (("check", "--contracts", "x.py", "--seq-len", "3"), "missing FILE"),
        (("check", "run.yaml", "--contracts", "x.py", "--resolved"), "leave out --contracts"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
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


def test_an_attention_of_ones_own_keeps_every_contract(windtunnel: Command, gated: Path) -> None:
    answer = windtunnel("check", "--contracts", gated.name)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert len(lines) == 4
    assert all(line.endswith(": 16 contracts hold") for line in lines)
    assert lines[0] == "mixer gated(num_heads=2): 16 contracts hold"
    assert "gate=head" in lines[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("            + linear_cost(scope.d_model, self.gates, bias=False)\n", "",
         "cost: parameters: predicted"),
        ("Cost(activation_values=self.gates + read)", "Cost()", "kept: keeps"),
        ("y * torch.sigmoid(gate)", "y * torch.sigmoid(gate.mean(2, keepdim=True))",
         "causality: editing token 1 on"),
    ],
)  # fmt: skip
def test_a_fault_of_an_attention_is_told(
    windtunnel: Command, gated: Path, old: str, new: str, message: str
) -> None:
    edit(gated, old, new)
    answer = windtunnel("check", "--contracts", gated.name)
    assert (answer.code, answer.err) == (1, "")
    assert f"  mixer gated(num_heads=2): {message}" in answer.out


def test_a_part_without_a_cost_is_refused(windtunnel: Command, gated: Path) -> None:
    text = gated.read_text(encoding="utf-8")
    start, end = text.index("    def cost("), text.index('@register("mixer")')
    gated.write_text(text[:start] + text[end:], encoding="utf-8")
    for arguments in (("check", "own.yaml"), ("check", "--contracts", gated.name)):
        answer = windtunnel(*arguments)
        assert (answer.code, answer.out) == (2, "")
        assert "GatedMixer has an __init__ of its own and GatedMixerConfig no cost" in answer.err
        assert len(answer.err.splitlines()) == 1


def test_an_attention_of_ones_own_trains_is_compared_and_writes_text(
    windtunnel: Command, gated: Path
) -> None:
    assert train(windtunnel, "whole")["status"] == "finished"
    forget_plugins()
    text = windtunnel("generate", "whole", "the king", "-n", 8, "--greedy")
    assert (text.code, text.out.startswith("the king")) == (0, True)
    forget_plugins()
    answer = windtunnel(
        "compare", "run.yaml", "own.yaml", "--seeds", 2, "--match", "tokens", "--budget", 300,
        "--out", "study", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    arms = json.loads(answer.out)["arms"]
    assert [arm["name"] for arm in arms] == ["small", "gated"]


def test_tokens_one_by_one_give_the_logits_of_the_whole(gated: Path) -> None:
    architecture = resolve(load_run(Path("own.yaml")).config.arch, 256)
    model = build(architecture).double().eval()
    initialize(model, 0)
    tokens = torch.randint(256, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, state, parts = model(tokens), model.initial_state(2), []
        for at in range(30):
            logits, state = model.extend(tokens[:, at : at + 1], state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_what_a_mixer_begins_from(windtunnel: Command, gated: Path) -> None:
    assert gated.read_text(encoding="utf-8") == render_mixer("gated", "attention")
    assert windtunnel("new", "mixer", "mine", "--from", "average").code == 0
    assert gated.with_name("mine.py").read_text(encoding="utf-8") == render_mixer("mine")


def test_an_unknown_start_names_the_nearest() -> None:
    assert set(STARTS) == {"average", "attention"}
    assert render_mixer("mine") == render_mixer("mine", "average")
    with pytest.raises(UsageError, match="did you mean 'attention'\\? \\(allowed: average, att"):
        render_mixer("mine", "atention")


class Sloped(SoftmaxAttention[AttentionConfig]):
    """ALiBi, as scores of one's own."""

    Config = AttentionConfig

    def scores(
        self, seen: Tensor, q_positions: Tensor, k_positions: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        mask, factor = super().scores(seen, q_positions, k_positions, dtype)
        distance = (q_positions[:, None, :, None] - k_positions[:, None, None, :]).abs()
        slopes = torch.tensor(alibi_slopes(2))[:, None, None]
        return (-slopes * distance).to(dtype).masked_fill(~mask, float("-inf")), factor


@pytest.mark.parametrize("window", [None, 5])
def test_scores_of_ones_own_are_used_wherever_attention_reads(window: int | None) -> None:
    scope, t = Scope(d_model=16), 300
    base = AttentionConfig(num_heads=2, window=window)
    own = Sloped(base.replace(position={"type": "none"}).resolve(scope), scope)
    other = Attention(base.replace(position={"type": "alibi"}).resolve(scope), scope)
    plain = Attention(base.replace(position={"type": "none"}).resolve(scope), scope)
    for module in (own, other, plain):
        initialize(module, 0)
    x = torch.randn(2, t, 16, generator=torch.Generator().manual_seed(1))
    real = torch.rand(2, t, generator=torch.Generator().manual_seed(2)) > 0.1
    for span in (Span.of(t), Span.of_real(real)):
        plain(x, span)  # the span's masks are shared between layers that are alike, not with this
        torch.testing.assert_close(own(x, span)[real], other(x, span)[real])
    states = own.initial_state(2), other.initial_state(2)
    for start, end in ((0, 7), (7, 8), (8, 11)):
        span = Span.of(end - start, start=start)
        found, first = own.extend(x[:, start:end], states[0], span)
        expected, second = other.extend(x[:, start:end], states[1], span)
        torch.testing.assert_close(found, expected)
        states = first, second
    assert not torch.allclose(own(x, Span.of(t)), plain(x, Span.of(t)), atol=1e-3)
