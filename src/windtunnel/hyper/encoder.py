"""A graph transformer over the operations of an architecture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.hyper.anatomy import KINDS
from windtunnel.hyper.config import EncoderConfig
from windtunnel.hyper.graph import BUCKETS, FEATURES, Graph


class GraphEncoder(nn.Module):
    """Graph -> one vector an operation: n -> n w.

    Pre-norm attention over all pairs, with a bias for each head that depends on the distances there
    and back (Ying et al. 2021, arXiv 2106.05234, section 3.1.2, for directed graphs).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.kind = nn.Embedding(len(KINDS), w)
        self.features = nn.Linear(FEATURES, w)
        self.ahead = nn.Embedding(BUCKETS, config.heads)
        self.back = nn.Embedding(BUCKETS, config.heads)
        self.blocks = nn.ModuleList(Block(w, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(w)
        for embedding in (self.ahead, self.back):
            nn.init.zeros_(embedding.weight)

    def forward(self, graph: Graph) -> Tensor:
        own = self.features.weight  # says where to compute, and in which precision
        ahead = graph.ahead.to(own.device, torch.int32)
        x: Tensor = self.kind(graph.kinds.to(own.device)) + self.features(graph.features.to(own))
        bias = (self.ahead(ahead) + self.back(ahead.T)).permute(2, 0, 1)
        for block in self.blocks:
            x = block(x, bias)
        normed: Tensor = self.norm(x)
        return normed


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): n w -> n w; a bias h n n of the logits."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        n, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, 3, self.heads, w // self.heads).permute(1, 2, 0, 3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.out(y.transpose(0, 1).reshape(n, w))
        x = x + self.down(F.gelu(self.up(self.mlp_norm(x))))
        return x


def pooled(nodes: Tensor) -> Tensor:
    """The mean over operations: n w -> w."""
    return torch.mean(nodes, 0)
