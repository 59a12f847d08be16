"""Runs in lm-evaluation-harness: the same figures as ``evaluate`` gives, and no network."""

import builtins
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import saved
from tests.conftest import Command

from windtunnel.data.tokenizers.bpe import BpeTokenizer
from windtunnel.errors import UsageError
from windtunnel.interop.hf.load import create_imported_run, read_pretrained
from windtunnel.interop.hf.tokenizer import tokenizer_files
from windtunnel.interop.lm_eval import HarnessAnswers, harness_model, read_settings
from windtunnel.train.launch import open_trained

pytest.importorskip("lm_eval")

ITEMS = [
    {"prompt": "the king", "choices": [" speaks", " never", " qx"], "answer": n % 3}
    for n in range(3)
] + [
    {"prompt": "a queen sleeps and", "choices": [" never", " to rest", " xxx"], "answer": 0},
    {"prompt": "the", "choices": [" king.", " queen speaks", " speaks the"], "answer": 1},
]
TEXTS = ["the king speaks and the queen never sleeps.", "to rest", "a king and a queen"]
HARNESS = """\
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
from windtunnel.interop.lm_eval import harness_model

folder, run = sys.argv[1:]
manager = TaskManager(include_path=folder, include_defaults=False)
names = ["local_choice", "local_cloze", "local_text", "local_written"]
found = lm_eval.simple_evaluate(
    model=harness_model(run, device="cpu", batch_size=3), tasks=names, task_manager=manager,
    bootstrap_iters=0,
)
with open(f"{folder}/found.json", "w") as file:
    json.dump({"results": found["results"], "samples": {
        name: [[one["doc"], one["resps"]] for one in rows]
        for name, rows in found["samples"].items()
    }}, file)
"""
SHARED = """\
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{file}.jsonl}}}}
test_split: test
target_delimiter: ""
"""
TASKS = {
    "local_choice": """\
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "local_cloze": """\
output_type: loglikelihood
doc_to_text: "{{prompt}}"
doc_to_target: "{{choices[answer]}}"
metric_list: [{metric: acc}]
""",
    "local_text": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "local_written": """\
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=one if isinstance(one, tuple) else (one,)) for one in arguments]


@pytest.fixture
def run(workplace: Path, windtunnel: Command) -> Path:
    sets = ("--set", "train.steps=40", "--set", "train.lr=1e-2")
    answer = windtunnel("train", "run.yaml", "--out", "out/first", *sets)
    assert answer.code == 0, answer.err
    return workplace / "out" / "first"


def test_the_harness_gives_the_figures_of_evaluate(run: Path, windtunnel: Command) -> None:
    """Its tasks read files of ours, in a process of its own, without a network."""
    folder = run.parents[1] / "harness"
    folder.mkdir()
    lines = {"items": ITEMS, "texts": [{"text": text} for text in TEXTS]}
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        shared = SHARED.format(folder=folder, file="texts" if name == "local_text" else "items")
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{shared}{text}")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"),
               "LM_HARNESS_CACHE_PATH": str(folder / "cache"), "NLTK_DATA": "."}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(folder), str(run)],
        env={**os.environ, **offline}, cwd=folder, timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "found.json").read_text())
    results = found["results"]

    task = folder / "items.jsonl"
    out = folder / "answers.jsonl"
    answer = windtunnel("evaluate", run, "--task", task, "--out", out, "--json", "--device", "cpu")
    assert answer.code == 0, answer.err
    measures = json.loads(answer.out)["tasks"][0]["measures"]
    mean = {name: rows[0]["mean"] for name, rows in measures.items()}
    assert results["local_choice"]["acc,none"] == pytest.approx(mean["accuracy"], abs=1e-4)
    assert results["local_choice"]["acc_norm,none"] == pytest.approx(
        mean["accuracy_per_byte"], abs=1e-4
    )
    ours = [json.loads(line) for line in out.read_text().splitlines()]
    samples = found["samples"]
    for mine, (_, answers), (_, right) in zip(
        ours, samples["local_choice"], samples["local_cloze"], strict=True
    ):
        theirs = [float(one[0][0]) for one in answers]
        assert theirs == pytest.approx(mine["log_probabilities"], abs=1e-4)
        total, greedy = right[0][0]
        assert float(total) == pytest.approx(mine["log_probabilities"][mine["answer"]], abs=1e-4)
        assert str(greedy) == str(mine["greedy"][mine["answer"]])
    trained = open_trained(_folder(run))
    nats = sum(HarnessAnswers(trained).loglikelihood_rolling(requests(*TEXTS)))
    size = sum(len(text.encode()) for text in TEXTS)
    assert results["local_text"]["bits_per_byte,none"] == pytest.approx(
        -nats / size / math.log(2), abs=1e-4
    )
    settings = {"until": ["."], "max_gen_toks": 6, "do_sample": False}
    asked = requests(*((doc["prompt"], settings) for doc, _ in samples["local_written"]))
    theirs = [answers[0][0] for _, answers in samples["local_written"]]
    assert HarnessAnswers(trained).generate_until(asked) == theirs
    assert any(theirs)


def _folder(path: Path) -> Any:
    from windtunnel.runs import RunFolder

    return RunFolder.open(path)


def test_a_whole_text_is_scored_in_windows(run: Path) -> None:
    """Each token once, in windows as long as the rows of the training."""
    trained = open_trained(_folder(run))
    answers = HarnessAnswers(trained, batch_size=2)
    text = TEXTS[0]
    ids = [trained.tokenizer.bos, *trained.tokenizer.encode(text)]
    length, total = trained.config.train.seq_len, 0.0
    for first in range(1, len(ids), length):
        end = min(len(ids), first + length)
        piece = torch.tensor([ids[max(0, end - length - 1) : end]])
        with torch.no_grad():
            spread = trained.model(piece[:, :-1]).double().log_softmax(-1)
        found = spread.gather(2, piece[:, 1:, None])[0, :, 0]
        total += float(found[-(end - first) :].sum())
    assert len(ids) > 2 * length
    assert answers.loglikelihood_rolling(requests(text, "a")) == [
        pytest.approx(total, abs=1e-4),
        pytest.approx(answers.loglikelihood(requests(("", "a")))[0][0], abs=1e-6),
    ]


def test_what_is_written_is_greedy_or_drawn_and_ends_where_asked(run: Path) -> None:
    answers = HarnessAnswers(open_trained(_folder(run)), batch_size=2)
    greedy = {"until": ["q"], "max_gen_toks": 8}
    texts = answers.generate_until(
        requests(("the", greedy), ("a king", {**greedy, "max_gen_toks": 3}), ("to", greedy))
    )
    assert [len(text) <= n for text, n in zip(texts, (8, 3, 8), strict=True)] == [True] * 3
    assert not any("q" in text for text in texts)
    for context, text in (("the", texts[0]), ("to", texts[2])):
        if len(text) == 8:  # not stopped: what greedy decoding writes is the most likely
            assert answers.loglikelihood(requests((context, text)))[0][1]
    whole = answers.generate_until(requests(("the", {"until": [], "max_gen_toks": 8})))[0]
    first = whole[3]
    stopped = answers.generate_until(requests(("the", {"until": first, "max_gen_toks": 8})))[0]
    assert stopped == whole[: whole.index(first)]
    hot = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 3.0}
    drawn = [answers.generate_until(requests(("the", hot)))[0] for _ in range(2)]
    assert drawn[0] == drawn[1], "a seed decides"
    other = HarnessAnswers(answers.trained, seed=1).generate_until(requests(("the", hot)))[0]
    assert other != drawn[0]


def test_settings_are_those_of_the_harness() -> None:
    until, length, sampling = read_settings({})
    assert (until, length, sampling.greedy) == ((), 256, True)
    assert read_settings({"until": "\n", "max_new_tokens": 9})[:2] == (("\n",), 9)
    assert read_settings({"do_sample": True})[2].temperature == 1.0
    assert read_settings({"temperature": 0.5})[2].temperature == 0.5
    assert read_settings({"temperature": 0.5, "do_sample": False})[2].greedy
    drawn = read_settings({"temperature": 0.5, "top_p": 0.9, "top_k": 3})[2]
    assert (drawn.top_p, drawn.top_k) == (0.9, 3)
    with pytest.raises(UsageError, match="'num_beams'"):
        read_settings({"num_beams": 4})
    with pytest.raises(UsageError, match="'temprature'; did you mean 'temperature'"):
        read_settings({"temprature": 1})
    with pytest.raises(UsageError, match="top_p"):
        read_settings({"temperature": 0.5, "top_p": 2.0})


def test_learned_positions_cut_contexts(run: Path, windtunnel: Command, caplog: Any) -> None:
    learned = ("--set", "arch.embedding.position=learned", "--set", "train.steps=2")
    assert windtunnel("train", "run.yaml", "--out", "out/short", *learned).code == 0
    answers = HarnessAnswers(open_trained(_folder(Path("out/short"))))
    context = "the king never speaks and the queen sleeps"
    found = answers.loglikelihood(requests((context, " to rest")))[0][0]
    assert found == pytest.approx(
        answers.loglikelihood(requests((context[-20:], " to rest")))[0][0], abs=1
    )
    assert np.isfinite(found)
    assert "1 of 1 contexts lost their first tokens" in caplog.text
    assert len(answers.loglikelihood_rolling(requests(context))) == 1
    written = answers.generate_until(requests((context, {"max_gen_toks": 10})))
    assert len(written) == 1
    with pytest.raises(UsageError, match="positions end at 32; set max_gen_toks lower"):
        answers.generate_until(requests((context, {"max_gen_toks": 32})))
    with pytest.raises(UsageError, match=r"request 1 \('xxx.*too long for the 32"):
        answers.loglikelihood(requests((context, "x" * 33)))


@pytest.fixture
def imported(tmp_path: Path) -> tuple[Path, Any]:
    """A small Llama of transformers with a tokenizer, and its run."""
    tokenizer = BpeTokenizer.train([" ".join(TEXTS) + "\n" for _ in range(9)], 268)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=24, vocab_size=268, bos_token_id=0,
        eos_token_id=1, pad_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    path = Path(saved(transformers.AutoModelForCausalLM.from_config(config), tmp_path / "theirs"))
    for name, text in (tokenizer_files(tokenizer) or {}).items():
        (path / name).write_text(text, encoding="utf-8")
    return path, create_imported_run(read_pretrained(str(path)), str(path), runs=tmp_path / "runs")


def test_an_imported_model_answers_as_the_harness_has_it_answer(
    imported: tuple[Path, Any],
) -> None:
    """Against the harness's own model for transformers, its texts begun with bos as ours are."""
    from lm_eval.models.huggingface import HFLM

    path, run = imported
    theirs = HFLM(
        transformers.AutoModelForCausalLM.from_pretrained(path),
        tokenizer=transformers.AutoTokenizer.from_pretrained(path),
        device="cpu", batch_size=2, max_length=24,
    )  # fmt: skip
    ours = harness_model(run.path, device="cpu", batch_size=2)
    assert ours.trained.config.train.seq_len == 24, "of the architecture, not of a recipe"
    pairs = [("the king", " speaks"), ("the king", " never"), ("", "to rest"), ("a queen", " qx z")]
    begun = [(context and f"<|bos|>{context}", text) for context, text in pairs]
    wanted = theirs.loglikelihood(requests(*begun), disable_tqdm=True)
    found = ours.loglikelihood(requests(*pairs))
    assert [one[0] for one in found] == pytest.approx([one[0] for one in wanted], abs=1e-4)
    assert [one[1] for one in found] == [bool(one[1]) for one in wanted]
    long = " ".join(TEXTS * 2)
    rolling = theirs.loglikelihood_rolling(requests(*TEXTS, long), disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests(*TEXTS, long)) == pytest.approx(rolling, abs=1e-3)
    settings = {"until": ["q"], "max_gen_toks": 6, "do_sample": False}
    texts = theirs.generate_until(
        requests(*((f"<|bos|>{text}", settings) for text in TEXTS[1:])), disable_tqdm=True
    )
    assert ours.generate_until(requests(*((text, settings) for text in TEXTS[1:]))) == texts


def test_a_run_is_named_as_everywhere(run: Path) -> None:
    from lm_eval.api.model import LM

    found = harness_model("first", runs="out", device="cpu")
    assert isinstance(found, LM)
    assert (found.rank, found.world_size) == (0, 1)
    assert found.tokenizer_name == found.trained.tokenizer.digest
    with pytest.raises(UsageError, match=r"no run 'frist' .*did you mean 'first'"):
        harness_model("frist", runs="out")


def test_without_lm_eval_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("lm_eval"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'windtunnel\[lm-eval\]'"):
        harness_model("out/first")
