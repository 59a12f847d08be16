"""What ``windtunnel space`` shows: statistics, members, names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import typer

from windtunnel.cli.options import note, print_json, print_table
from windtunnel.config import annotated_yaml
from windtunnel.errors import ConfigError, UsageError
from windtunnel.report.units import count_text
from windtunnel.spaces import Member, Space
from windtunnel.spaces.block import MOST_COUNTED
from windtunnel.spaces.declared import load_space

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_NAMES = ("least", "quarter", "median", "three quarters", "most")
_BINS = 16
_WIDTH = 40
_COUNTED = 400
"""Members that tell of the rest, where there is no closed form and too many to count."""
_MOST, _DRAWN = 10_000_000, 100_000
"""Members that are all gone through in closed form, and those that tell of more."""


@dataclass(frozen=True)
class Wish:
    """What is asked for."""

    count: bool = False
    index: int | None = None
    find: str | None = None
    sample: int | None = None
    where: tuple[str, ...] = ()
    seed: int = 0
    as_yaml: bool = False
    as_json: bool = False

    def check(self) -> None:
        """Raises UsageError for options that do not go together."""
        asked = {
            "--count": self.count,
            "--index": self.index is not None,
            "--find": self.find is not None,
            "--sample": self.sample is not None,
        }
        given = [name for name, there in asked.items() if there]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} ask for different things; give one")
        one = self.index is not None or self.find is not None
        if self.as_yaml and not one:
            raise UsageError("--yaml prints one member: give --index or --find")
        if self.as_yaml and self.as_json:
            raise UsageError("--yaml and --json are two forms of one answer; give one")


def space_verb(
    source: str, wish: Wish, *, vocab_size: int | None = None, max_seq_len: int | None = None
) -> None:
    """Prints what is asked for.

    Raises:
        UsageError: an unknown space, member or name, or a condition that cannot be read.
    """
    wish.check()
    space = load_space(source, vocab_size=vocab_size, max_seq_len=max_seq_len)
    for text in wish.where:
        space = space.where(text)
    if wish.count:
        print_json({"space": space.name, "count": len(space)}) if wish.as_json else typer.echo(
            len(space)
        )
    elif wish.sample is not None:
        _print_members(list(space.sample(wish.sample, wish.seed)), as_json=wish.as_json)
    elif (member := _one(space, wish)) is not None:
        _print_member(member, wish)
    else:
        found = statistics(space)
        print_json(found) if wish.as_json else _print_statistics(found)


def _one(space: Space, wish: Wish) -> Member | None:
    if wish.find is not None:
        return space.find(wish.find)
    if wish.index is None:
        return None
    try:
        return space[wish.index]
    except IndexError as error:
        raise UsageError(f"--index: {error}") from None


def _print_member(member: Member, wish: Wish) -> None:
    if wish.as_yaml:
        _check_run_file(member)
        typer.echo(annotated_yaml(_plain(member.document.tree)), nl=False)
    elif wish.as_json:
        print_json(_told(member))
    else:
        rows = [["name", member.name], ["index", f"{member.index:,}"], ["family", member.family],
                ["parameters", f"{member.params:,}"]]  # fmt: skip
        rows += [[key, str(value)] for key, value in member.config.items()]
        for key, value in rows:
            typer.echo(f"{key:<12} {value}")


def _check_run_file(member: Member) -> None:
    """Raises UsageError for a member that ``check`` would refuse."""
    from windtunnel.train.run_config import load_run_document

    try:
        load_run_document(member.document, base=member.block.family.folder)
    except ConfigError as error:
        raise UsageError(f"{member.name} is no run file that can be trained: {error}") from None


def _told(member: Member) -> dict[str, Any]:
    told: dict[str, Any] = _plain({"index": member.index, **member.metadata})
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _print_members(members: list[Member], *, as_json: bool) -> None:
    if as_json:
        print_json([_told(member) for member in members])
        return
    rows = [[m.name, m.family, f"{m.index:,}", count_text(m.params)] for m in members]
    print_table(["name", "family", "index", "parameters"], rows, texts=2)


def statistics(space: Space) -> dict[str, Any]:
    """Counts, quantiles of parameters by family, and a histogram of log parameters, as plain JSON.

    Where there are too many (few where parameters are counted one by one), those of a sample are
    told, and ``counted`` says of how many.
    """
    counted = _countable(space)
    params = counted.params
    families = []
    numbers = counted.block_numbers()
    names = [block.family.name for block in space.blocks]
    for name, count in space.families().items():
        own = params[np.isin(numbers, [n for n, other in enumerate(names) if other == name])]
        families.append({"family": name, "count": count, "params": _quantiles(own)})
    found = {
        "space": space.name,
        "count": len(space),
        "counted": len(counted),
        "structures": len(np.unique(counted.structures())),
        "families": families,
        "params": _quantiles(params),
        "histogram": _histogram(params),
    }
    return found


def _countable(space: Space) -> Space:
    closed = all(block.closed for block in space.blocks)
    most, drawn = (_MOST, _DRAWN) if closed else (min(MOST_COUNTED, _COUNTED), _COUNTED)
    return space if len(space) <= most else space.shuffled(0)[:drawn]


def _quantiles(params: Any) -> dict[str, int | float] | None:
    if not len(params):
        return None
    values = np.quantile(params, _QUANTILES, method="nearest").tolist()
    return {**dict(zip(_NAMES, values, strict=True)), "mean": float(params.mean())}


def _histogram(params: Any) -> list[dict[str, float | int]]:
    """Equal steps of log parameters."""
    if not len(params):
        return []
    logs = np.log10(params.astype(float))
    low, high = logs.min(), logs.max()
    counts, edges = np.histogram(logs, _BINS if high > low else 1, (low, max(high, low + 1e-9)))
    powers = (10.0**edges).tolist()
    return [
        {"from": powers[place], "to": powers[place + 1], "count": int(count)}
        for place, count in enumerate(counts)
    ]


def _print_statistics(found: dict[str, Any]) -> None:
    rows = []
    everything = {"family": "all", "count": found["count"], "params": found["params"]}
    for row in [*found["families"], *([everything] if len(found["families"]) != 1 else [])]:
        told = row["params"] or {}
        figures = [count_text(round(told[name])) if told else "" for name in (*_NAMES, "mean")]
        rows.append([row["family"], f"{row['count']:,}", *figures])
    print_table(["family", "members", *_NAMES, "mean"], rows, texts=1)
    among = f" among {found['counted']:,}" if found["counted"] < found["count"] else ""
    typer.echo(f"\n{found['space']}: {found['count']:,} members; {found['structures']:,} structures"
               f"{among} differ in more than dropout or the family's name")  # fmt: skip
    if found["counted"] < found["count"]:
        note(f"parameters are those of {found['counted']:,} members drawn at random: there are too "
             "many to count all")  # fmt: skip
    most = max((row["count"] for row in found["histogram"]), default=0)
    for row in found["histogram"]:
        bar = "█" * round(_WIDTH * row["count"] / most)
        typer.echo(f"{count_text(round(row['from'])):>7} {bar}{' ' * bool(bar)}{row['count']:,}")
