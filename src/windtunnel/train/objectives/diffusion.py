"""DiffuSeq: text by diffusion of embeddings (Gong et al. 2022, arXiv 2210.08933).

Letters beside those of ``docs/shapes.md``: T steps of noise, τ one of them, z the embeddings of
source and target in one row, ᾱ(τ) what is left of a target's embedding after τ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.arch import Architecture, Model, build
from windtunnel.data.forms import Whole
from windtunnel.errors import UsageError
from windtunnel.nn.initialize import Init, initialize
from windtunnel.nn.linear import Linear
from windtunnel.train.batch import IGNORED, moved
from windtunnel.train.objectives.config import DiffusionConfig
from windtunnel.train.objectives.objective import Objective


@dataclass(frozen=True)
class Noised:
    """Sources and targets in one row each, with the noise that is put on the targets."""

    inputs: Tensor
    """(b, t) int64: source and target"""
    targets: Tensor
    """(b, t) int64: the token itself where it belongs to the target, else −100"""
    real: Tensor
    """(b, t) bool, False at pads"""
    step: Tensor
    """(b,) int64: τ, how noisy a row is"""
    first: Tensor
    """b t d: ε' of z_0"""
    noise: Tensor
    """b t d: ε of z_τ"""
    fill: Tensor | None = None
    """(b, t) bool: end marks behind the first of a target"""

    @property
    def target(self) -> Tensor:
        """(b, t) bool: which tokens are noised and count."""
        return (self.targets != IGNORED) & self.real

    @property
    def judged(self) -> Tensor:
        """(b, t) bool: which tokens accuracy counts: a target with one end mark. Those behind it
        are many and easily guessed."""
        return self.target if self.fill is None else self.target & ~self.fill


class NoiseLevel(nn.Module):
    """up(silu(down(waves(τ)))): (b,) -> b d, the vector that tells the model how noisy a row is."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.down = Linear(d_model, 4 * d_model, bias=True)
        self.up = Linear(4 * d_model, d_model, bias=True)

    def initializers(self) -> dict[str, Init]:
        """None of its own."""
        return {}

    def forward(self, step: Tensor) -> Tensor:
        half = self.d_model // 2 + self.d_model % 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half, device=step.device) / half)
        angles = step[:, None].float() * rates
        waves = torch.cat((angles.cos(), angles.sin()), dim=1)[:, : self.d_model]
        level: Tensor = self.up(F.silu(self.down(waves.to(self.down.weight.dtype))))
        return level


class DiffusionModel(nn.Module):
    """An encoder that predicts embeddings without noise from embeddings with noise.

    ``model`` is the architecture's; its head makes logits of embeddings (rounding); ``level`` says
    how noisy a row is. Embeddings should begin near unit variance (``embedding.init_std: 1``).

    Raises:
        UsageError: the architecture is no encoder from tokens to a vocabulary.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        fits = architecture.type == "encoder" and architecture.input == "tokens"
        if not fits or architecture.head.type != "vocabulary":
            raise UsageError("diffusion trains an encoder from tokens to a vocabulary head")
        self.architecture = architecture
        self.model = Model(architecture)
        self.level = NoiseLevel(architecture.d_model)

    @classmethod
    def built(cls, architecture: Architecture, seed: int = 0) -> DiffusionModel:
        """With its initial weights, a pure function of (architecture, seed)."""
        diffusion = cls(architecture)
        diffusion.model = build(architecture, seed)
        initialize(diffusion.level, seed)
        return diffusion

    @property
    def max_positions(self) -> int | None:
        """How many positions the model has vectors for; None: it is not limited by them."""
        return self.model.max_positions

    def embed(self, tokens: Tensor) -> Tensor:
        """b t -> b t d, without positions."""
        embedded: Tensor = self.model.embedding.looked_up(tokens)
        return embedded

    def round_off(self, z: Tensor) -> Tensor:
        """Logits of the tokens that embeddings stand for: b t d -> b t V."""
        return self.model.logits(z)

    def forward(self, z: Tensor, step: Tensor, real: Tensor) -> Tensor:
        """ẑ_0 of noisy embeddings: (b t d), (b,), (b t) -> b t d."""
        return self.model.hidden(z + self.level(step)[:, None], real)


class Diffusion(Objective[DiffusionConfig]):
    """L = Σ over a target's tokens of |ẑ_0 − z_0|²/d + |√ᾱ(T) z_0|²/d − ln p(token | z_0).

    The target is noised, z_τ = √ᾱ(τ) z_0 + √(1 − ᾱ(τ)) ε, the source stays as it is (partial
    noising, section 3.1); z_0 = embedding + √(1 − ᾱ(1)) ε'; at τ = 1 the prediction is compared
    with the embedding itself (eq. 8). τ is uniform over 1 … T. The schedule is
    ᾱ(τ) = 1 − √(τ/T + s) (Diffusion-LM, arXiv 2205.14217, appendix A). Deviation: steps are drawn
    uniformly, without importance sampling.
    """

    measures_text: ClassVar[bool] = False

    def kept(self, step: Tensor) -> Tensor:
        """ᾱ(τ), in float32; 0 at the last step."""
        left = 1 - torch.sqrt(step.float() / self.config.steps + self.config.offset)
        return left.clamp(min=0.0)

    def prepare(self, batch: Any, generator: torch.Generator) -> Noised:
        """A `Whole` batch with its steps and noise drawn."""
        steps = torch.randint(1, self.config.steps + 1, (len(batch.inputs),), generator=generator)
        return self.prepare_at(batch, steps, generator)

    def prepare_at(self, batch: Any, step: Tensor, generator: torch.Generator) -> Noised:
        """As :meth:`prepare`, at given steps (b,)."""
        shape = (*batch.inputs.shape, self._width)
        first, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        return Noised(batch.inputs, batch.targets, batch.real, step, first, noise, batch.fill)

    def prepare_rows(self, batch: Any, generators: Sequence[torch.Generator]) -> Noised:
        """As :meth:`prepare`; noise is drawn for the real tokens of a row alone, however far it is
        filled up."""
        shape = (*batch.inputs.shape, self._width)
        first, noise, real = torch.zeros(shape), torch.zeros(shape), batch.real.cpu()
        steps = torch.empty(len(real), dtype=torch.long)
        for row, generator in enumerate(generators):
            steps[row] = torch.randint(1, self.config.steps + 1, (), generator=generator)
            count = int(real[row].sum())
            for values in (first, noise):
                values[row, real[row]] = torch.randn(count, self._width, generator=generator)
        return Noised(batch.inputs, batch.targets, batch.real, steps, first, noise, batch.fill)

    @property
    def _width(self) -> int:
        assert self.architecture is not None, "diffusion needs the width of its architecture"
        return self.architecture.d_model

    def judged(self, batch: Noised) -> int:
        """How many targets accuracy is of."""
        return int(batch.judged.sum())

    def summed(self, model: Any, batch: Noised) -> Tensor:
        """The loss of all targets together, a float32 scalar."""
        return self._losses(model, batch)[0].sum()

    @torch.no_grad()
    def score(self, model: Any, batch: Any, generator: torch.Generator) -> tuple[float, int]:
        """The summed loss, and how many judged targets ẑ_0 is rounded to rightly."""
        losses, predicted = self._losses(model, batch)
        written = model.round_off(predicted).argmax(-1)
        right = (written == batch.inputs) & batch.judged
        return float(losses.cpu().double().sum()), int(right.sum())

    def train_flops(self, batch: Any, flops_per_token: float) -> float:
        """Without the few of the noise level, which are paid once a row."""
        return super().train_flops(batch, self._flops_at(batch.inputs.shape[1]))

    def _losses(self, model: DiffusionModel, batch: Noised) -> tuple[Tensor, Tensor]:
        """The loss at each place (b, t), 0 beside targets, and ẑ_0: b t d."""
        target, step = batch.target, batch.step
        clean = model.embed(batch.inputs)
        spread = (1 - self.kept(torch.ones_like(step))).sqrt().to(clean.dtype)
        z0 = clean + spread[:, None, None] * batch.first.to(clean.dtype)
        z = self.noised(z0, step, batch.noise.to(clean.dtype))
        z = torch.where(target[..., None], z, clean)
        predicted = model(z, step, batch.real)
        aim = torch.where((step == 1)[:, None, None], clean, z0)
        error = (predicted - aim).float().square().mean(-1)
        last = self.kept(torch.full_like(step, self.config.steps))
        error = error + last[:, None] * z0.float().square().mean(-1)
        logits = model.round_off(z0).flatten(0, 1).float()
        nats = F.cross_entropy(logits, batch.inputs.flatten(), reduction="none")
        return (error + nats.view_as(error)).masked_fill(~target, 0.0), predicted

    def noised(self, z0: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """z_τ of z_0: b t d, (b,), b t d -> b t d."""
        kept = self.kept(step)[:, None, None].to(z0.dtype)
        return kept.sqrt() * z0 + (1 - kept).sqrt() * noise

    @torch.no_grad()
    def sample(
        self,
        model: DiffusionModel,
        batch: Whole,
        *,
        steps: int | None = None,
        seed: int = 0,
        clamp: bool = True,
    ) -> Tensor:
        """Tokens (b, t) with targets written anew, from pure noise in ``steps`` (T unless told).

        The source is put back after every step (its anchor, section 3.2). With ``clamp`` each
        prediction is moved to the nearest embedding (the clamping trick, arXiv 2205.14217).

        Raises:
            UsageError: ``steps`` is not within 1 … T.
        """
        total = self.config.steps
        count = total if steps is None else steps
        if not 1 <= count <= total:
            raise UsageError(f"steps must be within 1 and {total}, not {count}")
        generator = torch.Generator().manual_seed(seed)
        batch = moved(batch, next(model.parameters()).device)
        clean = model.embed(batch.inputs)
        target = ((batch.targets != IGNORED) & batch.real)[..., None]
        z = torch.where(target, _noise(clean, generator), clean)
        times = torch.linspace(total, 0, count + 1).round().long().tolist()
        for now, then in pairwise(times):
            step = torch.full((len(z),), now, device=z.device)
            predicted = model(z, step, batch.real)
            if clamp:
                predicted = nearest_embeddings(predicted, model)
            z = self._earlier(z, predicted, now, then, generator)
            z = torch.where(target, z, clean)
        written = model.round_off(z).argmax(-1)
        return torch.where(target[..., 0], written, batch.inputs)

    def _earlier(
        self, z: Tensor, predicted: Tensor, now: int, then: int, generator: torch.Generator
    ) -> Tensor:
        """A draw of z_then given z_now and ẑ_0: N(mean, variance), the posterior of the noising."""
        if then == 0:
            return predicted
        a, b = (float(self.kept(torch.tensor(step))) for step in (now, then))
        share = a / b
        mean = (math.sqrt(b) * (1 - share) * predicted + math.sqrt(share) * (1 - b) * z) / (1 - a)
        variance = (1 - b) / (1 - a) * (1 - share)
        return mean + math.sqrt(variance) * _noise(z, generator)


def nearest_embeddings(z: Tensor, model: DiffusionModel) -> Tensor:
    """Each vector's nearest token embedding: b t d -> b t d."""
    ids = torch.arange(model.architecture.vocab_size, device=z.device)
    table = model.embed(ids[None])[0]
    # |z − e|² = |z|² − 2 z·e + |e|², and |z|² is the same for all
    nearer = z @ table.T - table.square().sum(-1) / 2
    return table[nearer.argmax(-1)]


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator)
    return drawn.to(device=like.device, dtype=like.dtype)
