"""Texts and classes from a trained run, from the command line."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.cli.options import note
from windtunnel.errors import UsageError
from windtunnel.generate import SamplingConfig
from windtunnel.runs import RunFolder, RunStore
from windtunnel.train.launch import TrainedModel, open_trained
from windtunnel.train.writing import Writer


def generate_verb(
    runs: Path,
    run: str,
    prompts: Sequence[str],
    *,
    sampling: SamplingConfig,
    max_new_tokens: int,
    seed: int,
    stream: bool,
    steps: int | None = None,
) -> list[str]:
    """What the run writes for each prompt; with ``stream``, the one prompt's is printed as it
    comes."""
    trained, writer = _opened(runs, run)
    encoded = _encoded(writer, prompts)
    if stream:
        if len(prompts) != 1:
            raise UsageError(f"--stream takes one prompt, not {len(prompts)}")
        shown = prompts[0] if trained.config.data.kind == "text" else ""
        return [_streamed(writer, shown, encoded[0], sampling, max_new_tokens, seed)]
    tokens = writer.write(
        encoded, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, steps=steps
    )
    return [trained.tokenizer.decode(ids) for ids in tokens]


def continues_text(runs: Path, run: str) -> bool:
    """Whether what a run writes goes on from its prompt; else it answers it."""
    from windtunnel.train.run_config import load_run

    return load_run(_folder(runs, run).config_path).config.data.kind == "text"


def classify_verb(runs: Path, run: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The label of each text, and the probability of every label."""
    trained, writer = _opened(runs, run)
    found = []
    for text, row in zip(texts, writer.classify(_encoded(writer, texts)), strict=True):
        likely = trained.labels[int(np.argmax(row))]
        chances = dict(zip(trained.labels, row, strict=True))
        found.append({"text": text, "label": likely, "probabilities": chances})
    return found


def _folder(runs: Path, run: str) -> RunFolder:
    return RunFolder.open(Path(run)) if Path(run).is_dir() else RunStore(runs).select(run)


def _opened(runs: Path, run: str) -> tuple[TrainedModel, Writer]:
    trained = open_trained(_folder(runs, run), warn=note)
    return trained, Writer(trained.model, trained.tokenizer, trained.config)


def _encoded(writer: Writer, prompts: Sequence[str]) -> list[list[int]]:
    encoded = writer.encode(prompts)
    tokenizer = writer.tokenizer
    unknown = sum(tokenizer.count_unknown(np.array(ids, dtype=np.int64)) for ids in encoded)
    if unknown:
        note(f"{unknown} characters of the prompts are unknown to the tokenizer and read as such")
    return encoded


def _streamed(
    writer: Writer,
    shown: str,
    encoded: list[int],
    sampling: SamplingConfig,
    max_new_tokens: int,
    seed: int,
) -> str:
    sys.stdout.write(shown)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may span tokens
    pieces: list[str] = []
    for token in writer.stream(
        encoded, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed
    ):
        pieces.append(decoder.decode(writer.tokenizer.decode_bytes([token])))
        sys.stdout.write(pieces[-1])
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(pieces)
