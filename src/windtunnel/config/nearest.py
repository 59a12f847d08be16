"""Did you mean …? The nearest of the allowed names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path


def nearest(name: object, allowed: Iterable[str]) -> str | None:
    """The allowed name most like ``name``, or None when none is alike.

    >>> nearest("atention", ["attention", "lstm"])
    'attention'
    >>> nearest("zebra", ["attention", "lstm"]) is None
    True
    """
    text = str(name)
    by_folded = {a.casefold().replace("-", "_"): a for a in allowed}
    folded = text.casefold().replace("-", "_")
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    if found:
        return by_folded[found[0]]
    starts = [a for f, a in by_folded.items() if len(folded) >= 2 and f.startswith(folded)]
    return starts[0] if len(starts) == 1 else None


def suggestion(name: object, allowed: Iterable[str], *, shown: int = 24) -> str:
    """``; did you mean 'x'? allowed: a, b, c`` for the end of an error message."""
    names = list(allowed)
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    more = f", … ({len(names)} in all)" if len(names) > shown else ""
    return f"{hint} (allowed: {', '.join(names[:shown])}{more})" if names else hint


def hint_beside(path: Path, *, suffixes: Collection[str] = (), folders: bool = False) -> str:
    """``; did you mean 'x'?`` for a path that is not there: the nearest file with one of these
    suffixes, or folder, that lies beside it; empty where none is alike."""
    try:
        entries = [e for e in path.parent.iterdir() if not e.name.startswith(".")]
        named = [e.name for e in entries if (e.is_dir() if folders else e.suffix in suffixes)]
    except OSError:
        return ""
    # Without the suffix, which makes all files alike.
    by_stem = {Path(name).stem if path.suffix in suffixes else name: name for name in sorted(named)}
    near = nearest(path.stem if path.suffix in suffixes else path.name, by_stem)
    return f"; did you mean {str(path.parent / by_stem[near])!r}?" if near else ""
