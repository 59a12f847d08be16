"""The rival: trained with a given time, kept, opened again, cut and grown like a prediction."""

import json
from pathlib import Path

import pytest
import torch
from tests.cli.ghn_files import write_ghn
from tests.hyper.tiny import member

import windtunnel
from windtunnel.arch import build
from windtunnel.errors import UsageError
from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.launch import CODE, create_ghn_folder, load_ghn, ready_ghn, train_ghn
from windtunnel.hyper.members import largest_of_each_kind
from windtunnel.hyper.predict import predict
from windtunnel.hyper.rival import train_rival
from windtunnel.hyper.singles import Singles
from windtunnel.hyper.stored import open_stored
from windtunnel.runs import RunFolder, code_digest


@pytest.fixture
def ghn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINDTUNNEL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("the cat sat on the mat, the dog ran. " * 60)
    write_ghn(tmp_path)
    ready = ready_ghn(load_ghn(tmp_path / "ghn.yaml"))
    create_ghn_folder(ready, tmp_path / "ghn")
    return tmp_path / "ghn"


def test_the_code_of_hypernetworks_and_spaces_is_part_of_a_run_s_identity(ghn: Path) -> None:
    """Other code there trains another network, which the store must not take for this one."""
    package = Path(windtunnel.__file__).parent
    assert all(any((package / layer).rglob("*.py")) for layer in CODE)
    assert {"hyper", "spaces"} < set(CODE)
    code = ready_ghn(load_ghn(ghn / "config.yaml")).identity["code"]
    assert code == code_digest(layers=CODE) != code_digest()


def test_a_run_that_has_not_ended_has_no_cost(ghn: Path) -> None:
    with pytest.raises(UsageError, match="has not ended"):
        train_rival(ghn, ghn.parent / "rival")


def test_singles_are_trained_for_each_kind_and_open_again(ghn: Path) -> None:
    train_ghn(RunFolder.open(ghn))
    told: list[str] = []
    took = train_rival(
        ghn, ghn.parent / "rival", rates=(1e-2, 1e-3), seconds=0.2, batch_size=4,
        tell=told.append,
    )  # fmt: skip
    stored = open_stored(ghn.parent / "rival")
    assert isinstance(stored.network, Singles)
    assert took.keys() == stored.network.sources.keys()
    for number, (key, one) in enumerate(took.items(), 1):
        own = [text for text in told if text.startswith(f"{key} ({number} of {len(took)}): ")]
        assert sum(": rate " in text for text in own) == 2
        assert own[-1].endswith(f"step {one['steps']} of {one['steps']}, loss {one['loss']:.4f}")
    assert all(one["steps"] >= 20 and one["lr"] in (1e-2, 1e-3) for one in took.values())
    members = ready_ghn(load_ghn(ghn / "config.yaml")).members
    space = members.space.whole
    assert set(took) == {"rnn", "lstm", "attention"}
    for index in largest_of_each_kind(members.parts["train"]):
        architecture = space[index].architecture
        found = predict(stored, architecture)
        shapes = {n: tuple(p.shape) for n, p in build(architecture).named_parameters()}
        assert {n: tuple(w.shape) for n, w in found.weights.items()} == shapes
    wide = space.where("d_model == 32 and n_layer == 4 and family == lstm")[0].architecture
    assert predict(stored, wide).notes
    for key, architecture in stored.network.sources.items():
        fresh = dict(build(architecture).named_parameters())
        kept = dict(stored.network.models[key].named_parameters())
        assert any(not torch.equal(fresh[name], kept[name]) for name in fresh), "it was trained"
        whole = stored.network.weights(anatomy_of(architecture))
        assert whole.keys() == kept.keys()
        assert all(torch.equal(whole[name], kept[name]) for name in kept), "nothing is cut off"
    with pytest.raises(UsageError, match="already exists"):
        train_rival(ghn, ghn.parent / "rival")
    facts = json.loads((ghn.parent / "rival" / "network.json").read_text())
    assert facts["training"].keys() == took.keys()


def test_every_tensor_is_cut_from_the_one_at_its_place() -> None:
    """Of a source whose tensors are numbered; a block has two norms, and each takes its own."""
    singles = Singles({"attention": member("mini_gpt", d_model=8, n_layer=2)})
    own = dict(singles.models["attention"].named_parameters())
    with torch.no_grad():
        for number, value in enumerate(own.values()):
            value.fill_(number + 1)
    for layers in (1, 2, 4):
        found = singles.weights(anatomy_of(member("mini_gpt", d_model=4, n_layer=layers)))
        for name, value in found.items():
            parts = name.split(".")
            if parts[0] == "layers":
                parts[1] = str(int((int(parts[1]) + 0.5) / layers * 2))
            source = own[".".join(parts)]
            factor = (source.shape[-1] / value.shape[-1]) ** 0.5 if value.dim() > 1 else 1.0
            factor = 1.0 if parts[0] == "embedding" or parts[:2] == ["head", "weight"] else factor
            assert torch.allclose(value, source.flatten()[0] * factor), name


def test_a_rival_that_is_interrupted_leaves_nothing(
    ghn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_ghn(RunFolder.open(ghn))
    before = sorted(ghn.parent.iterdir())

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("windtunnel.hyper.rival.train_single", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_rival(ghn, ghn.parent / "rival", seconds=0.1)
    assert sorted(ghn.parent.iterdir()) == before
