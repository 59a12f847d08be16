"""A run's corpus, prepared and described."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from windtunnel.data.config import DataConfig
from windtunnel.data.dataset import Dataset, prepare
from windtunnel.data.probe import ProbeSource
from windtunnel.report.progress import ProgressDisplay, open_progress


def prepare_with_progress(data: DataConfig) -> Dataset:
    """Prepares a corpus; stages that take a while show their progress on standard error."""
    with open_progress() as display:
        stages: dict[str, int] = {}

        def tell(stage: str, done: int, total: int) -> None:
            _show(display, stages, stage, done, total)

        return prepare(data, tell)


def _show(
    display: ProgressDisplay, stages: dict[str, int], stage: str, done: int, total: int
) -> None:
    if stage not in stages:
        stages[stage] = total
        display.start(stage, stage, max(total, 1))
    if stages[stage] < 0:
        return
    if total and done >= total:
        display.finish(stage, "done")
        stages[stage] = -1
    else:
        display.update(stage, done)


def report_dataset(data: DataConfig) -> dict[str, Any]:
    """Tokens, split and compression of a corpus, as plain JSON."""
    dataset = prepare_with_progress(data)
    if isinstance(data.source, ProbeSource):
        return _report_probe(data.source, dataset)
    sides = {
        side: {
            **{k: int(v) for k, v in asdict(found.counts).items()},
            "bytes_per_token": found.bytes_per_token,
            "tokens_per_word": found.tokens_per_word,
            "vocab_used": found.vocab_used,
        }
        for side, found in dataset.compression_report().items()
    }
    return {
        "source": data.source.type if data.sources is None else ", ".join(data.sources),
        "tokenizer": data.tokenizer.type,
        "vocab_size": dataset.tokenizer.vocab_size,
        "fingerprint": dataset.fingerprint,
        "folder": str(dataset.folder),
        "notes": list(dataset.notes),
        **sides,
    }


def _report_probe(task: ProbeSource, dataset: Dataset) -> dict[str, Any]:
    """Of a synthetic task: how many sequences, tokens and answers each side has."""
    sides = {}
    for side, file in (("train", dataset.train), ("valid", dataset.valid), ("test", dataset.test)):
        assert file is not None
        assert file.samples is not None
        answers = int((file.samples[:, 1] - file.samples[:, 0]).sum()) // 2
        counts = file.counts
        sides[side] = {"sequences": counts.documents, "tokens": counts.tokens, "answers": answers}
    return {
        "source": task.type,
        "tokenizer": "symbols",
        "vocab_size": len(task.symbols),
        "lengths": list(task.lengths),
        "chance": task.chance,
        "fingerprint": dataset.fingerprint,
        "folder": str(dataset.folder),
        "notes": list(dataset.notes),
        **sides,
    }


def print_dataset(report: dict[str, Any]) -> None:
    """The same for the terminal."""
    print(f"{report['source']}, tokenizer {report['tokenizer']}, {report['vocab_size']:,} ids")
    sides = [side for side in ("train", "valid", "test") if side in report]
    print(f"{'':<18}" + "".join(f"{side:>14}" for side in sides))
    for name in report["train"]:
        cells = [report[side][name] for side in sides]
        shown = [f"{c:,}" if isinstance(c, int) else f"{c:.3f}" for c in cells]
        print(f"{name.replace('_', ' '):<18}" + "".join(f"{cell:>14}" for cell in shown))
    if "chance" in report:
        print(f"chance {report['chance']:.3f}: the accuracy of an answer that looks at nothing")
    for text in report["notes"]:
        print(f"note: {text}")
