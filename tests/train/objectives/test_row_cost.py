"""The cost of a row is that of what the objective makes of it."""

import pytest

from windtunnel.arch import ArchSpec, build, cost, resolve
from windtunnel.cli.checking import check_run
from windtunnel.config import parse_document
from windtunnel.study.matching import Candidate
from windtunnel.train.objectives.config import AutoConfig
from windtunnel.train.objectives.make import objective_of
from windtunnel.train.objectives.row_cost import row_cost
from windtunnel.train.run_config import load_run_document

LAYERS = "[{mixer: {type: attention, num_heads: 2}}]"
TRANSFORMER = (
    f"type: encoder_decoder, d_model: 16, encoder: {{layers: {LAYERS}}}, "
    f"decoder: {{layers: {LAYERS}}}"
)
RUN = f"""\
arch: {{{TRANSFORMER}}}
data: {{tokenizer: bytes}}
train: {{steps: 10, batch_size: 2, seq_len: 20, objective: {{type: seq2seq, source: 0.3}}}}
"""


def test_an_encoder_decoder_is_counted_at_the_lengths_of_the_cut() -> None:
    loaded = load_run_document(parse_document(RUN, "f.yaml"))
    architecture = resolve(loaded.config.arch, 259)
    objective = loaded.config.train.objective
    row = row_cost(objective, architecture, 20)
    assert row.source_len == 6
    whole = cost(architecture, 14, source_len=6)
    assert row.counted.total == whole.total
    trained = objective_of(objective, build(architecture, device="meta"))
    expected = trained.train_flops_per_token(architecture, 20)
    assert row.train_flops_per_token == pytest.approx(expected)
    assert Candidate(loaded.config, 259).flops_per_token == pytest.approx(expected)
    tree = check_run(loaded)
    assert tree["train_flops"] == pytest.approx(expected * 10 * 2 * 20)
    assert tree["source_len"] == 6
    assert tree["total"]["training_flops"] < cost(architecture, 20).train_flops_per_token * 20 / 14


def test_a_decoder_is_counted_at_the_whole_row() -> None:
    architecture = resolve(ArchSpec(d_model=16, vocab_size=9, layers=({"mixer": "gru"},)))  # type: ignore[arg-type]
    row = row_cost(AutoConfig(), architecture, 20)
    assert row.source_len == 0
    assert row.train_flops_per_token == cost(architecture, 20).train_flops_per_token
