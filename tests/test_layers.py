"""The structure of the package: which layer may import which, and what stays small."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "windtunnel"
LAYERS = (
    "errors",
    "config",
    "runs",
    "nn",
    "arch",
    "data",
    "trace",
    "generate",
    "train",
    "spaces",
    "factory",
    "runner",
    "study",
    "hyper",
    "interop",
    "report",
    "cli",
)
MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(m.relative_to(PACKAGE)) for m in MODULES]


def layer_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=IDS)
def test_imports_point_one_way(module: Path) -> None:
    layer = layer_of(module)
    if layer in ("__init__", "__main__"):
        return
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for name in imported(ast.parse(module.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] == "windtunnel" and parts[1] != "__version__":
            assert parts[1] in allowed, f"{layer} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=IDS)
def test_modules_and_functions_stay_small(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 420, "a module is one thing of about 400 lines at most"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = node.body[1].lineno if documented and len(node.body) > 1 else first.lineno
            length = (node.end_lineno or start) - start + 1
            assert length <= 45, f"{node.name} (line {node.lineno}) has {length} lines of code"


@pytest.mark.parametrize("module", MODULES, ids=IDS)
def test_nothing_is_ever_unpickled(module: Path) -> None:
    found = list(ways_to_unpickle(ast.parse(module.read_text(encoding="utf-8"))))
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle as p",
        "from multiprocessing.reduction import ForkingPickler",
        "from torch import load",
        "from torch import load as read; read(p)",
        "import torch as t; t.load(p)",
        "from torch.serialization import load",
        "import torch; torch.serialization.load(p)",
        "import torch.jit; torch.jit.load(p)",
        "import torch; torch.hub.load_state_dict_from_url(p)",
        "import torch; getattr(torch, 'load')(p)",
        "import importlib; importlib.import_module('pickle')",
        "import numpy as np; np.load(p, allow_pickle=True)",
        "import numpy as np; np.load(p, 'r', yes)",
        "import numpy as np; np.load(p, **options)",
        "import pandas as pd; pd.read_pickle(p)",
        "import yaml; yaml.load(p, Loader=yaml.Loader)",
        "from yaml import unsafe_load",
        "import yaml; yaml.full_load(p)",
    ],
)
def test_every_way_to_unpickle_is_seen(code: str) -> None:
    assert list(ways_to_unpickle(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "import json; json.load(p)",
        "import numpy as np; np.load(p, allow_pickle=False)",
        "import numpy as np; np.load(p)",
        "import yaml; yaml.safe_load(p)",
        "optimizer.load_state_dict(p)",
    ],
)
def test_what_reads_plain_data_is_allowed(code: str) -> None:
    assert not list(ways_to_unpickle(ast.parse(code)))


PICKLERS = {
    "pickle", "_pickle", "cPickle", "pickletools", "copyreg", "dill", "cloudpickle", "shelve",
    "marshal", "joblib",
}  # fmt: skip
UNPICKLE = {"read_pickle", "unsafe_load", "full_load", "load_all", "unsafe_load_all",
            "full_load_all", "load_state_dict_from_url", "ForkingPickler", "Unpickler"}  # fmt: skip
LOADERS = {"torch", "yaml"}
"""Packages whose ``load`` unpickles, whatever module of theirs it stands in."""


def ways_to_unpickle(tree: ast.AST) -> Iterator[str]:
    """What of a module could read a pickle, also under another name or by its text."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                root = node.module.split(".")[0]
                names[alias.asname or alias.name] = root
                if alias.name in UNPICKLE or (root in LOADERS and alias.name in ("load", "save")):
                    yield f"line {node.lineno}: from {node.module} import {alias.name}"
    for name in imported(tree):
        if PICKLERS & set(name.split(".")):
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            of = names.get(root.id) if isinstance(root, ast.Name) else None
            if node.attr in UNPICKLE or (of in LOADERS and node.attr in ("load", "save")):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            yield from _calls(node, names)


def _calls(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    called = ast.unparse(node.func)
    texts = {a.value for a in node.args if isinstance(a, ast.Constant)}
    if called.split(".")[-1] in ("getattr", "import_module", "__import__") and texts & (
        PICKLERS | UNPICKLE | {"load"}
    ):
        yield f"line {node.lineno}: {ast.unparse(node)}"
    of_numpy = names.get(called.split(".")[0]) == "numpy" and called.split(".")[-1] == "load"
    # The third of numpy.load is allow_pickle, and so might one of unknown keywords be.
    if of_numpy and (len(node.args) > 2 or any(keyword.arg is None for keyword in node.keywords)):
        yield f"line {node.lineno}: {ast.unparse(node)}"
    for keyword in node.keywords:
        refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg == "allow_pickle" and not refused:
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("name", ["errors", "config", "runs", "report", "cli.main", "data.config"])
def test_light_layers_do_not_import_torch(name: str) -> None:
    code = f"import sys, windtunnel.{name}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
