"""Where weights of Hugging Face come from: a folder, the local cache or hub, a GGUF file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from windtunnel.errors import DataError, UsageError
from windtunnel.interop.hf.family import Family
from windtunnel.train.tensors import read_tensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers")
_MOST_LAYERS = 10_000
"""transformers makes lists of that length before any weight is read."""
_REFUSALS = (
    ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, ArithmeticError,
)  # fmt: skip
"""What the classes of transformers raise where a config makes no sense."""
_WANTED = ("*.json", "*.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def transformers() -> Any:
    """The library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import transformers as library
    except ImportError as error:
        raise UsageError(
            "this needs transformers; install it with: pip install 'windtunnel[hf]'"
        ) from error
    return library


@contextmanager
def model_folder(
    source: str, *, gguf_file: str | None = None, download: bool = False
) -> Iterator[Path]:
    """The folder with ``config.json`` and weights, for as long as the block lasts.

    ``source`` is a folder, a ``.gguf`` file or the name of a model; a name is looked up in the
    local cache, and fetched with ``download`` alone.

    Raises:
        UsageError: there is no such folder, name or file.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        path, gguf_file = path.parent, path.name
    folder = path if path.is_dir() else _from_hub(source, gguf_file, download)
    if gguf_file is None:
        yield folder
        return
    if not (folder / gguf_file).is_file():
        raise UsageError(f"{folder}: has no file {gguf_file}")
    with TemporaryDirectory(prefix="windtunnel-gguf-") as converted:
        _convert_gguf(folder, gguf_file, Path(converted))
        yield Path(converted)


def _from_hub(name: str, gguf_file: str | None, download: bool) -> Path:
    """The folder of a model in the hub's local cache."""
    transformers()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"{name}: is no folder")
    wanted = [*_WANTED, *([gguf_file] if gguf_file else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=not download))
    except HFValidationError as error:
        raise UsageError(f"{name}: is neither a folder nor the name of a model") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if download:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{name}: cannot be fetched: {reason}") from error
        raise UsageError(
            f"{name}: is no folder, and no model of that name is in the local cache; "
            "--download fetches it"
        ) from error


def _convert_gguf(folder: Path, gguf_file: str, out: Path) -> None:
    """Writes config, float32 weights and tokenizer of a GGUF file, as transformers reads it."""
    library = transformers()
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a GGUF file needs {error.name}; install it with: pip install 'windtunnel[hf]'"
        ) from error
    bars = library.utils.logging.is_progress_bar_enabled()
    library.utils.logging.disable_progress_bar()
    try:
        model = library.AutoModelForCausalLM.from_pretrained(
            str(folder),
            gguf_file=gguf_file,
            dtype=torch.float32,
            local_files_only=True,
            quantization_config=library.GgufConfig(dequantize=True),
        )
        tokenizer = library.AutoTokenizer.from_pretrained(
            str(folder), gguf_file=gguf_file, local_files_only=True
        )
        model.save_pretrained(str(out))
        tokenizer.save_pretrained(str(out))
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{folder / gguf_file}: transformers cannot read it: {reason}") from error
    finally:
        if bars:
            library.utils.logging.enable_progress_bar()


def read_config(folder: Path, notes: list[str]) -> dict[str, Any]:
    """The model's config with every default of its class; ``notes`` is told of keys that
    transformers itself passes over.

    Raises:
        UsageError: there is no config, or transformers refuses it.
    """
    library = transformers()
    from huggingface_hub.errors import StrictDataclassError

    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: has no config.json")
    try:
        written = json.loads((folder / "config.json").read_bytes())
        _check_layers(written if isinstance(written, dict) else {}, _MOST_LAYERS, folder)
        config = library.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (*_REFUSALS, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{folder / 'config.json'}: {reason}") from error
    values: dict[str, Any] = config.to_dict()
    if values.get("quantization_config"):
        raise UsageError(f"{folder / 'config.json'}: quantization_config: weights that are not "
                         "plain floating point cannot be read")  # fmt: skip
    known = type(config)().to_dict().keys()
    strange = sorted(
        key
        for key in values.keys() - known
        if not key.startswith("_") and not key.endswith("_token_id")
    )
    if strange:
        names = ", ".join(strange)
        notes.append(f"{names}: {type(config).__name__} does not know it, so it is passed over")
    return {key: value for key, value in values.items() if key in known}


def _check_layers(values: Mapping[str, Any], most: int, folder: Path) -> None:
    for key in _LAYERS:
        count = values.get(key)
        if isinstance(count, int) and count > most:
            raise UsageError(
                f"{folder / 'config.json'}: {key}: {count} layers, but there can be {most} at most"
            )


def check_layers(values: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """No layer is without a weight: what cannot be there is not even laid out.

    Raises:
        UsageError: the config has more layers than the files have tensors.
    """
    _check_layers(values, len(tensors), folder)


def read_weights(
    folder: Path, family: Family, notes: list[str], *, allow_nonfinite: bool = False
) -> dict[str, Tensor]:
    """Every weight in a folder's safetensors files, under the names of the family's whole model;
    ``notes`` is told of those that are left out, and of accepted ones that are not finite.

    Raises:
        UsageError: there are none, only pickles, a shard is missing, they are no floats, or some
            are not finite and that is not allowed.
        DataError: a file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for file, names in _files(folder).items():
        try:
            found = read_tensors(folder / file)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{folder / file}: is damaged ({error})") from error
        if names is not None and set(names) != found.keys():
            odd = ", ".join(sorted(set(names) ^ found.keys())[:3])
            raise DataError(f"{folder / file}: does not hold what {INDEX} says: {odd}")
        tensors |= found
    kept = _cleaned(tensors, family, folder, notes)
    for name, tensor in kept.items():  # constants of old files, which are left out, may be whole
        if tensor.dtype not in _FLOATS:
            raise UsageError(f"{folder}: {name} is {tensor.dtype}, not plain floating point")
    broken = _nonfinite(kept)
    if allow_nonfinite:
        notes += broken
    elif broken:
        told = broken[:8] + ([f"and {len(broken) - 8} more"] if len(broken) > 8 else [])
        lines = [f"{folder}: {text}" for text in told]
        raise UsageError("\n".join([*lines, "--allow-nonfinite takes such weights as they are"]))
    return kept


def _nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """What is NaN, or infinite in float32, in words."""
    found = []
    for name, tensor in sorted(tensors.items()):
        values = tensor.float()
        if not math.isfinite(values.abs().max() if values.numel() else 0.0):
            count = values.numel() - int(values.isfinite().sum())
            found.append(f"{name}: {count:,} of {values.numel():,} values are NaN or infinite")
    return found


def _files(folder: Path) -> Mapping[str, list[str] | None]:
    """The files with weights, each with the names that it must hold where they are known."""
    if (folder / SINGLE).is_file():
        return {SINGLE: None}
    if (folder / INDEX).is_file():
        shards: dict[str, list[str]] = {}
        try:
            places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            for name, file in places.items():
                shards.setdefault(str(file), []).append(name)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{folder / INDEX}: is damaged") from error
        if not shards:
            raise DataError(f"{folder / INDEX}: names no weight")
        for file in shards:
            if Path(file).name != file or not (folder / file).is_file():
                raise UsageError(f"{folder}: {file}, named in {INDEX}, is missing")
        return shards
    pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise UsageError(
            f"{folder}: has {pickles[0]} but no {SINGLE}: a pickle can run code when it is opened, "
            "so it is never read; save the model again as safetensors (save_pretrained does)"
        )
    raise UsageError(f"{folder}: has no {SINGLE}")


def _cleaned(
    tensors: dict[str, Tensor], family: Family, folder: Path, notes: list[str]
) -> dict[str, Tensor]:
    """Without constants, other heads and copies; names of base models and old files completed."""
    kept = {_renamed(name, family): tensor for name, tensor in tensors.items()}
    kept = {name: t for name, t in kept.items() if not _matches(name, family.buffers)}
    if not any(name.startswith(family.prefix) for name in kept):
        copy = family.tied[0] if family.tied else None
        kept = {name if name == copy else family.prefix + name: t for name, t in kept.items()}
    beside = sorted(name for name in kept if _matches(name, family.beside))
    if beside:
        notes.append(f"{', '.join(beside)}: no part of {family.causal_class}, so left out")
    kept = {name: tensor for name, tensor in kept.items() if name not in beside}
    for copy, original in family.copies:
        kept = _without_copy(kept, copy, original, f"{folder}: {copy} differs from {original}")
    return kept


def _renamed(name: str, family: Family) -> str:
    for pattern, replacement in family.renamed:
        name = re.sub(pattern, replacement, name)
    return name


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    full = name if "." in name else f".{name}"
    return any(re.fullmatch(pattern, full) for pattern in patterns)


def with_stored_tie(
    values: dict[str, Any], tensors: Mapping[str, Tensor], family: Family
) -> dict[str, Any]:
    """The config, with ``tie_word_embeddings`` as the weights say where the family wants that."""
    if not family.stored_tie:
        return values
    assert family.tied is not None, "a family without a tie asks the files for it"
    head, embedding = (tensors.get(name) for name in family.tied)
    tied = head is None or (embedding is not None and _same(head, embedding))
    return {**values, "tie_word_embeddings": tied}


def without_tied(tensors: dict[str, Tensor], family: Family, folder: Path) -> dict[str, Tensor]:
    """Without the second copy of a tied weight, which must be the same.

    Raises:
        UsageError: the config says that the head is tied, and the weights differ.
    """
    if family.tied is None:
        return tensors
    copy, original = family.tied
    text = f"{folder}: tie_word_embeddings is true, but {copy} differs from {original}"
    return _without_copy(tensors, copy, original, text)


def _without_copy(
    tensors: dict[str, Tensor], copy: str, original: str, refusal: str
) -> dict[str, Tensor]:
    if copy not in tensors:
        return tensors
    if original in tensors and not _same(tensors[copy], tensors[original]):
        raise UsageError(refusal)
    return {name: tensor for name, tensor in tensors.items() if name != copy}


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values; NaN is the same as NaN."""
    if torch.equal(one, other):
        return True
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
