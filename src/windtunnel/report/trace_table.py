"""A trace as an aligned tree: module, class, output shape, dtype, parameters, time, memory.

Reads the plain JSON of a trace, so a saved one is shown as well as a fresh one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from windtunnel.report.units import bytes_text, count_text, duration_text

_HEADINGS = ("module", "class", "output", "type", "params", "time", "memory")
_DTYPES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
}


def trace_view(trace: Mapping[str, Any], *, inputs: bool = False) -> Group:
    """The tree with its legend below; with `inputs`, a line under each call for its arguments.

    `trace` is `Trace.to_json()`, usually of a collapsed trace.
    """
    table = _TraceTable(list(_lines(trace["root"], inputs=inputs)))
    parts: list[RenderableType] = [table, *_legend(trace)]
    return Group(*parts)


class _TraceTable:
    """A table that gives each column its width by what the terminal has.

    Where that is too narrow, long class names are cut first, then long paths; shapes are folded
    and never cut, numbers stay whole.
    """

    def __init__(self, rows: Sequence[tuple[Text, ...]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name, width in zip(_HEADINGS, self._widths(options.max_width), strict=True):
            is_shape = name == "output"
            table.add_column(
                name,
                justify="right" if name in ("params", "time", "memory") else "left",
                no_wrap=not is_shape,
                overflow="fold" if is_shape else "ellipsis",
                width=width,
            )
        for row in self._rows:
            table.add_row(*row)
        yield table

    def _widths(self, available: int) -> list[int]:
        widths = [
            max(cell_len(name), *(cell_len(row[i].plain) for row in self._rows))
            for i, name in enumerate(_HEADINGS)
        ]
        # One blank at both ends and two between columns.
        excess = sum(widths) + 2 * len(widths) - available
        for column, least in ((2, 24), (1, 12), (0, 20), (1, 6), (2, 12), (0, 10)):
            cut = max(0, min(excess, widths[column] - least))
            widths[column] -= cut
            excess -= cut
        return widths


def _lines(
    call: Mapping[str, Any],
    *,
    inputs: bool,
    caller: Mapping[str, Any] | None = None,
    guide: str = "",
    below: str = "",
) -> Iterator[tuple[Text, ...]]:
    """The rows of a call: itself, its arguments, its ops and children in their order.

    `caller` is the call above (None for the root); `guide` stands before the call's
    own name, `below` before everything under it.
    """
    yield _call_row(call, guide, caller)
    children = call["children"]
    if inputs:
        bar = "│ " if children else "  "
        yield from (_detail_row(below + bar, *line) for line in _input_lines(call))
    ops = call.get("ops", ())
    for i in range(len(children) + 1):
        bar = "│ " if i < len(children) else "  "
        here = [_op_line(op) for op in ops if op["after"] == i]
        yield from (_detail_row(below + bar, *line) for line in here)
        if i < len(children):
            is_last = i == len(children) - 1
            guides = ("└ ", "  ") if is_last else ("├ ", "│ ")
            yield from _lines(
                children[i],
                inputs=inputs,
                caller=call,
                guide=below + guides[0],
                below=below + guides[1],
            )


def _call_row(
    call: Mapping[str, Any], guide: str, caller: Mapping[str, Any] | None
) -> tuple[Text, ...]:
    style = "bold red" if call["error"] else ""
    return (
        Text.assemble((guide, "dim"), (_label(call, caller), style)),
        Text(call["class"], style=style or "cyan"),
        Text(_output(call), style=style),
        Text(", ".join(dict.fromkeys(_dtypes(call["output"])))),
        _params(call["params"]),
        Text(_time(call)),
        Text(_memory(call)),
    )


def _detail_row(indent: str, name: str, shapes: str) -> tuple[Text, ...]:
    first, shown = Text(indent + name, style="dim"), Text(shapes, style="dim")
    return (first, Text(""), shown, *(Text("") for _ in range(len(_HEADINGS) - 3)))


def _label(call: Mapping[str, Any], caller: Mapping[str, Any] | None) -> str:
    """The path below the caller's (`sublayers.0.norm`); all of it for a module from elsewhere.

    ``×6`` says how often it stands in each call of the caller.
    """
    path = call["path"] or "model"
    above = caller["path"] if caller is not None else ""
    name = path.rpartition(".")[2] if path == above else path
    if above and path.startswith(f"{above}."):
        name = path.removeprefix(f"{above}.")
    if call["method"] != "forward":
        name += f".{call['method']}()"
    times = call["repeat"] // (caller["repeat"] if caller is not None else 1)
    return name + (f" ×{times}" if times > 1 else "")


def _output(call: Mapping[str, Any]) -> str:
    if any(child["error"] for child in call["children"]) and call["error"]:
        return "failed below"
    return call["error"] or "; ".join(_shapes(call["output"])) or "no tensor"


def _tensors(value: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if value is None:
        return
    if "tensor" in value:
        yield value
    for item in value.get("items", {}).values():
        yield from _tensors(item)


def _shapes(value: Mapping[str, Any] | None) -> list[str]:
    return [f"({', '.join(tensor['axes'])})" for tensor in _tensors(value)]


def _dtypes(value: Mapping[str, Any] | None) -> list[str]:
    return [_DTYPES.get(tensor["dtype"], tensor["dtype"]) for tensor in _tensors(value)]


def _params(params: Mapping[str, int]) -> Text:
    """What this call adds to the count; a plus where some were counted before."""
    new = params["total"] - params["shared"]
    if params["total"] and not new:
        return Text("shared", style="dim")
    if not new:
        return Text("")
    return Text(count_text(new) + ("+" if params["shared"] else ""))


def _time(call: Mapping[str, Any]) -> str:
    """The time of a call; of several equal ones their mean, and how many."""
    mean = duration_text(call["seconds"] / call["repeat"])
    return f"{mean} ×{call['repeat']}" if call["repeat"] > 1 else mean


def _memory(call: Mapping[str, Any]) -> str:
    allocated = call["allocated_bytes"]
    return bytes_text(call["output_bytes"] if allocated is None else allocated)


def _input_lines(call: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"← {name}", "; ".join(_shapes(value)) or str(value.get("value", value["kind"])))
        for name, value in call["inputs"].items()
    ]


def _op_line(op: Mapping[str, Any]) -> tuple[str, str]:
    given = ", ".join(shape for value in op["inputs"] for shape in _shapes(value))
    made = "; ".join(_shapes(op["output"]))
    return f"· {op['name']}", (f"{given} → " if given else "") + made


def _legend(trace: Mapping[str, Any]) -> Iterator[Text]:
    letters = ", ".join(f"{letter} = {size}" for letter, size in trace["dims"].items())
    if letters:
        yield Text(letters, style="dim")
    allocated = trace["root"]["allocated_bytes"] is not None
    memory = "made inside" if allocated else "returned"
    yield Text(
        f"{count_text(trace['params'])} parameters, each counted once where it first appears; "
        f"memory: bytes {memory}; time: this forward, children included",
        style="dim",
    )
    if trace["uncalled"]:
        names = ", ".join(trace["uncalled"])
        yield Text(f"parameters not used through a call of their module: {names}", style="yellow")
    if trace["error"]:
        yield Text(f"failed: {trace['error']}", style="bold red")
