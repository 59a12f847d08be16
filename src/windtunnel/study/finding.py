"""Where the runs of a plan lie: found in a store that other studies use too, or made."""

from __future__ import annotations

from collections.abc import Callable

from windtunnel.errors import RunError, StudyError, UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.study.plan import Plan, PlannedRun
from windtunnel.study.standing import Standing, standing_of

CreateRun = Callable[[PlannedRun, RunStore], RunFolder]
_PASSED = Standing("passed", {})


def finished_keys(plan: Plan, *stores: RunStore) -> frozenset[str]:
    """The plan's runs that have come as far as it asks: they are not trained again."""
    wanted, found = frozenset(plan.keys), set()
    for one in (one for store in stores for one in store.list() if one.key in wanted):
        until = plan.run(one.key).until
        if until is None:
            come = one.status in ("finished", "diverged")
        else:
            standing = _standing(RunFolder.open(one.path), until)
            come = standing is not None and standing is not _PASSED
        if come:
            found.add(one.key)
    return frozenset(found)


def found_or_made(
    run: PlannedRun,
    store: RunStore,
    apart: RunStore,
    create: CreateRun,
    say: Callable[[str], None] | None = None,
) -> RunFolder:
    """The run's folder: in the store; where all that the store has of it are past the step that
    is asked for, and were not evaluated there, one apart that is trained to that step again.

    Args:
        say: is told of one that is made apart.

    Raises:
        StudyError: one that is there cannot be read, or has passed that step apart too.
        UsageError: it cannot be made.
    """
    if run.until is None:
        return store.find(run.key) or _made(run, store, create)
    there, own = _all_of(run, store), _all_of(run, apart)
    known = {folder: _standing(folder, run.until) for folder in (*there, *own)}
    usable = [folder for folder, standing in known.items() if standing is not _PASSED]
    # One that answers comes first; of the others the one that got furthest.
    if usable:
        return min(usable, key=lambda folder: known[folder] is None)
    if own:
        raise StudyError(
            f"{run.arm}, seed {run.seed}: {own[0].path} is past step {run.until:,} and was not "
            f"evaluated there; delete or move {own[0].path} to train it again"
        )
    if there and say is not None:
        say(
            f"{run.arm}, seed {run.seed}: the store's run is past step {run.until:,} and was not "
            f"evaluated there; it is trained to that step again, in {apart.root}"
        )
    return _made(run, apart if there else store, create)


def _all_of(run: PlannedRun, store: RunStore) -> list[RunFolder]:
    """The store's runs of that key, the one that got furthest first."""
    found = [one for one in store.list() if one.key == run.key]
    return [RunFolder.open(one.path) for one in sorted(found, key=lambda one: -one.step)]


def _standing(folder: RunFolder, until: int) -> Standing | None:
    """How it stands at a step; one whose events cannot be read has no evaluation there."""
    try:
        found = standing_of(folder, until)
    except RunError:
        return _PASSED
    return _PASSED if found is not None and found.status == "passed" else found


def _made(run: PlannedRun, store: RunStore, create: CreateRun) -> RunFolder:
    _refuse_damaged(run, store)
    try:
        return create(run, store)
    except UsageError:
        found = store.find(run.key)  # another study may have made it meanwhile
        if found is None:
            raise
        return found


def _refuse_damaged(run: PlannedRun, store: RunStore) -> None:
    """Raises StudyError where the store holds the run in a folder that cannot be read."""
    for path in sorted(store.root.glob(f"*{run.key[:10]}")):
        try:
            folder = RunFolder.open(path)
            if folder.key != run.key:
                continue
            folder.summary()
        except RunError as error:
            raise StudyError(
                f"{run.arm}, seed {run.seed}: {error}; delete or move {path} to train it again"
            ) from error
