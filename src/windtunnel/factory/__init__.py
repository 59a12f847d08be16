"""The model-factory format: YAML files of encoders, decoders and datasets, read as they stand.

Under it lies the package's own architecture spec: ``parse_model_config(path).to_spec()``.
"""

from windtunnel.factory.activations import ActivationFunctions
from windtunnel.factory.configs import (
    DecoderConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    ModelConfig,
    ModelType,
)
from windtunnel.factory.dataset_config import DatasetConfig
from windtunnel.factory.datasets import DatasetManager
from windtunnel.factory.models import FactoryModel, ModelFactory, create_model
from windtunnel.factory.parse import parse_config, parse_dataset_configs, parse_model_config
from windtunnel.factory.types import AttentionType, PerformerParams

__all__ = [
    "ActivationFunctions",
    "AttentionType",
    "DatasetConfig",
    "DatasetManager",
    "DecoderConfig",
    "EncoderConfig",
    "EncoderDecoderConfig",
    "FactoryModel",
    "ModelConfig",
    "ModelFactory",
    "ModelType",
    "PerformerParams",
    "create_model",
    "parse_config",
    "parse_dataset_configs",
    "parse_model_config",
]
