"""A source read by an encoder, a target written by a decoder (Vaswani et al. 2017, 1706.03762)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from windtunnel.arch.linear_maps import equip
from windtunnel.arch.model import Model, build_layers, encoder_scope, span_of
from windtunnel.arch.spec import Architecture
from windtunnel.nn.component import Norm, build_component
from windtunnel.nn.embedding import Embedding, InputPositions
from windtunnel.nn.streams import gathered, spread


class SourceEncoder(nn.Module):
    """The encoder of an encoder_decoder: b s -> b s d; its own embedding where it has one."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        config = architecture.encoder
        assert config is not None, "an architecture without an encoder was built as one with it"
        scope = encoder_scope(architecture)
        self.streams = config.streams
        self.embedding: Any = None
        if config.embedding is not None:
            embedding = Embedding if architecture.input == "tokens" else InputPositions
            self.embedding = embedding(config.embedding, scope)
        self.layers = build_layers(config.layers, scope)
        self.linear_nets = equip(self.layers, config.layers)
        self.norm: Norm[Any] = build_component("norm", config.norm, scope)

    def forward(self, source: Tensor, real: Tensor | None, shared: nn.Module) -> Tensor:
        """The memory (b, s, d); ``shared`` embeds the source where there is no own embedding."""
        span = span_of(source, real)
        embedding = shared if self.embedding is None else self.embedding
        x = spread(embedding(source, span), self.streams)
        for layer in self.layers:
            x = layer(x, span)
        memory: Tensor = self.norm(gathered(x, self.streams))
        return memory


class EncoderDecoder(Model):
    """(source b s, target b t) -> logits of the target's next tokens, b t V.

    It is a decoder with cross-attention that makes its memory itself: ``encoder.*`` are the
    parameters of the encoder, all others are named as a decoder's.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.encoder = SourceEncoder(architecture)

    def encode(self, source: Tensor, real: Tensor | None = None) -> Tensor:
        """The memory that the decoder reads: b s -> b s d; ``real`` (b, s) is False at pads."""
        memory: Tensor = self.encoder(source, real, self.embedding)
        return memory

    def forward(  # type: ignore[override]  # what is called has two sequences, not one
        self,
        source: Tensor,
        target: Tensor,
        source_real: Tensor | None = None,
        target_real: Tensor | None = None,
    ) -> Tensor:
        """Logits (b, t, V) of the token after each of the target's."""
        memory = self.encode(source, source_real)
        return super().forward(target, target_real, memory, source_real)
