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
    "factory",
    "runner",
    "study",
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
    tree = ast.parse(module.read_text(encoding="utf-8"))
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    assert not forbidden & {name.split(".")[0] for name in imported(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called = f"{node.value.id}.{node.attr}"
            assert called not in ("torch.load", "torch.save", "yaml.load", "yaml.unsafe_load")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


@pytest.mark.parametrize("name", ["errors", "config", "runs", "report", "cli.main", "data.config"])
def test_light_layers_do_not_import_torch(name: str) -> None:
    code = f"import sys, windtunnel.{name}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
