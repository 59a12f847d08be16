"""Two runs side by side: where their configs and surroundings differ, and their final figures."""

from __future__ import annotations

from typing import Any

from windtunnel.errors import RunError
from windtunnel.runs.folder import RunFolder

FIGURES = (
    "loss", "bits_per_byte", "perplexity", "accuracy", "params", "tokens", "steps", "flops",
    "train_seconds", "tokens_per_second", "peak_memory_bytes",
)  # fmt: skip
SURROUNDINGS = ("environment", "git", "code_digest", "arch_digest", "data_fingerprint", "device")


def run_difference(first: RunFolder, second: RunFolder) -> dict[str, Any]:
    """Two runs as plain values.

    Returns:
        ``runs``: the summaries; ``config`` and ``surroundings``: ``[path, first, second]`` where
        they differ (null: has none); ``figures``: by name, ``first``, ``second`` and ``difference``
        (second minus first); of a run that has not ended, those of its last evaluation.

    Raises:
        RunError: a file of a run is damaged.
    """
    from windtunnel.config import load_document  # brings pydantic: listings do without
    from windtunnel.config.diff import diff

    trees = [load_document(run.config_path).tree for run in (first, second)]
    around = [_surroundings(run) for run in (first, second)]
    figures = [_figures(run) for run in (first, second)]
    names = [name for name in FIGURES if name in figures[0] or name in figures[1]]
    return {
        "runs": [run.summary().to_dict() for run in (first, second)],
        "config": [[d.path, d.first, d.second] for d in diff(*trees)],
        "surroundings": [[d.path, d.first, d.second] for d in diff(*around)],
        "figures": {name: _pair(figures[0].get(name), figures[1].get(name)) for name in names},
    }


def _pair(first: Any, second: Any) -> dict[str, Any]:
    known = first is not None and second is not None
    return {"first": first, "second": second, "difference": second - first if known else None}


def _figures(run: RunFolder) -> dict[str, Any]:
    record = run.read_record()
    if record is not None:
        found = {**record, **(record.get("final") or {})}
    else:
        found = next((dict(e.values) for e in reversed(_events(run)) if e.kind == "eval"), {})
        found["steps"] = found.get("step")
    return {
        name: found[name]
        for name in FIGURES
        if isinstance(found.get(name), int | float) and not isinstance(found[name], bool)
    }


def _events(run: RunFolder) -> list[Any]:
    try:
        return run.read_events()
    except RunError:
        return []


def _surroundings(run: RunFolder) -> dict[str, Any]:
    """What the record says of machine, versions and code; of the start, where there is none."""
    known = run.read_record() or next((e.values for e in _events(run) if e.kind == "start"), {})
    return {name: known[name] for name in SURROUNDINGS if name in known}
