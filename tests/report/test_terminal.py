"""The tables in the terminal."""

from __future__ import annotations

import io
import itertools
from typing import Any, Literal

import pytest
from rich.console import Console, RenderableType
from tests.report.samples import arm, verdicts

from windtunnel.report.cost_table import cost_json, cost_view, grouped
from windtunnel.report.schedule_plot import sparkline
from windtunnel.report.terminal import cost_of_arms_table, verdict_table, verdict_view


def shown(renderable: RenderableType, width: int = 80, *, terminal: bool = False) -> str:
    colours: Literal["standard"] | None = "standard" if terminal else None
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system=colours
    )
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_verdict_table_says_it_all_at_80_columns() -> None:
    text = shown(verdict_table(verdicts()))
    assert max(len(line) for line in text.splitlines()) <= 80
    (llama,) = [line for line in text.splitlines() if line.strip().startswith("llama")]
    assert llama.split() == [
        *("llama", "1.855", "-0.045", "[-0.063,", "-0.027]", "0.008", "0.024", "better")
    ]
    assert "matched by tokens (819k); 3 seeds each" in text
    assert "[-0.0315, -0.0135]" in text  # bits per byte, on the line below


def test_plain_text_when_not_a_terminal_and_colour_with_the_word_when_one() -> None:
    plain = Console(file=io.StringIO(), width=80)
    plain.print(verdict_view(verdicts()))
    assert isinstance(plain.file, io.StringIO)
    assert "\x1b" not in plain.file.getvalue()
    coloured = shown(verdict_view(verdicts()), terminal=True)
    assert "\x1b[1;32mbetter" in coloured


def test_the_tables_are_ascii_and_names_are_no_markup() -> None:
    tree = verdicts(arms=[arm("[red]a[/red]", "reference", 0.0), arm("b", "worse", 0.2)])
    text = shown(cost_of_arms_table(tree))
    assert "[red]a[/red" in text
    words = shown(verdict_view(tree)).replace("─", "-")
    assert words.isascii()


def timed(name: str, difference: float, uncertainty: float | None) -> dict[str, Any]:
    """An arm whose runs lie as far apart as that."""
    tree = arm(name, "worse", 0.2)
    told = {"spread": uncertainty, "difference": difference, "uncertainty": uncertainty}
    mismatch = {**tree["mismatch"], "seconds": difference}
    return {**tree, "mismatch": mismatch, "time": {**told, "told_apart": None}}


def test_times_are_told_as_far_as_the_runs_agree() -> None:
    first = {**arm("first", "reference", 0.0), "time": {"spread": 0.5, "uncertainty": 0.5}}
    arms = [first, timed("a", 0.385, 0.5), timed("b", 0.385, 0.012), timed("c", -0.25, None)]
    text = shown(verdict_view(verdicts(arms=arms)))
    assert max(map(len, text.splitlines())) <= 80
    assert text.replace("─", "-").isascii()
    costs = shown(cost_of_arms_table(verdicts(arms=arms)))
    table = [line.split() for line in costs.splitlines()]
    pairs = [pair for pair in itertools.pairwise(table) if all(pair)]
    rows = {line[0]: (line[-1], below[-1]) for line, below in pairs}
    assert rows["a"] == ("~", "+-50%")
    assert rows["b"] == ("+38.5%", "+-1.2%")
    assert rows["c"] == ("-25%", "+-?")
    assert "18.2k" in text
    assert "no difference beyond that" in " ".join(text.split())


def test_a_matched_budget_is_shown_where_it_is_off() -> None:
    for off, seen in ((0.0133, True), (0.004, False)):
        other = arm("b", "worse", 0.2)
        other["mismatch"] = {**other["mismatch"], "flops": off}
        tree = verdicts(arms=[arm("a", "reference", 0.0), other], match="flops")
        text = shown(cost_of_arms_table(tree))
        assert ("+1.3%" in text) == seen
        assert max(map(len, text.splitlines())) <= 80


def test_a_long_name_is_folded_and_no_number_is_cut() -> None:
    long = "a-very-long-architecture-name-that-nobody-should-use"
    tree = verdicts(arms=[arm(long, "reference", 0.0), arm("b", "worse", 0.2, diverged=2)])
    for table in (verdict_table(tree), cost_of_arms_table(tree)):
        text = shown(table)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
    assert "diverged" in shown(verdict_table(tree))


def test_the_cost_table_shows_the_budgets_that_were_not_matched() -> None:
    text = shown(cost_of_arms_table(verdicts()))
    assert "d FLOPs" in text
    assert "d tokens" not in text
    (llama,) = [line for line in text.splitlines() if line.strip().startswith("llama")]
    assert llama.split() == [
        *("llama", "1.23M", "6.4M", "18.2k", "512", "MB", "+6.6%", "-4.4%", "+10.0%")
    ]


def test_notes_stand_one_a_line() -> None:
    for note in ("One.\nTwo.", ["One.", "Two."]):
        lines = [line.strip() for line in shown(verdict_view(verdicts(note=note))).splitlines()]
        assert lines.index("Two.") == lines.index("One.") + 1


def test_the_view_ends_with_the_conclusion() -> None:
    lines = shown(verdict_view(verdicts())).strip().splitlines()
    assert lines[-1] == "llama is better than gpt2."
    assert "llama: paired t over 3 seeds" in lines


def test_the_level_of_an_interval_and_the_metric_are_told() -> None:
    one, other = arm("b", "better", -0.1), arm("c", "undecided", 0.0, failed=1)
    one["delta_bits_per_byte"]["confidence"] = 0.975
    tree = verdicts(arms=[arm("a", "reference", 0.0), one, other], metric="bits_per_byte")
    text = " ".join(shown(verdict_view(tree)).split())
    assert "with 97.5% or 95% confidence, which is 95% after Holm's correction" in text
    assert "minimum detectable effect before Holm's correction, bits per byte" in text
    assert "failed" in text
    assert "1 of 3" in text
    assert "-0.100" not in text  # nats per token do not compare where tokenizers differ
    assert "-0.0500" in text


def test_an_arm_without_a_difference_is_not_the_reference() -> None:
    nothing = {"mean": None, "low": None, "high": None}
    lost = arm("lost", "worse", 0.0, diverged=1, bits_per_byte=nothing)
    lost |= dict.fromkeys(("delta", "delta_bits_per_byte", "p_value", "p_holm", "mde"))
    lost |= {"loss": {**nothing, "values": [2.0, None]}}
    tree = verdicts(arms=[arm("a", "reference", 0.0), lost])
    text = shown(verdict_table(tree))
    (row,) = [line for line in text.splitlines() if line.strip().startswith("lost")]
    assert row.split() == ["lost", "n/a", "-", "-", "n/a", "n/a", "worse"]
    assert "1 of 2" in text
    cost = shown(cost_of_arms_table(tree))
    assert "+6.6%" in cost
    assert "tokens" in cost  # matched in the plan; a diverged run ends early
    assert max(map(len, cost.splitlines())) <= 80


def test_matched_seconds_are_shown_as_measured() -> None:
    text = shown(cost_of_arms_table(verdicts(match="seconds")))
    assert max(map(len, text.splitlines())) <= 80
    (llama,) = [line for line in text.splitlines() if line.strip().startswith("llama")]
    assert llama.split()[-4:] == ["0%", "+6.6%", "-4.4%", "+10.0%"]
    assert "time" in text


def part(name: str, kind: str, params: float) -> dict[str, object]:
    return {
        "part": name,
        "kind": kind,
        "params": params,
        "forward_flops": 2 * params,
        "training_flops": 6 * params,
        "decode_flops": 2 * params,
        "state_bytes": 1024,
        "activation_bytes": 2048,
    }


COST = {
    "name": "hybrid",
    "seq_len": 256,
    "parts": [
        part("embedding", "tied", 1000),
        part("layers.0", "attention", 5000),
        part("layers.1", "attention", 5000),
        part("layers.2", "lstm", 7000),
        part("layers.3", "attention", 5000),
        part("head", "", 0),
    ],
    "memory": {"weights": 92_000, "gradients": 92_000},
}


def test_equal_layers_are_one_row_with_their_sum_wherever_they_stand() -> None:
    rows = {row["part"]: row["params"] for row in grouped(COST["parts"])}  # type: ignore[arg-type]
    assert rows == {"embedding": 1000, "layers 0-1,3 (x3)": 15000, "layers.2": 7000, "head": 0}


def test_the_cost_view_fits_and_sums() -> None:
    text = shown(cost_view(COST))
    assert max(map(len, text.splitlines())) <= 80
    (total,) = [line for line in text.splitlines() if line.startswith(" total")]
    assert total.split()[1] == "23k"
    assert "180 KB" in text
    plain = cost_json(COST)
    assert plain["total"]["training_flops"] == 6 * 23_000
    assert plain["memory_bytes"] == 184_000
    assert plain["parts"] == COST["parts"]


def test_state_that_does_not_grow_is_told_beside_the_table() -> None:
    parts = [part(f"layers.{i}", "lstm", 10) | {"fixed_state_bytes": 512} for i in range(2)]
    assert "any length holds 1 KB of state besides" in shown(cost_view(COST | {"parts": parts}))
    assert "besides" not in shown(cost_view(COST))
    assert cost_json({"parts": parts})["total"]["fixed_state_bytes"] == 1024


def test_a_sparkline_follows_the_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0] * 500, width=10) == "█" * 10
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([]) == ""
    with pytest.raises(ValueError, match="finite"):
        sparkline([float("nan")])
