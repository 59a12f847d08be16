"""The seed's generator of configurations: what it returns are sequences, and no lists."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from windtunnel.spaces.block import Naming
from windtunnel.spaces.families import family_names
from windtunnel.spaces.grids import (
    GRIDS,
    MAX_SEQ_LEN,
    VOCAB_SIZE,
    family_block,
    full,
    full_prefix,
    grid_values,
    reasonable,
)
from windtunnel.spaces.member import Member
from windtunnel.spaces.space import Space

SEED = 42


class Configs(Sequence[dict[str, Any]]):
    """The configurations of a space's members, each made when it is asked for.

    A configuration has ``model_type``, ``name`` and the sizes of the member.

    >>> configs = ModelConfigGenerator(vocab_size=100, max_seq_len=8).generate_reasonable_configs()
    >>> len(configs), configs[0]["name"], len(configs[10:20])
    (16704, 'rnn-001-64d-1L-d0.0-tTrue', 10)
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        """The members themselves."""

    def __len__(self) -> int:
        return len(self.space)

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice | NDArray[Any]) -> Configs: ...
    def __getitem__(self, key: int | slice | NDArray[Any]) -> dict[str, Any] | Configs:
        if isinstance(key, slice) or (isinstance(key, np.ndarray) and key.ndim):
            return Configs(self.space[key])
        return _config(self.space[operator.index(key)])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_config, self.space)

    def __contains__(self, value: object) -> bool:
        name = value.get("name") if isinstance(value, dict) else None
        return isinstance(name, str) and name in self.space and _config(
            self.space.find(name)
        ) == value  # fmt: skip

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str) or len(self) != len(other):
            return False
        return all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Configs({len(self):,} of {self.space.name})"


def _config(member: Member) -> dict[str, Any]:
    return {"model_type": member.family, "name": member.name, **member.config}


class ModelConfigGenerator:
    """Configurations of the seed's five families, and of every family that is registered.

    ``seed`` is what loaders shuffle by; there is nothing random in the configurations.
    """

    def __init__(
        self, vocab_size: int = VOCAB_SIZE, max_seq_len: int = MAX_SEQ_LEN, seed: int = SEED
    ) -> None:
        self.vocab_size = vocab_size
        self.max_seq_len = max_seq_len
        self.seed = seed

    def generate_reasonable_configs(self) -> Configs:
        """The 16,704 of the practical grid."""
        return Configs(reasonable(self.vocab_size, self.max_seq_len))

    def generate_all_configs(self) -> Configs:
        """The 2,998,336 of the full grid."""
        return Configs(full(self.vocab_size, self.max_seq_len))

    def generate_configs(self, family: str, **values: Sequence[Any]) -> Configs:
        """One family, with the values of the full grid where none are given.

        Raises:
            UsageError: an unknown family or axis, or an axis without values.
        """
        usual = grid_values(GRIDS[1], family) if family in family_names() else {}
        block = family_block(
            family,
            {**usual, **values},
            Naming(full_prefix(family), decimals=2),
            vocab_size=self.vocab_size,
            max_seq_len=self.max_seq_len,
        )
        return Configs(Space(family, [block]))

    def _recurrent(self, family: str, *lists: Sequence[Any] | None) -> Configs:
        return self._given(family, ("d_model", "n_layer", "p_drop", "tie_weights"), lists)

    def _transformer(self, family: str, *lists: Sequence[Any] | None) -> Configs:
        names = ("d_model", "n_layer", "n_head", "ff_ratio", "p_drop", "tie_weights")
        return self._given(family, names, lists)

    def _given(
        self, family: str, names: Sequence[str], lists: Sequence[Sequence[Any] | None]
    ) -> Configs:
        pairs = zip(names, lists, strict=True)
        return self.generate_configs(family, **{n: v for n, v in pairs if v is not None})

    def generate_rnn_configs(
        self,
        d_models: Sequence[int] | None = None,
        n_layers: Sequence[int] | None = None,
        dropouts: Sequence[float] | None = None,
        tie_weights_options: Sequence[bool] | None = None,
    ) -> Configs:
        """The full grid's RNNs, or those of other values."""
        return self._recurrent("rnn", d_models, n_layers, dropouts, tie_weights_options)

    def generate_lstm_configs(
        self,
        d_models: Sequence[int] | None = None,
        n_layers: Sequence[int] | None = None,
        dropouts: Sequence[float] | None = None,
        tie_weights_options: Sequence[bool] | None = None,
    ) -> Configs:
        """The full grid's LSTMs, or those of other values."""
        return self._recurrent("lstm", d_models, n_layers, dropouts, tie_weights_options)

    def generate_gru_configs(
        self,
        d_models: Sequence[int] | None = None,
        n_layers: Sequence[int] | None = None,
        dropouts: Sequence[float] | None = None,
        tie_weights_options: Sequence[bool] | None = None,
    ) -> Configs:
        """The full grid's GRUs, or those of other values."""
        return self._recurrent("gru", d_models, n_layers, dropouts, tie_weights_options)

    def generate_gpt_encoder_configs(
        self,
        d_models: Sequence[int] | None = None,
        n_layers: Sequence[int] | None = None,
        n_heads_options: Sequence[int] | None = None,
        d_ff_ratios: Sequence[int] | None = None,
        dropouts: Sequence[float] | None = None,
        tie_weights_options: Sequence[bool] | None = None,
    ) -> Configs:
        """The full grid's GPT encoders, or those of other values; heads divide the width."""
        return self._transformer("gpt_encoder", d_models, n_layers, n_heads_options, d_ff_ratios,
                                 dropouts, tie_weights_options)  # fmt: skip

    def generate_mini_gpt_configs(
        self,
        d_models: Sequence[int] | None = None,
        n_layers: Sequence[int] | None = None,
        n_heads_options: Sequence[int] | None = None,
        d_ff_ratios: Sequence[int] | None = None,
        dropouts: Sequence[float] | None = None,
        tie_weights_options: Sequence[bool] | None = None,
    ) -> Configs:
        """The full grid's mini GPTs, or those of other values; heads divide the width."""
        return self._transformer("mini_gpt", d_models, n_layers, n_heads_options, d_ff_ratios,
                                 dropouts, tie_weights_options)  # fmt: skip
