"""What a store could do without, and above all what it could not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from windtunnel.errors import RunError, UsageError
from windtunnel.runs import RunFolder, RunStore
from windtunnel.runs.pruning import Pruning, find_prunable, prune
from windtunnel.runs.references import refer
from windtunnel.runs.tags import change_tags

ALL = ("failed", "interrupted", "unused", "checkpoints", "orphans")


def make(
    store: RunStore, name: str, status: str = "finished", losses: dict[int, float] | None = None,
    config: dict[str, object] | None = None,
) -> RunFolder:  # fmt: skip
    """A run of that status, with a checkpoint for each loss."""
    folder = store.create(f"{name:k<64}", name, config or {"train": {"steps": 7}})
    for step, loss in (losses or {}).items():
        path = folder.checkpoints / f"step-{step:08d}"
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"x" * 100)
        manifest = {"format": 1, "step": step, "validation_loss": loss, "files": {}}
        (path / "manifest.json").write_text(json.dumps(manifest))
    if status == "failed":
        with folder.open_events() as log:
            log.append("end", status="failed")
    elif status != "interrupted":
        folder.write_record({"status": status, "steps": 7, "final": {"loss": 1.0}})
    return folder


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def find(store: RunStore, *what: str, min_age_seconds: float = -10.0) -> Pruning:
    return find_prunable(store, what or ALL, min_age_seconds=min_age_seconds)


def places(pruning: Pruning) -> list[str]:
    return [removal.path.name for removal in pruning.removals]


def test_what_failed_or_stopped_goes_and_results_stay(store: RunStore) -> None:
    runs = {name: make(store, name, name) for name in ("failed", "interrupted", "finished")}
    found = find_prunable(store, min_age_seconds=-10)
    assert {(r.what, r.path) for r in found.removals} == {
        ("failed", runs["failed"].path), ("interrupted", runs["interrupted"].path),
    }  # fmt: skip
    assert len(store.list()) == 3, "finding changes nothing"
    assert prune(store, found) == {}
    assert [run.name for run in store.list()] == ["finished"]
    assert sorted(path.name for path in store.root.iterdir() if path.is_dir()) == [
        runs["finished"].path.name
    ]


def test_a_finished_run_goes_only_when_unused_ones_are_asked_for(store: RunStore) -> None:
    for name, status in (("a", "finished"), ("b", "diverged"), ("c", "imported")):
        make(store, name, status)
    assert not find(store, "failed", "interrupted", "checkpoints", "orphans").removals
    found = find(store, "unused")
    assert {r.why for r in found.removals} == {"of no study"}
    assert prune(store, found) == {}
    assert store.list() == []


def test_what_a_study_needs_stays_for_as_long_as_the_study(store: RunStore, tmp_path: Path) -> None:
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5}
    runs = [make(store, "done", "finished", losses), make(store, "stopped", "interrupted")]
    study = tmp_path / "study"
    study.mkdir()
    store.refer(study, [run.key for run in runs])
    found = find(store)
    assert found.removals == ()
    assert {why for _, why in found.kept} == {f"belongs to the study {study}"}
    store.refer(study, [], ended=True)  # it has its results: nothing goes on from the middle
    assert places(find(store)) == ["step-00000002", "step-00000006"]
    study.rmdir()
    gone = find(store, "interrupted", "orphans")
    assert sorted(r.what for r in gone.removals) == ["interrupted", "orphans"]
    assert prune(store, gone) == {}
    assert find(store, "orphans").removals == ()


def test_the_last_and_the_best_checkpoint_stay(store: RunStore) -> None:
    run = make(store, "a", losses={2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5})
    (run.checkpoints / "step-00000005").mkdir()  # without a manifest: not ours to judge
    found = find(store, "checkpoints")
    assert places(found) == ["step-00000002", "step-00000006"]
    assert found.size_bytes > 200
    assert prune(store, found) == {}
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "step-00000004", "step-00000005", "step-00000008",
    ]  # fmt: skip
    assert find(store, "checkpoints").removals == ()


def test_a_run_that_has_not_ended_keeps_its_checkpoints(store: RunStore) -> None:
    make(store, "a", "interrupted", {2: 3.0, 4: 1.0, 6: 2.0})
    assert find(store, "checkpoints").removals == ()


def test_tagged_runs_stay_whole(store: RunStore) -> None:
    for status in ("failed", "interrupted", "finished"):
        run = make(store, status, status, {2: 3.0, 4: 1.0, 6: 2.0})
        change_tags(run.path, add=["keep"])
    found = find(store)
    assert found.removals == ()
    assert {why for _, why in found.kept} == {"has the tag keep"}


def test_what_is_written_stays_and_is_looked_at_again_before_it_goes(store: RunStore) -> None:
    run = make(store, "a", "interrupted")
    found = find(store)
    assert places(found) == [run.path.name]
    with run.lock():
        assert find(store).removals == ()
        assert "is writing here" in prune(store, found)[run.path]
    with run.open_events() as log:
        log.append("step", step=1)
    run.write_record({"status": "finished", "steps": 7})
    assert "trained meanwhile" in prune(store, found)[run.path]
    assert [left.name for left in store.list()] == ["a"]


def test_a_tag_or_a_study_that_comes_late_still_protects(store: RunStore, tmp_path: Path) -> None:
    runs = [make(store, name, "interrupted") for name in "ab"]
    found = find(store)
    change_tags(runs[0].path, add=["keep"])
    store.refer(tmp_path, [runs[1].key])
    assert set(prune(store, found)) == {run.path for run in runs}
    assert len(store.list()) == 2


def test_a_claim_of_another_machine_is_respected(store: RunStore) -> None:
    run = make(store, "a", "interrupted")
    found = find(store)
    (run.path / "claims").mkdir()
    (run.path / "claims" / "00000001").write_text('{"host": "elsewhere", "process": 3}')
    assert "process 3 of elsewhere writes this run" in prune(store, found)[run.path]
    assert run.path.is_dir()


def test_what_a_run_begins_with_stays(store: RunStore) -> None:
    parent = make(store, "parent", losses={2: 3.0, 4: 1.0, 6: 2.0})
    origin = {"origin": {"run": str(parent.path), "step": 2}}
    child = make(store, "child", "interrupted", config=origin)
    assert find(store, "unused", "checkpoints").removals == ()
    child.write_record({"status": "finished", "steps": 7})
    assert places(find(store, "checkpoints")) == ["step-00000002"]


def test_what_was_written_lately_stays(store: RunStore) -> None:
    run = make(store, "a", "interrupted")
    assert find(store, min_age_seconds=60).removals == ()
    for path in (run.path, *run.path.rglob("*")):
        os.utime(path, (1e9, 1e9))
    assert places(find(store, min_age_seconds=60)) == [run.path.name]


def test_what_dead_processes_have_left_goes(store: RunStore) -> None:
    run = make(store, "a", losses={2: 3.0})
    (run.checkpoints / ".tmp-step-00000004-17").mkdir()
    (run.checkpoints / "damaged-step-00000001").mkdir()
    (store.root / ".b-kkkk.0123.tmp").mkdir()
    (store.root / ".tmp-b-0123.gone").mkdir()
    found = find(store, "orphans")
    assert len(found.removals) == 4
    assert prune(store, found) == {}
    assert places(find(store)) == [run.path.name]  # unused


def test_predicted_weights_go_when_no_run_begins_with_them(store: RunStore, tmp_path: Path) -> None:
    folder = store.root / "inits"
    folder.mkdir(parents=True)
    for name in ("used.safetensors", "relative.safetensors", "unused.safetensors", ".init.x.tmp"):
        (folder / name).write_bytes(b"x" * 50)
    make(store, "a", config={"origin": {"weights": str(folder / "used.safetensors")}})
    origin = {"weights": "../inits/relative.safetensors"}
    make(store, "b", "interrupted", config={"origin": origin})
    (tmp_path / "study").mkdir()
    refer(store.root, tmp_path / "study", ["some"])
    assert places(find(store, "orphans")) == [".init.x.tmp"], "a study goes on"
    refer(store.root, tmp_path / "study", ["some"], ended=True)
    found = find(store, "orphans")
    assert sorted(places(found)) == [".init.x.tmp", "unused.safetensors"]
    assert prune(store, found) == {}
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["relative.safetensors", "used.safetensors"]


@pytest.mark.parametrize("content", ["{", "", "- 3"])
def test_a_config_that_cannot_be_read_keeps_predicted_weights(
    store: RunStore, content: str
) -> None:
    (store.root / "inits").mkdir(parents=True)
    (store.root / "inits" / "some.safetensors").write_bytes(b"x")
    run = make(store, "a")
    (run.path / "config.yaml").write_text(content)
    found = find(store, "orphans")
    assert found.removals == ()
    assert [why for _, why in found.kept] == [
        "a run's config cannot be read: it may begin with these"
    ]


def test_a_prune_that_is_killed_leaves_whole_runs_or_none(store: RunStore) -> None:
    for number in range(6):
        make(store, f"r{number}", "interrupted", dict.fromkeys(range(40), 1.0))
    script = (
        "import sys; from windtunnel.runs import RunStore\n"
        "from windtunnel.runs.pruning import find_prunable, prune\n"
        "store = RunStore(sys.argv[1]); found = find_prunable(store, min_age_seconds=-10)\n"
        "print('found', flush=True); prune(store, found)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(store.root)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    while len(list(store.root.glob("r*"))) > 4:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for run in store.list():
        assert len(list((run.path / "checkpoints").iterdir())) == 40
    assert prune(store, find(store)) == {}
    assert [path for path in store.root.iterdir() if path.is_dir()] == []


def test_a_damaged_note_stops_everything(store: RunStore) -> None:
    make(store, "a", "interrupted")
    (store.root / "studies").mkdir()
    (store.root / "studies" / "x.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        find(store)


def test_an_unknown_kind_is_told(store: RunStore) -> None:
    with pytest.raises(UsageError, match=r"'fialed' \(allowed: failed, interrupted, unused"):
        find(store, "fialed")
