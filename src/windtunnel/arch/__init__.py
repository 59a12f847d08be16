"""Architectures as data: spec, resolve, build, cost, diff, presets."""

from windtunnel.arch.block import parse_block
from windtunnel.arch.build import build, example_inputs
from windtunnel.arch.cost import ArchCost, PartCost, cost, layer_cost
from windtunnel.arch.diff import Difference, diff
from windtunnel.arch.effect import without_effect
from windtunnel.arch.encoder_decoder import EncoderDecoder
from windtunnel.arch.fold import fold, folded_to_write
from windtunnel.arch.memory import Moment, Step, TrainMemory, train_memory
from windtunnel.arch.model import Model, ModelState, scope_of
from windtunnel.arch.presets import expand_preset, preset_document, preset_names
from windtunnel.arch.resolve import resolve, settled, try_resolve
from windtunnel.arch.short_form import short_form
from windtunnel.arch.spec import Architecture, ArchSpec, LayerConfig, LayerSpec

__all__ = [
    "ArchCost",
    "ArchSpec",
    "Architecture",
    "Difference",
    "EncoderDecoder",
    "LayerConfig",
    "LayerSpec",
    "Model",
    "ModelState",
    "Moment",
    "PartCost",
    "Step",
    "TrainMemory",
    "build",
    "cost",
    "diff",
    "example_inputs",
    "expand_preset",
    "fold",
    "folded_to_write",
    "layer_cost",
    "parse_block",
    "preset_document",
    "preset_names",
    "resolve",
    "scope_of",
    "settled",
    "short_form",
    "train_memory",
    "try_resolve",
    "without_effect",
]
