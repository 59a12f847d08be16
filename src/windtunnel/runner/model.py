"""The base of models that train on prompt/truth pairs."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from windtunnel.errors import UsageError
from windtunnel.runner.tokens import Codec, Rows, rows_of
from windtunnel.train.batch import summed_nats


class MBase(nn.Module, ABC):
    """A model with its tokenizer: samples in, loss or text out.

    ``init_kwargs`` are all keyword arguments but ``name``: what makes the same model again. They
    must be plain values (numbers, texts, lists and mappings of them): they are kept as JSON. A
    subclass sets ``self.tokenizer``, tiktoken's or one of this package.
    """

    loss_on: ClassVar[Literal["truth", "all"]] = "truth"
    """Which tokens count: those of the truth and its end, or the prompt's too."""

    tokenizer: Any

    def __init__(self, name: str, *, max_len: int = 1024, **init_kwargs: Any) -> None:
        super().__init__()
        self.name, self.max_len = name, max_len
        self.init_kwargs = {"max_len": max_len, **init_kwargs}

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.parameters()).device

    @property
    def codec(self) -> Codec:
        """The tokenizer with its end of text."""
        if not hasattr(self, "tokenizer"):
            raise UsageError(f"{type(self).__name__} sets no self.tokenizer")
        return Codec.of(self.tokenizer)

    def parameter_count(self) -> int:
        """Numbers in all parameters; a shared one counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def train_prompts(
        self, prompts: Sequence[dict[str, Any]], include_prompts: bool = True
    ) -> tuple[list[str], Tensor, int]:
        """See :meth:`LMBase.train_prompts`."""

    @abstractmethod
    def generate_prompts(
        self, prompts: Sequence[dict[str, Any]], max_len: int | None = None
    ) -> list[str]:
        """See :meth:`LMBase.generate_prompts`."""

    def rows(self, samples: Sequence[dict[str, Any]]) -> Rows:
        """The samples as rows; those whose prompt leaves no room for any truth have none."""
        codec = self.codec
        form = codec.form(self.max_len, loss_on_all=self.loss_on == "all")
        return rows_of(codec, samples, form)

    def _tokenize_str(
        self, sample: dict[str, Any], device: Any, trim: bool = True
    ) -> tuple[Tensor, int]:
        """(t,): ``[end] prompt truth [end]``, and the place of the first token that is predicted.

        With ``trim`` at most ``max_len + 1`` tokens: the truth loses its last ones, never its end.
        """
        codec = self.codec
        encoded = codec.encoded(sample)
        p, truth = len(encoded.prompt), encoded.truth.tolist()
        if trim:
            truth = truth[: max(0, self.max_len - p - 1)]
        ids = [codec.end, *encoded.prompt.tolist(), *truth, codec.end]
        if trim:
            ids = ids[: self.max_len + 1]
        return torch.tensor(ids, device=device), p + 1

    def _tokenize_batch(
        self, batch: Sequence[dict[str, Any]], dont_pad: bool = False
    ) -> tuple[Any, list[int]]:
        """The samples of a batch (b, t), the end mark beside shorter ones, or with ``dont_pad`` a
        list of (t,); and where the prediction of each starts."""
        parts = [self._tokenize_str(sample, self.device) for sample in batch]
        tokens, starts = [ids for ids, _ in parts], [start for _, start in parts]
        if dont_pad:
            return tokens, starts
        padded = nn.utils.rnn.pad_sequence(
            tokens, batch_first=True, padding_value=float(self.codec.end)
        )
        return padded, starts


class LMBase(MBase):
    """A model that gives the next token's logits."""

    @abstractmethod
    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Any:
        """Logits (b, t, V) of ids (b, t), each from those before it.

        While a text is written, ``cache`` is a list, empty at first. A model that puts what it
        remembers there, or returns it as ``(logits, cache)``, is given the new tokens alone from
        then on, and gives (b, 1, V); any other is given the whole text again.
        """

    def train_prompts(
        self, prompts: Sequence[dict[str, Any]], include_prompts: bool = True
    ) -> tuple[list[str], Tensor, int]:
        """The likeliest token at each place of the truth, as text; the loss; how many tokens count.

        Args:
            prompts: mappings with ``prompt`` and ``truth``.
            include_prompts: whether the texts begin with the prompt.

        The loss is the mean of −ln p over the tokens that count, in nats (see :attr:`loss_on`); 0
        tokens give a loss of NaN, never a silent 0. A sample whose prompt leaves no room for any
        truth counts nothing, and its text is empty.

        Raises:
            UsageError: a sample lacks its texts, or ``forward`` gives no logits.
        """
        found = self.rows(prompts)
        texts = [""] * len(prompts)
        if found.rows is None:
            return texts, torch.full((), float("nan"), device=self.device), 0
        inputs, targets = (t.to(self.device) for t in (found.rows.inputs, found.rows.targets))
        logits = checked_logits(self, self._of_rows(inputs, found.rows.real), inputs)
        loss = summed_nats(logits, targets) / found.targets
        likeliest, codec = logits.detach().argmax(-1).tolist(), self.codec
        ends = found.rows.real.sum(1).tolist()
        for place, row, start, end in zip(found.kept, likeliest, found.starts, ends, strict=True):
            begin = prompts[place]["prompt"] if include_prompts else ""
            texts[place] = begin + codec.decode(row[start:end])
        return texts, loss, found.targets

    def _of_rows(self, inputs: Tensor, real: Tensor) -> Any:
        """What the forward gives for rows (b, t), whose pads are False in ``real``."""
        return self(inputs)

    @torch.no_grad()
    def generate_prompts(
        self, prompts: Sequence[dict[str, Any]], max_len: int | None = None
    ) -> list[str]:
        """What follows each prompt: the likeliest token after token, until the text ends.

        Args:
            prompts: mappings with ``prompt``.
            max_len: tokens of prompt and text together, at most; the model's own where left out,
                and never more.
        """
        limit = self.max_len if max_len is None else min(max_len, self.max_len)
        was = self.training
        self.eval()
        try:
            return [self._written(sample, limit) for sample in prompts]
        finally:
            self.train(was)

    def _written(self, sample: dict[str, Any], limit: int) -> str:
        codec = self.codec
        ids = [codec.end, *codec.encode(sample["prompt"])]
        start, cache, fresh = len(ids), list[Any](), len(ids)
        while len(ids) < limit + 1:
            inputs = torch.tensor([ids[-fresh:]], device=self.device)
            answer = self(inputs, cache) if takes_cache(self) else self(inputs)
            logits = checked_logits(self, answer, inputs)
            if isinstance(answer, tuple) and isinstance(answer[1], list):
                cache = answer[1]
            token = int(logits[0, -1].argmax())
            if token == codec.end:
                break
            ids.append(token)
            fresh = 1 if cache else len(ids)
        return codec.decode(ids[start:])


def takes_cache(model: nn.Module) -> bool:
    """Whether a model's forward has a place for what it remembers."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    return len(parameters) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def checked_logits(model: nn.Module, answer: Any, inputs: Tensor) -> Tensor:
    """The logits of what a forward gave, (b, t or 1, V).

    Raises:
        UsageError: it gave something else.
    """
    logits = answer[0] if isinstance(answer, tuple) else answer
    if not isinstance(logits, Tensor) or logits.ndim != 3 or len(logits) != len(inputs):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"{type(model).__name__}.forward must give logits (b, t, V) for ids "
            f"{tuple(inputs.shape)}; it gave {shape}"
        )
    return logits
