"""A run's corpus, prepared and described."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from windtunnel.data.config import DataConfig
from windtunnel.data.dataset import Dataset, prepare
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


def print_dataset(report: dict[str, Any]) -> None:
    """The same for the terminal."""
    print(f"{report['source']}, tokenizer {report['tokenizer']}, {report['vocab_size']:,} ids")
    names = list(report["train"])
    print(f"{'':<18}{'train':>14}{'valid':>14}")
    for name in names:
        cells = [report[side][name] for side in ("train", "valid")]
        shown = [f"{c:,}" if isinstance(c, int) else f"{c:.3f}" for c in cells]
        print(f"{name.replace('_', ' '):<18}{shown[0]:>14}{shown[1]:>14}")
    for text in report["notes"]:
        print(f"note: {text}")
