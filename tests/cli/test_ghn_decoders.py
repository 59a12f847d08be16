"""``windtunnel ghn train`` with each decoder: it trains, and its folder opens as it was."""

import json
from pathlib import Path

import pytest
import torch
from tests.cli.ghn_files import write_ghn
from tests.conftest import Command

from windtunnel.hyper.anatomy import anatomy_of
from windtunnel.hyper.launch import load_ghn, ready_ghn
from windtunnel.hyper.low_rank import LowRankDecoder
from windtunnel.hyper.predict import predict
from windtunnel.hyper.stored import open_stored
from windtunnel.hyper.tiled import TiledDecoder

DECODERS = {
    "tiled": ("{type: tiled, block: 6, hidden: 8}", TiledDecoder),
    "low_rank": ("{type: low_rank, rank: 3, hidden: 8}", LowRankDecoder),
}


@pytest.fixture(autouse=True)
def files(workplace: Path) -> None:
    write_ghn(workplace)


@pytest.mark.parametrize("name", DECODERS)
def test_a_baseline_trains_and_opens_again(windtunnel: Command, name: str) -> None:
    written, kind = DECODERS[name]
    answer = windtunnel("ghn", "train", "ghn.yaml", "--out", "run", "--json",
                        "--set", f"decoder={written}")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["status"] == "finished"
    first, again = open_stored(Path("run")), open_stored(Path("run"))
    assert isinstance(first.network.decoder, kind)
    ready = ready_ghn(load_ghn(Path("ghn.yaml"), [f"decoder={written}"]))
    assert first.network.limits == ready.members.limits
    for index in ready.members.held_out():
        architecture = ready.members.space.whole[index].architecture
        anatomy = anatomy_of(architecture)
        mine, its = (one.network.weights(anatomy) for one in (first, again))
        assert mine.keys() == {slot.name for slot in anatomy.slots}
        assert all(torch.equal(mine[key], its[key]) for key in mine)
        assert predict(first, architecture).notes == ()


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_may_be_named_alone(name: str) -> None:
    chosen = load_ghn(Path("ghn.yaml"), [f"decoder={name}"]).decoder
    assert chosen.type == name
    assert chosen == type(chosen)()


def test_larger_than_known_is_grown_from_any_decoder(windtunnel: Command) -> None:
    written, _ = DECODERS["tiled"]
    answer = windtunnel("ghn", "train", "ghn.yaml", "--out", "run", "--set", f"decoder={written}")
    assert answer.code == 0, answer.err
    stored = open_stored(Path("run"))
    space = ready_ghn(load_ghn(Path("ghn.yaml"))).members.space.whole
    wide = next(m for m in space if m.values["d_model"] == 32 and m.values["n_layer"] == 4)
    found = predict(stored, wide.architecture)
    assert found.values == found.params
    assert "grown from d_model 16 to 32" in found.notes
