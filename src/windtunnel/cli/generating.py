"""Texts from a trained run, from the command line."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from windtunnel.cli.options import note
from windtunnel.errors import UsageError
from windtunnel.generate import SamplingConfig, generate, stream
from windtunnel.runs import RunFolder, RunStore
from windtunnel.train.launch import TrainedModel, encode_prompts, open_trained


def generate_verb(
    runs: Path,
    run: str,
    prompts: Sequence[str],
    *,
    sampling: SamplingConfig,
    max_new_tokens: int,
    seed: int,
    stream: bool,
) -> list[str]:
    """The continuation of each prompt; with ``stream``, the one prompt's is printed as it comes."""
    folder = RunFolder.open(Path(run)) if Path(run).is_dir() else RunStore(runs).select(run)
    trained = open_trained(folder, warn=note)
    encoded = encode_prompts(trained.tokenizer, prompts)
    unknown = sum(trained.tokenizer.count_unknown(np.array(ids, dtype=np.int64)) for ids in encoded)
    if unknown:
        note(f"{unknown} characters of the prompts are unknown to the tokenizer and read as such")
    if stream:
        if len(prompts) != 1:
            raise UsageError(f"--stream takes one prompt, not {len(prompts)}")
        return [_streamed(trained, prompts[0], encoded, sampling, max_new_tokens, seed)]
    tokens = generate(
        trained.model,
        encoded,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        eos=trained.tokenizer.eos,
        seed=seed,
    )
    return [trained.tokenizer.decode(ids) for ids in tokens]


def _streamed(
    trained: TrainedModel,
    prompt: str,
    encoded: list[list[int]],
    sampling: SamplingConfig,
    max_new_tokens: int,
    seed: int,
) -> str:
    sys.stdout.write(prompt)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may span tokens
    pieces: list[str] = []
    eos = trained.tokenizer.eos
    for tokens in stream(
        trained.model, encoded, max_new_tokens=max_new_tokens, sampling=sampling, eos=eos, seed=seed
    ):
        if tokens[0] != eos:
            pieces.append(decoder.decode(trained.tokenizer.decode_bytes([tokens[0]])))
            sys.stdout.write(pieces[-1])
            sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(pieces)
