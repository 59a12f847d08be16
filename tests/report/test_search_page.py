"""A search in the terminal and in the page: every outcome is shown, nothing from outside runs."""

import json
import re
from typing import Any

from rich.console import Console

from windtunnel.report.page import render_search
from windtunnel.report.search_page import search_data, search_section
from windtunnel.report.search_view import front_plot, search_view


def trial(number: int, status: str = "complete", loss: float | None = 2.0, **more: Any) -> Any:
    return {
        "number": number,
        "params": {"train.lr": 0.001 * (number + 1), "arch.layers[*].mixer": "gru"},
        "status": status, "reason": "", "same_as": None, "loss": loss, "losses": [loss],
        "rungs": {}, "model_params": 1000 * (number + 1), "flops": 1e6 * (number + 1),
        "predicted_memory_bytes": 2**29, "micro_batch_size": None, "key": None, **more,
    }  # fmt: skip


def results() -> dict[str, Any]:
    trials = [
        trial(0, loss=3.0),
        trial(1, loss=2.0, micro_batch_size=4),
        trial(2, "pruned", None, reason="at step 10"),
        trial(3, "invalid", None, reason="heads do not divide <script>alert(1)</script>"),
        trial(4, "too_large", None, reason="expected to take 9 bytes"),
        trial(5, "diverged", None, reason="after step 3"),
        trial(6, loss=2.0, same_as=1),
    ]
    trials[1]["params"]["arch.layers[*].mixer"] = {"type": "short_conv", "kernel_size": 3}
    return {
        "search": {
            "question": {"space": {"train.lr": {}, "arch.layers[*].mixer": {}}},
            "rungs": [10], "seeds": [1], "trials": trials,
            "counts": {"complete": 3, "diverged": 1, "invalid": 1, "pruned": 1, "too_large": 1},
            "copies": 1, "best": [1, 0], "front": {"axes": ["loss", "flops"], "trials": [1, 0]},
            "importance": {
                "method": "PED-ANOVA", "trials": 5, "confidence": 0.9, "reliable": False,
                "knobs": {"train.lr": {"share": 1.0, "low": 0.5, "high": 1.0}},
            },
            "memory": {
                "limit_bytes": 2**28, "enforced": True, "factor": 1.5,
                "corrections": [{"trial": 1, "predicted_bytes": 5, "micro_batch_size": 8,
                                 "factor": 1.5}],
            },
            "confirmed": [{
                "trial": 1, "searched": 2.0, "confirmed": {"mean": 2.1, "low": 2.0, "high": 2.2},
                "optimism": 0.1, "delta": None, "verdict": "better",
            }],
            "note": "the note",
        }
    }  # fmt: skip


def shown(view: Any) -> str:
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_the_terminal_shows_trials_counts_memory_and_importance() -> None:
    text = shown(search_view(results()))
    for part in (
        "short_conv(kernel_size 3)", "micro_batch_size 4: memory", "1 diverged", "1 too large",
        "1 of them equal to an earlier one", "times 1.50", "unreliable, from 5 trials alone",
        "[50%, 100%]", "o: no other trial is better in both",
    ):  # fmt: skip
        assert " ".join(part.split()) in " ".join(text.split()), part
    assert max(map(len, text.splitlines())) <= 80


def test_what_losses_do_not_say_stands_beside_them() -> None:
    assert "longer <context>" not in search_section(results())  # of an earlier version: no notes
    told = results()
    told["search"]["notes"] = ["a longer <context> has a lower loss"]
    assert "a longer <context> has a lower loss" in shown(search_view(told))
    assert "a longer &lt;context&gt; has a lower loss" in search_section(told)


def test_the_front_is_drawn_by_place() -> None:
    plot = front_plot(results()["search"])
    assert plot is not None
    lines = plot.splitlines()
    assert lines[1].split("|")[1][0] == "o"  # trial 0: cheap and bad
    assert lines[-3].split("|")[1][-1] == "o"  # trial 1: dear and good
    only = results()["search"]
    only["trials"] = only["trials"][:1]
    assert front_plot(only) is None


def test_every_trial_is_in_the_page_and_nothing_foreign_runs() -> None:
    html = search_section(results())
    rows = re.findall(r"<tr>.*?</tr>", html, re.DOTALL)
    assert len([row for row in rows if "lr 0.00" in row]) == 7
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    for word in (
        "pruned",
        "invalid",
        "too large",
        "diverged",
        "complete, as trial 1",
        "on the front",
    ):
        assert word in html
    page = render_search("a search", results(), "windtunnel search …")
    assert 'id="search-data"' in page
    assert page == render_search("a search", results(), "windtunnel search …")
    assert search_section({}) == ""
    assert search_data({}) is None


def test_the_plots_get_numbers_and_words() -> None:
    data = search_data(results())
    assert data is not None
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert [t["number"] for t in data["trials"]] == [0, 1]  # a copy is no point of its own
    rate, mixer = data["knobs"]
    assert rate == {"name": "lr", "values": [0.001, 0.002]}
    assert mixer["labels"] == ["gru", "short_conv(kernel_size 3)"]
    assert mixer["values"] == [0, 1]
