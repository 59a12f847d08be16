"""Did you mean …? The nearest of the allowed names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
