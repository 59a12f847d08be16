"""The files of a hypernetwork that trains in a second."""

from pathlib import Path

SPACE = """\
name: tiny
union:
  - family: rnn
    axes: {d_model: [8, 16, 32], n_layer: [1, 2, 4], p_drop: [0.0], tie_weights: [true, false]}
  - family: lstm
    axes: {d_model: [8, 16, 32], n_layer: [1, 2, 4], p_drop: [0.0], tie_weights: [true, false]}
  - family: mini_gpt
    axes: {d_model: [8, 16, 32], n_layer: [1, 2, 4], n_head: [1, 2], ff_ratio: [1, 2],
           p_drop: [0.0], tie_weights: [true, false]}
"""
GHN = """\
name: tiny
space: space.yaml
split: {d_model: 16, n_layer: 2, held_out: 0.3}
encoder: {layers: 1, width: 8, heads: 2}
decoder: {type: banks, components: 2, knots: 2, hidden: 8}
meta_batch: 2
eval_members: 3
data: {source: ./corpus.txt, tokenizer: bytes}
train: {steps: 6, batch_size: 4, seq_len: 8, lr: 3e-3, ema: 0.9, eval_every: 3, eval_tokens: 200,
        checkpoint_every: 2, log_every: 1, threads: 1}
"""


def write_ghn(folder: Path = Path()) -> None:
    """``ghn.yaml`` and its ``space.yaml``."""
    (folder / "space.yaml").write_text(SPACE, encoding="utf-8")
    (folder / "ghn.yaml").write_text(GHN, encoding="utf-8")
