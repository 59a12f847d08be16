"""Runs as models of EleutherAI's lm-evaluation-harness, for whoever wants its tasks as they stand.

    import lm_eval
    from windtunnel.interop.lm_eval import harness_model

    lm_eval.simple_evaluate(model=harness_model("out/first"), tasks=["lambada_openai"])

Texts are laid out, and their probabilities taken, as ``windtunnel evaluate`` does it
(``train/task_scores.py``), so both give the same figures for the same items, wherever a choice is
tokenized alone as beside the others.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from windtunnel.config import suggestion
from windtunnel.data.tasks import Item
from windtunnel.errors import UsageError
from windtunnel.generate import SamplingConfig, StopStrings
from windtunnel.generate.likelihood import Query, log_likelihoods, windows
from windtunnel.runs import RunStore
from windtunnel.train.launch import TrainedModel, open_trained
from windtunnel.train.loop import resolve_device
from windtunnel.train.task_scores import CannotAsk, LaidOut, Layout, as_trained
from windtunnel.train.writing import Writer

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The names under which a task says how long a text may be; the first that it gives counts."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_USUAL_LENGTH = 256

logger = logging.getLogger(__name__)


def harness_model(
    run: str | Path,
    *,
    runs: str | Path = "runs",
    device: str = "auto",
    ema: bool = False,
    batch_size: int = 16,
    seed: int = 0,
) -> Any:
    """A run as an ``lm_eval.api.model.LM``.

    Args:
        run: its folder, its name, or the start of its key.
        runs: where runs are kept.
        ema: with the average of the weights that ``train.ema`` keeps.
        batch_size: texts at once.
        seed: of the draws, where a task asks for any.

    Raises:
        UsageError: no such run, one that gives no probabilities of texts, or lm_eval is not
            installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise UsageError("the harness needs lm_eval: pip install 'windtunnel[lm-eval]'") from error

    class WindtunnelLM(HarnessAnswers, LM):  # type: ignore[misc]  # lm_eval has no types
        """A run's answers, in the harness's terms."""

        def __init__(self, trained: TrainedModel) -> None:
            LM.__init__(self)
            HarnessAnswers.__init__(self, trained, batch_size=batch_size, seed=seed)

    place = str(resolve_device(device, "device"))
    folder = RunStore(runs).select(str(run))
    trained = open_trained(folder, device=place, ema=ema)
    config = as_trained(trained.config, imported=folder.status == "imported")
    return WindtunnelLM(replace(trained, config=config))


class HarnessAnswers:
    """What the harness asks of a model; requests are its ``Instance`` objects, whose ``args`` say
    what is asked."""

    def __init__(self, trained: TrainedModel, *, batch_size: int = 16, seed: int = 0) -> None:
        self.trained, self.batch_size, self.seed = trained, batch_size, seed
        self.layout = Layout(trained.model, trained.tokenizer, trained.config)

    @property
    def tokenizer_name(self) -> str:
        """What tells one tokenizer from another."""
        return self.trained.tokenizer.digest

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """ln p(continuation | context), nats, and whether greedy decoding writes it.

        What is scored are the tokens after those with which the context alone and the whole text
        both begin. Learned positions that end: the context loses its first tokens.

        Raises:
            UsageError: a continuation that cannot be scored.
        """
        laid = [self._laid_out(number, *one.args) for number, one in enumerate(requests, 1)]
        if cut := sum(one.cut for one in laid):
            logger.warning("%d of %d contexts lost their first tokens", cut, len(laid))
        found = self._likelihoods([one.queries[0] for one in laid])
        return [(one.total, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """ln p(text), nats, of whole texts in windows as long as the rows of the training (or as
        there are positions for), each token once; see ``windows``.

        Raises:
            UsageError: a run on pairs or of an encoder_decoder, or without a mark to begin with.
        """
        name, config = self.trained.config.arch.name, self.trained.config
        if self.layout.on_pairs or self.layout.is_seq2seq:
            raise UsageError(f"{name} reads prompts and writes answers: it scores no whole texts")
        if not self.layout.begin:
            raise UsageError(f"{name}: the tokenizer has neither bos nor eos to begin a text with")
        length = min(config.train.seq_len, self.trained.model.max_positions or config.train.seq_len)
        encode = self.trained.tokenizer.encode
        parts = [windows(self.layout.begin, encode(one.args[0]), length) for one in requests]
        found = iter(self._likelihoods([query for part in parts for query in part]))
        return [sum(next(found).total for _ in part) for part in parts]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the run writes after each context, up to the first of the ``until`` strings.

        Greedy unless ``do_sample`` or a temperature above 0 says otherwise, as the harness has it.

        Raises:
            UsageError: a setting that is not known here, or a context without room behind it.
        """
        groups = dict[str, list[int]]()
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        texts = dict[int, str]()
        for settings, numbers in groups.items():
            for first in range(0, len(numbers), self.batch_size):
                part = numbers[first : first + self.batch_size]
                contexts = [requests[number].args[0] for number in part]
                written = self._written(contexts, json.loads(settings), self.seed + part[0])
                texts.update(zip(part, written, strict=True))
        return [texts[number] for number in range(len(requests))]

    def _laid_out(self, number: int, context: str, continuation: str) -> LaidOut:
        try:
            return self.layout.lay_out(Item(f"request {number}", context, (continuation,), 0))
        except CannotAsk as reason:
            raise UsageError(f"request {number} ({continuation[:40]!r}): {reason}") from reason

    def _likelihoods(self, queries: Sequence[Query]) -> list[Any]:
        size = self.trained.tokenizer.vocab_size
        return list(
            log_likelihoods(
                self.trained.model, queries, batch_size=self.batch_size, vocab_size=size
            )
        )

    def _written(
        self, contexts: Sequence[str], settings: Mapping[str, Any], seed: int
    ) -> list[str]:
        until, length, sampling = read_settings(settings)
        writer = Writer(self.trained.model, self.trained.tokenizer, self.trained.config)
        prompts = self._prompts(writer, contexts, length)
        stop = StopStrings(self.trained.tokenizer, until)
        found = writer.write(
            prompts, max_new_tokens=length, sampling=sampling, stop=stop, seed=seed
        )
        texts = [stop.cut(self.trained.tokenizer.decode_bytes(ids)) for ids in found]
        return [text.decode("utf-8", errors="replace") for text in texts]

    def _prompts(self, writer: Writer, contexts: Sequence[str], length: int) -> list[list[int]]:
        """The contexts in tokens, cut at the front to leave room for ``length`` more."""
        if self.layout.on_pairs:
            prompts = writer.encode(contexts)
        else:
            encode = self.trained.tokenizer.encode
            prompts = [[*self.layout.begin, *encode(context)] for context in contexts]
        limit = self.trained.model.max_positions
        if limit is None:
            return prompts
        marks = 1 if self.layout.on_pairs else 0
        room = limit - marks - (0 if self.layout.is_seq2seq else length)
        if room < 1 or length > limit:
            raise UsageError(
                f"{length} tokens are to be written, but the learned positions end at {limit}; set "
                f"max_gen_toks lower"
            )
        if cut := sum(len(prompt) > room for prompt in prompts):
            logger.warning("%d of %d contexts lost their first tokens", cut, len(prompts))
        return [prompt[-room:] for prompt in prompts]


def read_settings(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int, SamplingConfig]:
    """Stop strings, tokens at most, and how the next token is chosen, from a task's own terms.

    >>> read_settings({"until": "\\n", "max_gen_toks": 8})[:2]
    (('\\n',), 8)

    Raises:
        UsageError: a setting that is not known, or out of its range.
    """
    known = ("until", "do_sample", *LENGTHS, *SAMPLING)
    for name in settings:
        if name not in known:
            raise UsageError(f"generation_kwargs: {name!r}{suggestion(name, known)}")
    until = settings.get("until") or ()
    strings = (until,) if isinstance(until, str) else tuple(until)
    length = next((int(settings[n]) for n in LENGTHS if settings.get(n) is not None), _USUAL_LENGTH)
    given = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
    temperature = float(given.pop("temperature", 1.0 if settings.get("do_sample") else 0.0))
    if settings.get("do_sample") is False:
        temperature = 0.0
    return strings, length, SamplingConfig.checked(temperature=temperature, **given)
