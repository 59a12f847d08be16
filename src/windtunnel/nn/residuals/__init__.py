"""Residuals: how a branch's output joins the stream."""

from windtunnel.nn.residuals.add import AddResidual
from windtunnel.nn.residuals.learned import LearnedResidual
from windtunnel.nn.residuals.none import NoResidual
from windtunnel.nn.residuals.rezero import ReZeroResidual
from windtunnel.nn.residuals.scaled import ScaledResidual

__all__ = ["AddResidual", "LearnedResidual", "NoResidual", "ReZeroResidual", "ScaledResidual"]
