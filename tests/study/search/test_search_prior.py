"""A search that begins with what a prior ranks best: those are asked first, the same each time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.study.search.test_search_inquiry import (
    SPACE,
    base,
    command,
    create,
    inquiry,
    plain,
    question,
    settle,
    started,
)

from windtunnel.arch import Architecture
from windtunnel.errors import UsageError
from windtunnel.study.arms import Ground
from windtunnel.study.folder import StudyFolder
from windtunnel.study.rounds import conduct_inquiry
from windtunnel.study.search.inquiry import Searching
from windtunnel.study.search.prior import Prior
from windtunnel.study.search.trial import BOOK, Book

WIDTH, MIXER, HEADS = "arch.d_model", "arch.layers[*].mixer", "arch.layers[*].mixer.num_heads"
BEST = [
    {WIDTH: width, MIXER: mixer, **({HEADS: 1} if mixer == "attention" else {})}
    for width in (64, 48)
    for mixer in ("gru", "attention")
]
"""What :func:`wide_gru` ranks first; 3 heads are the same to it as 1, and stand later or are not
valid."""


def wide_gru(architectures: Sequence[Architecture]) -> list[float]:
    """Wide is good, and of the same width GRUs are; it cannot tell heads apart."""
    return [-a.d_model - (a.layers[0].mixer.type == "gru") for a in architectures]


def prior(**changes: Any) -> Prior:
    values: dict[str, Any] = {"trials": 3, "sample": 200, "source": {"predictor": "wide"}}
    return Prior(**{"rank": wide_gru, **values, **changes})


def asking(search: Any, given: Prior | None, folder: Path | None = None, **more: Any) -> Searching:
    book = Book(None if folder is None else folder / BOOK)
    ground = Ground(settle, None, lambda train: more.get("room"))
    return Searching(search, base(), ground=ground, book=book, prior=given)


def asked(searching: Searching) -> list[dict[str, Any]]:
    """The parameters of the first batch."""
    searching.next([], lambda digest: None)
    return [dict(trial.params) for trial in searching.trials]


def without_heads(params: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in params.items() if path in (WIDTH, MIXER)}


SAMPLERS: list[Any] = [
    {"type": "tpe", "startup_trials": 3}, "random", "grid", {"type": "nsga2", "population": 3},
    "cma-es",
]  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_what_it_ranks_best_is_asked_first(sampler: Any) -> None:
    search = question(sampler=sampler, batch=4, trials=8, space=SPACE | more_numbers(sampler))
    found = asking(search, prior())
    trials = asked(found)
    assert [without_heads(t) for t in trials[:3]] == [without_heads(b) for b in BEST[:3]]
    assert len(trials) == 4
    # What the prior does not know is the sampler's: rates differ and are those of the space.
    assert all("train.lr" in params for params in trials)
    assert "train.lr" not in found.first_points()[0]
    # Twice the same; with another seed of the sampler other rates.
    assert asked(asking(search, prior())) == trials


def more_numbers(sampler: Any) -> dict[str, Any]:
    """CMA-ES needs two numbers that are always there; the rate is one, the width another."""
    return {"train.weight_decay": {"range": [0, 0.2]}} if sampler == "cma-es" else {}


def test_without_one_nothing_changes() -> None:
    for sampler in SAMPLERS[:4]:
        search = question(sampler=sampler)
        one, other = asking(search, None), inquiry(search)
        assert one.digest == other.digest
        assert asked(one) == asked(other)
        assert "prior" not in one.book.facts
    assert asking(search, prior()).digest != one.digest
    assert asking(search, prior()).digest == asking(search, prior()).digest
    for change in ({"trials": 2}, {"sample": 9}, {"source": {"predictor": "other"}}):
        assert asking(search, prior(**change)).digest != asking(search, prior()).digest


def test_what_is_invalid_or_does_not_fit_is_not_asked() -> None:
    """3 heads divide 48 alone; 64 channels are more than there is."""
    space = {**SPACE, HEADS: {"choice": [3], "when": {MIXER: "attention"}}}
    search = question(sampler="random", space=space)
    seen: list[Architecture] = []

    def rank(architectures: Sequence[Architecture]) -> list[float]:
        seen.extend(architectures)
        return wide_gru(architectures)

    points = asking(search, prior(rank=rank)).first_points()
    assert [(p[WIDTH], p[MIXER]) for p in points] == [
        (64, "gru"), (48, "gru"), (48, "attention"),
    ]  # fmt: skip
    assert {a.d_model for a in seen if a.layers[0].mixer.type == "attention"} == {48}
    free = asking(search, None)
    room = max(
        memory
        for width, memory in ((t.params[WIDTH], t.costs.memory_bytes) for t in drawn(free))
        if width < 64
    )
    small = asking(search, prior(), room=room).first_points()
    assert {point[WIDTH] for point in small} <= {16, 32, 48}


def drawn(searching: Searching) -> list[Any]:
    from windtunnel.study.search.gate import make_trial
    from windtunnel.study.search.trial import Gate

    points = [{"train.lr": 1e-3, WIDTH: width, MIXER: "gru"} for width in (16, 32, 48, 64)]
    return [
        make_trial(n, point, searching.base, seed=0, ground=searching.ground, gate=Gate())
        for n, point in enumerate(points)
    ]


def test_a_space_without_architectures_is_refused() -> None:
    search = question(space={"train.lr": SPACE["train.lr"]})
    with pytest.raises(UsageError, match="no path below arch"):
        asking(search, prior()).first_points()


def conducted(folder: Path, given: Prior) -> dict[str, Any]:
    search = question(sampler={"type": "tpe", "startup_trials": 3})
    answer = conduct_inquiry(
        asking(search, given, folder), StudyFolder(folder), cores=2, workers=2, create=create,
        command=command,
    )  # fmt: skip
    found: dict[str, Any] = answer.to_dict()["search"]
    return found


def test_started_again_it_goes_on_the_same(tmp_path: Path) -> None:
    """Stopped after the first batch, with a prior that would now say something else: what was
    found first stands, all is trained once, and the end is that of a search never stopped."""
    whole = conducted(tmp_path / "whole", prior())
    assert [without_heads(t["params"]) for t in whole["trials"][:3]] == [
        without_heads(b) for b in BEST[:3]
    ]
    told = whole["prior"]
    assert told["predictor"] == "wide"
    assert (told["trials"], told["sample"]) == (3, 200)
    assert [without_heads(p) for p in told["first"]] == [without_heads(b) for b in BEST[:3]]

    folder = tmp_path / "stopped"
    conducted(folder, prior())
    trained = started(folder)
    book = json.loads((folder / BOOK).read_text())
    book["batches"] = book["batches"][:1]
    (folder / BOOK).write_text(json.dumps(book))
    for path in (folder / "rounds").glob("*"):
        if path.name > sorted(p.name for p in (folder / "rounds").glob("*"))[0]:
            path.unlink()
    (folder / "study.json").unlink()
    again = conducted(folder, prior(rank=lambda architectures: [0.0] * len(architectures)))
    assert again == whole
    assert started(folder) == trained
    assert plain(folder)["search"] == plain(tmp_path / "whole")["search"]
