"""Names that people give to runs."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from windtunnel.runs import tags


def test_tags_that_are_given_at_once_all_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads and writes the whole list; the other's must not be lost in between."""
    real, both = tags.read_tags, threading.Barrier(2, timeout=0.3)

    def together(run: Path) -> tuple[str, ...]:
        found = real(run)
        with suppress(threading.BrokenBarrierError):  # the other waits for this one
            both.wait()
        return found

    monkeypatch.setattr(tags, "read_tags", together)
    threads = [
        threading.Thread(target=tags.change_tags, args=(tmp_path,), kwargs={"add": [name]})
        for name in ("paper", "best")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert real(tmp_path) == ("best", "paper")
