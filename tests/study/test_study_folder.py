"""A study's folder: one question, one process, nothing overwritten."""

from dataclasses import replace
from pathlib import Path

import pytest

from windtunnel.errors import StudyError, UsageError
from windtunnel.study.folder import StudyFolder
from windtunnel.study.plan import Plan

PLAN = Plan(
    kind="compare", question="b against a", digest="d1", arms=(), runs=(), seeds=(0,),
    match="tokens", budget=1.0, metric="loss", notes=(),
)  # fmt: skip


def test_a_claimed_folder_holds_the_plan_and_then_the_results(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "deep" / "study")
    with folder.claim(PLAN):
        assert folder.read_plan() == PLAN
        assert folder.read_results() is None
        folder.write_results({"p": float("nan")})
    assert folder.read_results() == {"p": None}
    with folder.claim(PLAN):  # the same command again
        assert folder.log.is_dir()
    assert folder.recall("d1") == PLAN


@pytest.mark.parametrize("content", ["file", "folder", "plan of another study"])
def test_what_is_there_is_never_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out"
    if content == "file":
        path.write_text("mine")
    elif content == "folder":
        path.mkdir()
        (path / "thesis.txt").write_text("mine")
    else:
        with StudyFolder(path).claim(replace(PLAN, digest="d0")):
            pass
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())
    with pytest.raises(UsageError, match="nothing was changed"), StudyFolder(path).claim(PLAN):
        pass
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()) == before


def test_a_process_killed_while_it_claimed_a_folder_does_not_make_it_unusable(
    tmp_path: Path,
) -> None:
    (tmp_path / ".question.json.x1y2.tmp").write_text('{"ki')
    (tmp_path / "study.lock").touch()
    with StudyFolder(tmp_path).claim(PLAN):
        assert StudyFolder(tmp_path).read_plan() == PLAN
    other = tmp_path / "other"
    other.mkdir()
    (other / ".mine.tmp").touch()
    with pytest.raises(UsageError, match="is not a study"):
        StudyFolder(other).holds("d1")


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    with StudyFolder(tmp_path).claim(PLAN):
        assert StudyFolder(tmp_path).read_plan() == PLAN


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with (
        StudyFolder(tmp_path).claim(PLAN),
        pytest.raises(StudyError, match="another process"),
        StudyFolder(tmp_path).claim(PLAN),
    ):
        pass


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="cannot be"),
        StudyFolder(tmp_path / "file" / "study").claim(PLAN),
    ):
        pass


def test_a_damaged_plan_is_told(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(StudyError, match="damaged"):
        StudyFolder(tmp_path).recall("d1")
