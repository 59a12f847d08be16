"""The store: folders are the truth, the index a cache, the status derived."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from windtunnel.errors import RunError, UsageError
from windtunnel.runs import RunFolder, RunStore, run_key

RECORD = {
    "status": "finished",
    "steps": 7,
    "final": {"step": 7, "loss": 1.25},
    "params": 12,
    "tokens": 70,
    "train_seconds": 0.5,
}


def make(store: RunStore, name: str = "run", **parts: object) -> RunFolder:
    return store.create(run_key({"name": name, **parts}), name, {"train": {"steps": 7}})


def test_a_new_run_has_its_files_and_is_found_by_key(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    folder = make(store, "llama small/1")
    assert folder.path.name == f"llama-small-1-{folder.key[:10]}"
    assert folder.config_path.read_text() == "train:\n  steps: 7\n"
    found = store.find(folder.key)
    assert found is not None
    assert (found.path, found.name, found.status) == (folder.path, "llama small/1", "interrupted")
    assert store.find("0" * 64) is None


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = make(store)
    (folder.path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="already exists"):
        make(store)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="already exists"):
        RunFolder.create(empty, key="k", name="n", config="")
    assert (folder.path / "mine.txt").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_a_usage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        make(RunStore(tmp_path / "runs"))


def test_a_folder_below_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        make(RunStore(tmp_path / "file" / "runs"))


def test_the_record_is_written_once_and_gives_the_summary(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = make(store)
    folder.write_record(RECORD)
    with pytest.raises(RunError, match="never rewritten"):
        folder.write_record(RECORD)
    (summary,) = store.list()
    assert (summary.status, summary.step, summary.loss) == ("finished", 7, 1.25)
    assert (summary.params, summary.tokens, summary.train_seconds) == (12, 70, 0.5)


def test_status_follows_lock_events_and_record(tmp_path: Path) -> None:
    folder = make(RunStore(tmp_path))
    assert folder.status == "interrupted"
    with folder.lock():
        assert folder.status == "running"
        assert folder.status == "running", "asking must not free the lock"
    assert folder.status == "interrupted"
    with folder.open_events() as log:
        log.append("eval", step=3, loss=2.0, tokens=30, seconds=1.0)
        log.append("end", status="failed")
    assert folder.status == "failed"
    assert (folder.summary().step, folder.summary().loss) == (3, 2.0)
    folder.write_record({**RECORD, "status": "diverged"})
    assert folder.status == "diverged"


def test_a_second_writer_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    folder = make(RunStore(tmp_path))
    message = f"process {os.getpid()} is writing here"
    with folder.lock(), pytest.raises(RunError, match=message):
        folder.lock().acquire()
    with folder.lock():
        pass


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    folder = make(RunStore(tmp_path))
    script = (
        "import sys, time; from pathlib import Path; from windtunnel.runs import RunFolder\n"
        "lock = RunFolder.open(Path(sys.argv[1])).lock(); lock.acquire()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder.path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert folder.status == "running"
    with pytest.raises(RunError, match=f"process {process.pid} is writing"):
        folder.lock().acquire()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert folder.status == "interrupted"
    with folder.lock():
        assert folder.status == "running"


def test_listing_is_oldest_first_and_sees_what_changed(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folders = [make(store, name) for name in ("c", "a", "b")]
    folders[1].write_record(RECORD)
    assert [run.name for run in store.list()] == ["c", "a", "b"]
    assert [run.status for run in store.list()] == ["interrupted", "finished", "interrupted"]
    folders[2].write_record({**RECORD, "status": "diverged"})
    assert [run.status for run in RunStore(tmp_path).list()][2] == "diverged"


def test_the_index_answers_for_ended_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(tmp_path)
    make(store).write_record(RECORD)
    before = store.list()
    monkeypatch.setattr(
        RunFolder, "read_record", lambda self: pytest.fail("the index was not used")
    )
    assert store.list() == before


def test_the_index_is_in_wal_mode(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    make(store).write_record(RECORD)
    store.list()
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100, None])
def test_a_damaged_or_missing_index_is_made_anew(
    damage: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RunStore(tmp_path)
    folder = make(store)
    folder.write_record(RECORD)
    before = store.list()
    index = tmp_path / "index.sqlite"
    if damage is None:
        index.unlink()
    else:
        index.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert store.list() == before
    assert bool(caplog.records) == (damage not in (b"", None))
    with sqlite3.connect(index) as connection:
        assert connection.execute("SELECT folder FROM runs").fetchall() == [(folder.path.name,)]
    connection.close()


def test_a_damaged_page_inside_the_index_is_survived(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for number in range(30):
        make(store, f"r{number}").write_record(RECORD)
    before = store.list()
    index = tmp_path / "index.sqlite"
    content = bytearray(index.read_bytes())
    content[4096 + 8 : 8192] = bytes([0xA5]) * (4096 - 8)
    index.write_bytes(content)
    assert store.list() == before
    assert store.list() == before


def test_runs_that_are_deleted_leave_the_list(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = make(store)
    folder.write_record(RECORD)
    store.list()
    folder.path.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert store.list() == []
    store.rebuild_index()
    assert store.list() == []


def test_a_damaged_run_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RunStore(tmp_path)
    good, bad = make(store, "good"), make(store, "bad")
    (bad.path / "record.json").write_text('{"status": "fin')
    with caplog.at_level(logging.WARNING):
        assert [run.path for run in store.list()] == [good.path]
    assert str(bad.path / "record.json") in caplog.text
    with pytest.raises(RunError, match="is damaged"):
        _ = bad.status


def test_find_prefers_the_run_that_has_ended(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    key = run_key({"same": True})
    store.create(key, "first", "")
    ended = store.create(key, "second", "")
    store.create(key, "third", "")
    ended.write_record(RECORD)
    found = store.find(key)
    assert found is not None
    assert found.path == ended.path


def test_a_run_is_selected_by_folder_name_key_or_its_start(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    one, two = make(store, "one"), make(store, "two")
    twin = store.create("ab" * 32, "two", "")
    for reference in (one.path.name, "one", one.key, one.key[:6], str(one.path)):
        assert store.select(reference).path == one.path
    with pytest.raises(UsageError, match="several runs") as caught:
        store.select("two")
    assert two.path.name in str(caught.value)
    assert twin.path.name in str(caught.value)
    with pytest.raises(UsageError, match=r"no run 'three'.*there are 3 runs"):
        store.select("three")
    with pytest.raises(UsageError, match=r"no run 'onne' in .*; did you mean 'one'\? there are 3"):
        store.select("onne")
    assert one.key != twin.key
    store.create(twin.key, "another", "")
    with pytest.raises(UsageError, match="'abababab' is the start of the key of several runs: "):
        store.select(twin.key[:8])
    with pytest.raises(UsageError, match=f"'{twin.key}' is the key of several runs: "):
        store.select(twin.key)


def test_show_tells_config_record_and_evaluations(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = make(store)
    with folder.open_events() as log:
        log.append("eval", step=0, loss=3.0)
        log.append("eval", step=5, loss=2.0)
    shown = store.show("run")
    assert [e["loss"] for e in shown["evaluations"]] == [3.0, 2.0]
    assert shown["config"] == "train:\n  steps: 7\n"
    assert shown["record"] is None
    assert shown["summary"]["status"] == "interrupted"


def test_damaged_events_do_not_hide_a_record(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = make(store)
    (folder.path / "events.jsonl").write_text("{\n{\n{\n")
    with pytest.raises(RunError, match=r"events\.jsonl:1: this line is damaged"):
        store.show(str(folder.path))
    folder.write_record({"status": "finished", "steps": 7})
    shown = store.show("run")
    assert shown["record"]["steps"] == 7
    assert shown["evaluations"] == []
    assert "events.jsonl:1: this line is damaged" in shown["damage"]


def test_a_run_without_its_config_is_shown(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    folder = make(store)
    folder.write_record(RECORD)
    folder.config_path.unlink()
    shown = store.show("run")
    assert (shown["record"], shown["config"]) == (RECORD, None)
    assert shown["damage"].startswith(f"no config: {folder.config_path}: cannot be read: No such")


def test_an_index_that_cannot_be_deleted_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    store = RunStore(tmp_path)
    make(store).write_record(RECORD)
    before = store.list()
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunError, match=r"index\.sqlite: cannot be made anew: Read-only file"):
        store.rebuild_index()
    (tmp_path / "index.sqlite").write_bytes(b"not a database at all" * 100)
    with caplog.at_level(logging.WARNING):
        assert store.list() == before
    assert "cannot be deleted (Read-only file system)" in caplog.text


def test_a_run_is_meant_by_its_folder_before_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, elsewhere = RunStore("runs"), RunStore(".")
    outside = RunFolder.create(Path("o1"), key="a" * 64, name="llama", config={})
    assert store.select("o1").path == outside.path
    assert elsewhere.select("o1").key == outside.key
    assert not caplog.records
    inside = make(store, "o1")
    assert store.select("o1").key == outside.key
    assert f"o1: the folder {tmp_path / 'o1'} is taken, not the run {inside.path}" in caplog.text
    assert store.select(inside.path.name).key == inside.key
    Path("plain").mkdir()
    with pytest.raises(UsageError, match=r"plain: is a folder, but not a run's: it has no run\.j"):
        store.select("plain")


def test_the_key_is_of_the_values_not_of_their_order() -> None:
    assert run_key({"a": 1, "b": {"c": 2, "d": 3}}) == run_key({"b": {"d": 3, "c": 2}, "a": 1})
    assert run_key({"a": 1}) != run_key({"a": 2})


def test_listing_many_runs_is_fast_and_needs_no_torch(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for number in range(200):
        make(store, f"r{number}").write_record(RECORD)
    store.list()
    script = (
        "import sys, time\n"
        "from windtunnel.runs import RunStore\n"
        "count = len(RunStore(sys.argv[1]).list())\n"
        "heavy = [m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules]\n"
        "print(count, heavy, time.process_time())"  # of the processor: others may load the machine
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed[:2] == ["200", "[]"]
    assert float(printed[2]) < 0.3
