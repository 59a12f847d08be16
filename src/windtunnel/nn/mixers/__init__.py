"""Mixers: mix along time."""

from windtunnel.nn.mixers.attention import Attention
from windtunnel.nn.mixers.gru import GRU
from windtunnel.nn.mixers.lstm import LSTM
from windtunnel.nn.mixers.rnn import RNN

__all__ = ["GRU", "LSTM", "RNN", "Attention"]
