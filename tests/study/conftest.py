"""Run configs and a ground without data, so that plans are tested by themselves."""

import json
from collections.abc import Callable, Iterator, Sequence

import pytest

from windtunnel.config import digest, parse_document
from windtunnel.study import sources
from windtunnel.study.arms import Ground, Settled
from windtunnel.study.engines import Engine, LocalEngine
from windtunnel.train.run_config import LoadedRun, RunConfig, load_run_document

VOCABULARY = 512
TRAIN = {"steps": 50, "batch_size": 4, "seq_len": 32}
DATA = {"tokenizer": {"type": "bpe", "vocab_size": VOCABULARY}}


@pytest.fixture(autouse=True)
def unwatched(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits the package while tests run stops no study of theirs."""
    monkeypatch.setattr(sources, "PACKAGE", tmp_path_factory.mktemp("package"))


@pytest.fixture
def load() -> Callable[..., LoadedRun]:
    """A run config by preset, with edits and a file's name."""
    return load_config


def load_config(preset: str, *edits: str, source: str = "") -> LoadedRun:
    tree = {"arch": {"preset": preset}, "data": DATA, "train": TRAIN}
    document = parse_document(json.dumps(tree), source or f"{preset}.yaml")
    return load_run_document(document, edits)


@pytest.fixture
def settle() -> Callable[[LoadedRun], Settled]:
    """Keys and fingerprints from the config alone."""
    return settle_config


def settle_config(loaded: LoadedRun) -> Settled:
    tree = loaded.config.model_dump(mode="json")
    nameless = {**tree, "arch": {k: v for k, v in tree["arch"].items() if k != "name"}}
    return Settled(digest(nameless), tree, digest(tree["data"]), VOCABULARY)


@pytest.fixture
def ground() -> Ground:
    """Speeds that fall with the width, so that they can be told apart."""

    def speeds(configs: Sequence[RunConfig]) -> list[float]:
        return [1000 / config.arch.d_model for config in configs]

    return Ground(settle_config, speeds)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[object]:
    """A Ray cluster of one node of three cores, over loopback."""
    from tests.study.ray_cluster import cluster  # before Ray: it sets what Ray reads at import

    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with cluster(num_cpus=3) as found:
        yield found


@pytest.fixture(scope="session")
def ray_engine(ray_cluster: object) -> Iterator[Engine]:
    """Workers on that cluster."""
    from windtunnel.study.engines.ray_engine import RayEngine

    engine = RayEngine(ray_cluster.address)  # type: ignore[attr-defined]
    yield engine
    engine.close()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine: what the executor promises holds on each."""
    if request.param == "local":
        return LocalEngine()
    found: Engine = request.getfixturevalue("ray_engine")
    return found
