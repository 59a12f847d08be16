"""Text from a model as its run trained it: prompts are laid out as they were in training."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from windtunnel.arch import Model
from windtunnel.data.dataset import Dataset
from windtunnel.data.forms import Encoded, LabelForm, WholeForm
from windtunnel.data.sample_loader import Samples
from windtunnel.data.samples import Marks, prompt_text
from windtunnel.data.tokenizers import Tokenizer
from windtunnel.errors import NotFiniteError, UsageError
from windtunnel.generate import BeamConfig, SamplingConfig, can_continue, generate, search, stream
from windtunnel.generate.generate import Stop
from windtunnel.generate.known_ids import with_known_ids
from windtunnel.generate.sampling import check_finite
from windtunnel.generate.targets import generate_targets, search_targets, stream_targets
from windtunnel.train.feed import form_for
from windtunnel.train.objectives.config import DiffusionConfig
from windtunnel.train.objectives.diffusion import Diffusion
from windtunnel.train.probe_scores import probe_texts
from windtunnel.train.run_config import RunConfig, objective_config

_SAMPLES = 3
_PROMPT_TOKENS = 24
_SAMPLE_TOKENS = 60
DIFFUSION_STEPS = 100
"""Steps of the sampler at most, unless told; training has more."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Writer:
    """A trained model with all that decides how its prompts look."""

    model: Any
    tokenizer: Tokenizer
    config: RunConfig

    @property
    def _text_model(self) -> Any:
        """The model, without ids that stand for no text."""
        return with_known_ids(self.model, self.tokenizer.vocab_size)

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """The ids of prompts, as the data's source would give them, without begin and end.

        An empty prompt of a text begins with the tokenizer's bos (or eos).
        """
        source = self.config.data.first_source
        if source.kind != "text":
            return [self.tokenizer.encode(prompt_text(source, prompt)) for prompt in prompts]
        encoded = [self.tokenizer.encode_prompt(prompt) for prompt in prompts]
        bos, eos = self.tokenizer.bos, self.tokenizer.eos
        start = bos if bos is not None else eos
        return [ids or ([] if start is None else [start]) for ids in encoded]

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int | None,
        sampling: SamplingConfig | None = None,
        stop: Stop | None = None,
        beams: BeamConfig | None = None,
        seed: int = 0,
        steps: int | None = None,
    ) -> list[list[int]]:
        """What follows each of the encoded prompts, without the end mark.

        Args:
            max_new_tokens: None: as many as the model has learned positions for.
            sampling: how tokens are chosen; diffusion has no use for it, nor has a search.
            stop: where a row ends besides; see :func:`windtunnel.generate.stream`.
            beams: the most probable text that is found, in place of one that is drawn.
            steps: of diffusion's sampler.

        Raises:
            UsageError: the model writes nothing, or a prompt does not fit it.
        """
        kind = objective_config(self.config).type
        eos, model = self.tokenizer.eos, self._text_model
        if kind == "diffusion":
            if beams is not None:
                raise UsageError("diffusion writes no token after another, so it has no beams")
            return [self._diffused(prompt, max_new_tokens, seed, steps) for prompt in prompts]
        if kind == "classification":
            raise UsageError(
                f"{self.config.arch.name} classifies texts and writes none; see windtunnel classify"
            )
        sources, starts = self._sources(prompts) if kind == "seq2seq" else ([], [])
        if beams is not None:
            if kind == "seq2seq":
                found = search_targets(
                    model, sources, starts, beams, max_new_tokens=max_new_tokens, eos=eos
                )
            else:
                rows = self._rows(prompts)
                found = search(model, rows, beams, max_new_tokens=max_new_tokens, eos=eos)
            return [best[0].tokens for best in found]
        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "sampling": sampling, "eos": eos, "stop": stop,
            "seed": seed,
        }  # fmt: skip
        if kind == "seq2seq":
            return generate_targets(model, sources, starts, **options)
        return generate(model, self._rows(prompts), **options)

    def stream(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int | None,
        sampling: SamplingConfig | None = None,
        stop: Stop | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """The tokens after one encoded prompt as they come, without the end mark."""
        kind = objective_config(self.config).type
        if kind in ("diffusion", "classification"):
            raise UsageError(f"{self.config.arch.name} does not write token by token")
        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "sampling": sampling, "eos": self.tokenizer.eos,
            "stop": stop, "seed": seed,
        }  # fmt: skip
        if kind == "seq2seq":
            steps = stream_targets(self._text_model, *self._sources([prompt]), **options)
        else:
            steps = stream(self._text_model, self._rows([prompt]), **options)
        return (tokens[0] for tokens in steps if tokens[0] != self.tokenizer.eos)

    @torch.no_grad()
    def classify(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The probability of each class, for encoded texts.

        Raises:
            UsageError: the model does not classify, or (NotFiniteError) its logits are not finite.
        """
        if objective_config(self.config).type != "classification":
            raise UsageError(f"{self.config.arch.name} was not trained to classify")
        form = LabelForm(Marks.of(self.tokenizer), self.config.train.seq_len, "right")
        batch = form.batch([_encoded(text) for text in texts])
        device = next(self.model.parameters()).device
        logits = self.model.eval()(batch.inputs.to(device), batch.real.to(device))
        check_finite(logits)
        found: list[list[float]] = logits.cpu().double().softmax(-1).tolist()
        return found

    def _rows(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What a decoder reads before it writes."""
        if self.config.data.kind in ("text", "probe"):
            return [list(prompt) for prompt in prompts]
        begin = Marks.of(self.tokenizer).begin
        return [[begin, *prompt] for prompt in prompts]

    def _sources(self, prompts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
        """What an encoder reads, and the tokens after which targets begin."""
        if self.config.data.kind == "pairs":
            marks = Marks.of(self.tokenizer)
            return [[*prompt, marks.end] for prompt in prompts], [marks.begin] * len(prompts)
        # A row of a text was cut in two: the decoder began with the first token of the rest.
        begin = self.tokenizer.bos
        rows = [list(p) if len(p) > 1 or begin is None else [begin, *p] for p in prompts]
        if any(len(row) < 2 for row in rows):
            raise UsageError("a prompt needs two tokens: one to read and one to begin with")
        return [row[:-1] for row in rows], [row[-1] for row in rows]

    def _diffused(
        self, prompt: Sequence[int], max_new_tokens: int | None, seed: int, steps: int | None
    ) -> list[int]:
        config = objective_config(self.config)
        assert isinstance(config, DiffusionConfig)
        form = WholeForm(Marks.of(self.tokenizer), self.config.train.seq_len)
        if not form.targets(np.array([len(prompt)]), np.array([1]))[0]:
            raise UsageError(
                f"a prompt of {len(prompt)} tokens leaves no room for a target: the model was "
                f"trained on {self.config.train.seq_len} tokens in all"
            )
        batch = form.batch([_encoded(prompt)])
        diffusion = Diffusion(config, vocab_size=self.model.architecture.vocab_size)
        count = min(DIFFUSION_STEPS, config.steps) if steps is None else steps
        with _finite_outputs(self.model):
            row = diffusion.sample(self.model.eval(), batch, steps=count, seed=seed)[0]
        written: list[int] = row[len(prompt) + 2 :].tolist()
        end = written.index(form.marks.end) if form.marks.end in written else len(written)
        return written[: end if max_new_tokens is None else min(end, max_new_tokens)]


def _encoded(ids: Sequence[int]) -> Encoded:
    return Encoded(np.array(ids, dtype=np.int64), np.array([], dtype=np.int64))


@contextmanager
def _finite_outputs(model: nn.Module) -> Iterator[None]:
    """Raises NotFiniteError where the model gives something that is not finite."""
    hook = model.register_forward_hook(lambda module, given, found: check_finite(found))
    try:
        yield
    finally:
        hook.remove()


def make_samples(model: nn.Module, dataset: Dataset, config: RunConfig) -> list[dict[str, str]]:
    """What the model makes of the same few pieces of validation data, drawn with the same seed;
    nothing, where its logits are not finite."""
    writer = Writer(model, dataset.tokenizer, config)
    try:
        if dataset.kind == "probe":
            with _finite_outputs(model):
                return probe_texts(model, dataset, config)
        written = _continuations if dataset.kind == "text" else _answers
        return written(writer, dataset)
    except NotFiniteError as error:
        logger.warning("the record has no samples: %s", error)
        return []


def _continuations(writer: Writer, dataset: Dataset) -> list[dict[str, str]]:
    model, tokens, tokenizer = writer.model, dataset.valid.tokens, dataset.tokenizer
    assert isinstance(model, Model)
    if model.architecture.type != "encoder_decoder" and not can_continue(model.architecture):
        return []
    limit = model.max_positions or math.inf
    prompt_len = int(min(_PROMPT_TOKENS, len(tokens) // 2, limit // 2))
    new = int(min(_SAMPLE_TOKENS, limit - prompt_len))
    if prompt_len < 2 or new < 1:
        return []
    starts = [len(tokens) * (2 * i + 1) // (2 * _SAMPLES) for i in range(_SAMPLES)]
    starts = [min(start, len(tokens) - prompt_len) for start in starts]
    prompts = [[int(t) for t in tokens[s : s + prompt_len]] for s in starts]
    texts = writer.write(prompts, max_new_tokens=new, sampling=SamplingConfig(temperature=0.8))
    return [
        {"prompt": tokenizer.decode(prompt), "text": tokenizer.decode(text)}
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def _answers(writer: Writer, dataset: Dataset) -> list[dict[str, str]]:
    config, decode = writer.config, dataset.tokenizer.decode
    held = Samples(dataset.valid, form_for(config, Marks.of(dataset.tokenizer)))
    count = min(_SAMPLES, len(held))
    samples = held.encoded(np.arange(count) * len(held) // count)
    prompts = [sample.prompt.tolist() for sample in samples]
    if dataset.kind == "labels":
        classes = [int(np.argmax(row)) for row in writer.classify(prompts)]
        texts = [dataset.labels[number] for number in classes]
        truths = [dataset.labels[sample.label] for sample in samples]
    else:
        limit = writer.model.max_positions if isinstance(writer.model, Model) else None
        room = (limit or config.train.seq_len) - max(len(prompt) for prompt in prompts) - 1
        new = min(_SAMPLE_TOKENS, room)
        if new < 1:
            return []
        sampling = SamplingConfig(temperature=0.8)
        texts = [decode(t) for t in writer.write(prompts, max_new_tokens=new, sampling=sampling)]
        truths = [decode(sample.truth.tolist()) for sample in samples]
    return [
        {"prompt": decode(prompt), "text": text, "truth": truth}
        for prompt, text, truth in zip(prompts, texts, truths, strict=True)
    ]
