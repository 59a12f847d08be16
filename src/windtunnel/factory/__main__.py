"""``python -m windtunnel.factory --config FILE``: checks a file and says what it holds."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from windtunnel.arch import cost, resolve
from windtunnel.errors import WindtunnelError
from windtunnel.factory.configs import ModelConfig
from windtunnel.factory.dataset_config import DatasetConfig
from windtunnel.factory.parse import parse_config, parse_dataset_configs, parse_model_config


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or the exit code of what went wrong, which is told on stderr. Nothing is built."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lines = _lines(options)
        for warning in caught:
            print(f"warning: {warning.message}", file=sys.stderr)
    except WindtunnelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m windtunnel.factory", description="Check a file of the model-factory format."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="The YAML file.")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--model-only", action="store_true", help="Read the model alone.")
    either.add_argument("--data-only", action="store_true", help="Read the datasets alone.")
    return parser


def _lines(options: argparse.Namespace) -> list[str]:
    if options.model_only:
        return _of_model(parse_model_config(options.config))
    if options.data_only:
        return _of_datasets(parse_dataset_configs(options.config))
    model, datasets = parse_config(options.config)
    return _of_model(model) + _of_datasets(datasets)


def _of_model(config: ModelConfig) -> list[str]:
    architecture = resolve(config.to_spec())
    params = int(cost(architecture).total.params)
    depth = f"{len(architecture.layers)} layers"
    if architecture.encoder is not None:
        depth = f"{len(architecture.encoder.layers)} + {depth}"
    return [
        f"model {config.name}: {config.model_type}, d_model {architecture.d_model}, {depth}, "
        f"{params:,} parameters"
    ]


def _of_datasets(datasets: Sequence[DatasetConfig]) -> list[str]:
    return [
        f"dataset {d.name}: corpus {d.corpus_dir or 'not told'}, "
        f"manifests {d.output_dir or 'not told'}"
        for d in datasets
    ]


if __name__ == "__main__":
    sys.exit(main())
