"""The factory's models: architectures of the package, called as the factory's users call them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.arch import Architecture, ArchSpec, EncoderDecoder, Model, build, resolve
from windtunnel.errors import UsageError
from windtunnel.factory.codes import token_codes
from windtunnel.factory.configs import (
    MODEL_TYPES,
    DecoderConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    ModelConfig,
)
from windtunnel.factory.masks import kept_keys
from windtunnel.nn.mixers.favor import Favor


class FactoryModel(nn.Module):
    """A model of the package, ``model``, behind a factory's call.

    Input is vectors (b t d), or token ids (b t). With ``vocab_size`` ids have a learned embedding;
    without it they become fixed codes, and the model says so once. In training the random features
    of linear attention are drawn anew by their interval: a step is counted when a forward finds
    that the weights have changed since the last one.
    """

    def __init__(self, model: Model, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed
        self._weights_seen: tuple[int, Tensor] | None = None
        self._told = False
        self.register_load_state_dict_post_hook(_forget_weights_version)  # type: ignore[no-untyped-call]

    @property
    def architecture(self) -> Architecture:
        """What the model is."""
        return self.model.architecture

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the stack, bottom first; of an encoder-decoder, the decoder's."""
        return self.model.layers

    def taken(self, x: Tensor, name: str = "x") -> Tensor:
        """Checked input: ids for an embedding, or vectors (b t d)."""
        d, tokens = self.architecture.d_model, self.architecture.input == "tokens"
        if x.is_floating_point():
            if x.ndim != 3 or x.shape[2] != d:
                raise UsageError(f"{name}: expected (b, t, {d}) vectors, not {tuple(x.shape)}")
            return x
        if x.ndim != 2:
            raise UsageError(f"{name}: expected token ids (b, t), not {tuple(x.shape)}")
        if tokens:
            return x
        if not self._told:
            self._told = True
            warnings.warn(
                "token ids came in and the model has no vocab_size: each id is a fixed random "
                "vector, and no logits come out; give vocab_size for a learned embedding",
                UserWarning,
                stacklevel=3,
            )
        return token_codes(x, d).to(next(self.parameters()).dtype)

    def count_step(self) -> None:
        """Tells the layers of a training step, where the weights have changed since the last
        forward; random features may then be drawn anew."""
        weight = self._watched_weight() if self.training else None
        if weight is None:
            return
        before, self._weights_seen = self._weights_seen, (weight._version, weight.detach().clone())
        if before is None:
            return
        if (before[1].device, before[1].dtype) != (weight.device, weight.dtype):
            return  # moved or cast, which is no step
        # Fused optimizers write without raising the version, so the values are compared too.
        if before[0] != weight._version or not torch.equal(before[1], weight):
            for favor in self._favors():
                favor.after_update(seed=self.seed, step=int(favor.draws) + 1)

    def _watched_weight(self) -> Tensor | None:
        """A trained matrix by which updates are told; None where there is nothing to draw anew."""
        queries = [favor.q.weight for favor in self._favors()]
        others = [p for p in self.parameters() if p.ndim > 1] if queries else []
        return next((p for p in (*queries, *others) if p.requires_grad), None)

    def fix_projection_matrices_(self) -> None:
        """Keeps the random features of linear attention as they are, for good."""
        for favor in self._favors():
            favor.freeze()

    def _favors(self) -> Iterator[Favor]:
        return (module for module in self.model.modules() if isinstance(module, Favor))


def _forget_weights_version(module: nn.Module, _: Any) -> None:
    """Loaded weights are no training step."""
    assert isinstance(module, FactoryModel)
    module._weights_seen = None


class FactoryEncoder(FactoryModel):
    """(b t d) -> (b t d); tokens see both sides, or with causal_linear attention the past."""

    def forward(self, x: Tensor, self_attn_mask: Tensor | None = None) -> Tensor:
        """The encoded tokens; ``self_attn_mask`` (b, t) is 0 at keys that nothing may see."""
        self.count_step()
        x = self.taken(x)
        causal = self.architecture.type == "decoder"
        real = kept_keys(self_attn_mask, "self_attn_mask", _rows(x), causal=causal)
        return self.model.logits(self.model.hidden(x, real))


class FactoryDecoder(FactoryModel):
    """(b t d) -> (b t d), or (b t V) with a vocabulary; a token depends on those before it."""

    def forward(
        self,
        x: Tensor,
        encoder_output: Tensor | None = None,
        self_attn_mask: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        use_causal_mask: bool = True,
    ) -> Tensor:
        """The decoded tokens. Masks are 0 at keys that nothing may see: (b, t), and (b, s) of the
        encoder's output.

        Raises:
            UsageError: ``use_causal_mask`` is false, the encoder's output is missing or not read,
                or a mask says more than which keys are real.
        """
        _causal(use_causal_mask)
        self.count_step()
        x = self.taken(x)
        real = kept_keys(self_attn_mask, "self_attn_mask", _rows(x), causal=True)
        memory_real = None
        if encoder_output is not None:
            memory_real = kept_keys(cross_attn_mask, "cross_attn_mask", _rows(encoder_output))
        elif cross_attn_mask is not None:
            raise UsageError("cross_attn_mask has no effect without encoder_output")
        return self.model.logits(self.model.hidden(x, real, encoder_output, memory_real))


class FactoryEncoderDecoder(FactoryModel):
    """(b s d), (b t d) -> (b t d), or (b t V) with a vocabulary."""

    model: EncoderDecoder

    @property
    def encoder(self) -> nn.Module:
        """The stack that reads the source."""
        return self.model.encoder

    @property
    def decoder(self) -> Model:
        """The stack that writes the target."""
        return self.model

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """What the decoder reads of a source: (b s d)."""
        src = self.taken(src, "src")
        causal = bool(self.architecture.encoder and self.architecture.encoder.causal)
        real = kept_keys(src_mask, "src_mask", _rows(src), causal=causal)
        return self.model.encode(src, real)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        use_causal_mask: bool = True,
    ) -> Tensor:
        """The decoded target. Masks are 0 at keys that nothing may see; without
        ``cross_attn_mask`` the decoder sees of the source what ``src_mask`` leaves.

        Raises:
            UsageError: ``use_causal_mask`` is false, or a mask says more than which keys are real.
        """
        _causal(use_causal_mask)
        self.count_step()
        memory = self.encode(src, src_mask)
        tgt = self.taken(tgt, "tgt")
        real = kept_keys(tgt_mask, "tgt_mask", _rows(tgt), causal=True)
        crossed = kept_keys(cross_attn_mask, "cross_attn_mask", _rows(src))
        if crossed is None:
            crossed = kept_keys(src_mask, "src_mask", _rows(src), causal=True)
        return self.model.logits(self.model.hidden(tgt, real, memory, crossed))


def _rows(x: Tensor) -> tuple[int, int]:
    """Sequences and their tokens, of ids or vectors."""
    return x.shape[0], x.shape[1]


def _causal(use_causal_mask: bool) -> None:
    if not use_causal_mask:
        raise UsageError(
            "use_causal_mask=False: a decoder sees the past alone; for a stack that sees both "
            "sides use model_type: encoder"
        )


class ModelFactory:
    """Models from configs; equal configs and seeds give equal weights."""

    @staticmethod
    def create_encoder(config: EncoderConfig, *, seed: int = 0) -> FactoryEncoder:
        """A stack that sees all tokens."""
        model = _built(config.to_spec(), config.params.device, seed)
        return FactoryEncoder(model, seed)

    @staticmethod
    def create_decoder(config: DecoderConfig, *, seed: int = 0) -> FactoryDecoder:
        """A stack that sees the past alone."""
        model = _built(config.to_spec(), config.params.device, seed)
        return FactoryDecoder(model, seed)

    @staticmethod
    def create_encoder_decoder(
        config: EncoderDecoderConfig, *, seed: int = 0
    ) -> FactoryEncoderDecoder:
        """An encoder and a decoder; both are put where the decoder's section says."""
        model = _built(config.to_spec(), config.decoder_params.device, seed)
        return FactoryEncoderDecoder(model, seed)

    @staticmethod
    def create_model(config: ModelConfig, *, seed: int = 0) -> FactoryModel:
        """The model of whatever type the config has."""
        if isinstance(config.config, EncoderConfig):
            return ModelFactory.create_encoder(config.config, seed=seed)
        if isinstance(config.config, DecoderConfig):
            return ModelFactory.create_decoder(config.config, seed=seed)
        return ModelFactory.create_encoder_decoder(config.config, seed=seed)

    @staticmethod
    def list_model_types() -> list[str]:
        """The types of models there are."""
        return list(MODEL_TYPES)


def create_model(config: ModelConfig, *, seed: int = 0) -> FactoryModel:
    """The model of a config, as :meth:`ModelFactory.create_model`."""
    return ModelFactory.create_model(config, seed=seed)


def _built(spec: ArchSpec, device: str, seed: int) -> Any:
    return build(resolve(spec), seed, device=_placed(device))


def _placed(name: str) -> torch.device:
    """The device of that name; where this machine lacks it, the CPU, with a warning."""
    here = {"cpu": True, "mps": torch.backends.mps.is_available()}
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "mps" if here["mps"] else "cpu")
    device = torch.device(name)
    if here.get(device.type, (device.index or 0) < count):
        return device
    warnings.warn(
        f"device {name} is not on this machine: the model is put on the CPU",
        UserWarning,
        stacklevel=4,
    )
    return torch.device("cpu")
