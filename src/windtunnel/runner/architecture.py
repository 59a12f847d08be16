"""Any architecture of this package as a model of a runner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from windtunnel.arch import (
    ArchSpec,
    Model,
    build,
    expand_preset,
    preset_document,
    preset_names,
    resolve,
)
from windtunnel.config import Document, decode
from windtunnel.config.nearest import suggestion
from windtunnel.data.tokenizers import Tokenizer, load_tokenizer
from windtunnel.data.tokenizers.gpt2 import Gpt2Tokenizer
from windtunnel.data.tokenizers.plain import BytesTokenizer
from windtunnel.errors import UsageError
from windtunnel.generate import SamplingConfig
from windtunnel.generate.generate import by_rows, left_padded, written
from windtunnel.runner.model import LMBase


class ArchitectureLM(LMBase):
    """A decoder preset (or a mapping as under ``arch:``), decoded in batches through its state.

    Args:
        arch: the name of a preset, or a mapping of an architecture.
        max_len, embed_dim, num_blocks: of a preset: the longest sequence, the width, the number of
            layers; left out, the preset's.
        tokenizer: ``bytes``, ``gpt2``, or a folder with a saved tokenizer.
        seed: of the initial weights.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] = "gpt2",
        max_len: int = 1024,
        embed_dim: int | None = None,
        num_blocks: int | None = None,
        tokenizer: str = "gpt2",
        seed: int = 0,
    ) -> None:
        super().__init__(
            name=arch if isinstance(arch, str) else str(arch.get("name", "model")),
            max_len=max_len, arch=arch, embed_dim=embed_dim, num_blocks=num_blocks,
            tokenizer=tokenizer, seed=seed,
        )  # fmt: skip
        self.tokenizer = _tokenizer(tokenizer)
        spec = _spec(arch, max_len, embed_dim, num_blocks)
        architecture = resolve(spec, self.tokenizer.vocab_size)
        if architecture.type != "decoder" or architecture.reads_memory:
            raise UsageError(f"{self.name} does not continue text: that takes a plain decoder")
        self.net: Model = build(architecture, seed)

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Tensor:
        if cache is None:
            logits: Tensor = self.net(x)
            return logits
        state = cache[0] if cache else self.net.initial_state(len(x))
        logits, state = self.net.extend(x, state)
        cache[:] = [state]
        return logits[:, -1:]

    @torch.no_grad()
    def generate_prompts(
        self, prompts: Sequence[dict[str, Any]], max_len: int | None = None
    ) -> list[str]:
        """See :meth:`LMBase.generate_prompts`; a text ends with the learned positions, too."""
        codec, was = self.codec, self.training
        limit = self.max_len if max_len is None else min(max_len, self.max_len)
        limit = min(limit, self.net.max_positions or limit)
        rows = [[codec.end, *codec.encode(sample["prompt"])] for sample in prompts]
        # The last token is not read, so there is one more than positions.
        room = {place: limit + 1 - len(row) for place, row in enumerate(rows) if len(row) <= limit}
        texts = [""] * len(prompts)
        self.eval()
        try:
            steps = self._steps([rows[place] for place in room], list(room.values()))
            for place, ids in zip(room, by_rows(steps, len(room), codec.end), strict=True):
                texts[place] = codec.decode(ids)
        finally:
            self.train(was)
        return texts

    def _steps(self, rows: list[list[int]], room: Sequence[int]) -> Iterator[dict[int, int]]:
        """The next token of every row that still runs, each up to its own room."""
        if not rows:
            return
        tokens, real = left_padded(rows, self.device)
        hidden, state = self.net.extend_hidden(tokens, self.net.initial_state(len(rows)), real)
        yield from written(
            self.net, hidden[:, -1:], state, rows, room,
            sampling=SamplingConfig(temperature=0.0), eos=self.codec.end, stop=None, seed=0,
        )  # fmt: skip

    def _of_rows(self, inputs: Tensor, real: Tensor) -> Any:
        # Parts that count tokens leave out pads, of which there are others when a batch is cut.
        return self.net(inputs, None if bool(real.all()) else real.to(inputs.device))


def _tokenizer(name: str) -> Tokenizer:
    if name == "bytes":
        return BytesTokenizer(("eos",))
    if name == "gpt2":
        return Gpt2Tokenizer.obtain()
    if not Path(name).is_dir():
        names = suggestion(name, ("bytes", "gpt2"))
        raise UsageError(f"tokenizer: {name!r} is no folder with a tokenizer{names}")
    return load_tokenizer(Path(name))


def _spec(
    arch: str | dict[str, Any], max_len: int, embed_dim: int | None, num_blocks: int | None
) -> ArchSpec:
    if isinstance(arch, dict):
        return decode(expand_preset(Document(arch, source="arch"), ()), ArchSpec)
    if arch not in preset_names():
        raise UsageError(f"arch: {arch!r} is no preset{suggestion(arch, preset_names())}")
    document = preset_document(arch).edit(f"max_seq_len={max_len}").edit("vocab_size=auto")
    if embed_dim is not None:
        document = document.edit(f"d_model={embed_dim}")
    if num_blocks is not None:
        document = document.edit(f"layers[0].repeat={num_blocks}")
    return decode(document, ArchSpec)
