"""Several sources of samples as one corpus, and plans over them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Command

from windtunnel.config import parse_document
from windtunnel.errors import ConfigError, UsageError
from windtunnel.train.feed import feed_of
from windtunnel.train.launch import create_run_folder, ready_run, run_in_folder
from windtunnel.train.run_config import load_run_document

DECODER = "{d_model: 16, layers: [{mixer: {type: attention, num_heads: 2}, mlp: {type: dense}}]}"
CLASSIFIER = (
    "{type: encoder, d_model: 16, layers: [{mixer: {type: attention, num_heads: 2}, "
    "mlp: {type: dense}}], head: {type: classification, num_classes: 3, pooling: first}}"
)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def place(workplace: Path) -> Path:
    """Sums and words: pairs that can be told apart; and two files of labels."""
    write(workplace / "sums.jsonl", [{"prompt": f"{n}+1", "truth": f"{n + 1}"} for n in range(60)])
    words = [f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(40)]
    write(workplace / "words.jsonl", [{"prompt": word, "truth": word[::-1]} for word in words])
    for name, labels in (("one", "ab"), ("two", "bc")):
        rows = [{"text": f"{name} {n}", "label": labels[n % 2]} for n in range(40)]
        write(workplace / f"{name}.jsonl", rows)
    return workplace


def ready(arch: str, sources: str, stages: str, data: str = "") -> Any:
    text = (
        f"arch: {arch}\ndata: {{sources: {sources}, tokenizer: bytes{data}}}\n"
        f"train: {{batch_size: 6, seq_len: 24, eval_every: 50, device: cpu, threads: 1, "
        f"stages: {stages}}}\n"
    )
    return ready_run(load_run_document(parse_document(text, "f.yaml")))


PAIRS = "{sums: {type: pairs, paths: sums.jsonl}, words: {type: pairs, paths: words.jsonl}}"


@pytest.mark.parametrize("packing", ["", ", packing: documents"])
def test_pairs_of_two_sources_come_in_their_shares(place: Path, packing: str) -> None:
    stages = "[{name: mix, data: {sums: 2, words: 1}, rows: 18}, {name: w, data: words, epochs: 1}]"
    run = ready(DECODER, PAIRS, stages, packing)
    batches = feed_of(run.dataset, run.config).batches
    texts = [
        run.dataset.tokenizer.decode(row[row > 2].tolist())
        for step in range(3)
        for row in batches.at(step).inputs
    ]
    assert len(texts) == 18
    assert sum("+" in text for text in texts) == 12
    assert sum("w" in text for text in texts) == 6
    seen = batches.seen(run.config.train.steps)
    assert seen["words"] == 6 + len(batches.sources["words"])


def test_labels_of_all_sources_are_one_list_and_a_run_learns_from_both(place: Path) -> None:
    sources = "{one: {type: labels, paths: one.jsonl}, two: {type: labels, paths: two.jsonl}}"
    run = ready(
        CLASSIFIER, sources, "[{name: mix, data: [one, two], steps: 4}, {name: t, steps: 2}]"
    )
    assert run.dataset.labels == ("a", "b", "c")
    record = run_in_folder(create_run_folder(run, place / "run"), ready=run)
    assert [stage["tokens"] for stage in record["stages"]] == [24, 12]


def test_a_prompt_held_out_of_one_source_is_not_trained_on_in_another(place: Path) -> None:
    again = place / "again.jsonl"
    again.write_text((place / "sums.jsonl").read_text("utf-8").replace('"truth": "', '"truth": "='))
    sources = "{sums: {type: pairs, paths: sums.jsonl}, again: {type: pairs, paths: again.jsonl}}"
    run = ready(DECODER, sources, "[{name: a, steps: 1}]")  # equal prompts: one choice for both
    train, valid = (_prompts(side) for side in (run.dataset.train, run.dataset.valid))
    assert not train & valid


def _prompts(side: Any) -> set[bytes]:
    starts = [0, *side.samples[:-1, 1].tolist()]
    ends = side.samples[:, 0].tolist()
    return {side.tokens[a:b].tobytes() for a, b in zip(starts, ends, strict=True)}


def test_sources_of_pairs_have_one_separator(place: Path) -> None:
    sources = (
        "{a: {type: pairs, paths: sums.jsonl, separator: x}, b: {type: pairs, paths: words.jsonl}}"
    )
    with pytest.raises(ConfigError, match="must all have one separator"):
        ready(DECODER, sources, "[{name: a, steps: 1}]")


def test_a_validation_file_is_for_all_sources(place: Path) -> None:
    write(place / "valid.jsonl", [{"prompt": "99+1", "truth": "100"}])
    run = ready(
        DECODER, PAIRS, "[{name: a, steps: 1}]", ", validation: {type: pairs, paths: valid.jsonl}"
    )
    assert run.dataset.valid.counts.documents == 1
    assert run.dataset.train.counts.documents == 100
    write(place / "valid.jsonl", [{"prompt": "waa", "truth": "aaw"}])
    with pytest.raises(UsageError, match=r"held out of data\.sources\.sums are trained on in"):
        ready(
            DECODER,
            PAIRS,
            "[{name: a, steps: 1}]",
            ", validation: {type: pairs, paths: valid.jsonl}",
        )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"plays/b.txt": "  \n"}, "data.sources.plays: the source is empty"),
        ({}, "data.sources.plays: ./plays: no such file or folder"),
        ({"plays/b.jsonl": '{"text": "x"}\n{oops}\n'}, "plays/b.jsonl:2: not a line of JSON"),
        ({"plays/b.txt": "yy y"}, "data.sources.plays: the training text is shorter"),
    ],
)
def test_what_is_wrong_with_one_source_is_told_with_its_place(
    windtunnel: Command, workplace: Path, files: dict[str, str], message: str
) -> None:
    for name, content in {"stories/a.txt": "x " * 500, **files}.items():
        (workplace / name).parent.mkdir(exist_ok=True)
        (workplace / name).write_text(content, encoding="utf-8")
    (workplace / "plan.yaml").write_text(
        f"arch: {DECODER}\ndata: {{sources: {{stories: ./stories, plays: ./plays}}, "
        "tokenizer: bytes}\ntrain: {batch_size: 2, seq_len: 16, device: cpu, threads: 1, "
        "stages: [{name: a, data: {stories: 1, plays: 1}, steps: 2}]}\n"
    )
    answer = windtunnel("train", "plan.yaml", "--out", "run")
    assert answer.code in (1, 2)
    assert message in answer.err
    assert not (workplace / "run").exists()
