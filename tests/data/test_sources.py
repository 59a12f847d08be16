from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from windtunnel.data.config import FilesSource
from windtunnel.data.sources import Document, FilesReader, open_source
from windtunnel.errors import DataError, SourceError


def read(*paths: object, field: str = "text") -> list[Document]:
    source = FilesSource(paths=tuple(str(path) for path in paths), field=field)
    return list(open_source(source).documents())


def texts(*paths: object) -> list[str]:
    return [document.text for document in read(*paths)]


def test_text_and_gzip_are_one_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ä\r\nb\n".encode())
    (tmp_path / "b.md").write_text("# b")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"c", mtime=0))
    assert texts(tmp_path) == ["ä\r\nb\n", "# b", "c"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_are_one_document_a_line(tmp_path: Path, name: str) -> None:
    content = b'{"text": "one\\ntwo", "n": 1}\n\n{"text": "three"}'
    packed = gzip.compress(content, mtime=0) if name.endswith(".gz") else content
    (tmp_path / name).write_bytes(packed)
    assert read(tmp_path / name) == [
        Document(f"{tmp_path / name}:1", "one\ntwo"),
        Document(f"{tmp_path / name}:3", "three"),
    ]


def test_the_field_of_json_lines_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x", "text": "y"}\n')
    assert [d.text for d in read(tmp_path / "a.jsonl", field="body")] == ["x"]


def test_folders_are_read_sorted_with_all_below_them(tmp_path: Path) -> None:
    for name in ["b/2.txt", "a.txt", "b/1.txt", "b/c/0.txt", "B.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert texts(tmp_path) == ["B.txt", "a.txt", "b/1.txt", "b/2.txt", "b/c/0.txt"]


def test_globs_are_sorted_and_a_file_is_read_once(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / f"{name}.txt").write_text(name)
    assert texts(tmp_path / "b.txt", tmp_path / "*.txt", tmp_path) == ["b", "a", "c"]


def test_recursive_globs_work(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a.txt").write_text("deep")
    assert texts(tmp_path / "**" / "*.txt") == ["deep"]


def test_a_path_with_glob_signs_that_exists_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("literal")
    assert texts(tmp_path / "a[1].txt") == ["literal"]


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "log.txt").write_text("no")
    (tmp_path / ".x.txt").write_text("no")
    (tmp_path / "a.txt").write_text("yes")
    assert texts(tmp_path) == ["yes"]


def test_links_to_folders_are_followed_and_may_lead_back(tmp_path: Path) -> None:
    corpus, store = tmp_path / "corpus", tmp_path / "store"
    for folder in (corpus, store / "deep"):
        folder.mkdir(parents=True)
    (corpus / "b.txt").write_text("here")
    (store / "deep" / "a.txt").write_text("there")
    (store / "deep" / "up").symlink_to(corpus)
    (corpus / "a").symlink_to(store)
    (corpus / "again").symlink_to(store / "deep")
    assert texts(corpus) == ["there", "here"]


def test_other_kinds_of_file_are_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("yes")
    (tmp_path / "b.pdf").write_text("no")
    (tmp_path / "Makefile").write_text("no")
    reader = FilesReader.of([str(tmp_path)], "text")
    assert reader.notes == ("files of other kinds, left out: 2 (.pdf, Makefile)",)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\xef\xbb\xbf")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "b"}')
    assert texts(tmp_path) == ["a\ufeff", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\xff", "not UTF-8 at byte 2"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "\xff"}\n', "not UTF-8 at byte 25"),
        ("a.txt.gz", gzip.compress(b"x\xff", mtime=0), "not UTF-8 at byte 1"),
        ("a.gz", b"not gzip", "damaged gzip file"),
        ("a.gz", gzip.compress(b"x" * 9999, mtime=0)[:-9], "damaged gzip file"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:20], "damaged gzip file"),
        ("a.jsonl", b'{"text": "ok"}\n{oops}\n', "a.jsonl:2: not a line of JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not a line of JSON"),
        ("a.jsonl", b'\n"text"\n', "a.jsonl:2: expected a JSON object, not str"),
        ("a.jsonl", b'{"body": "x"}', r"a.jsonl:1: no key 'text' \(keys: body\); set `field`"),
        (
            "a.jsonl",
            b'{"txt": "x"}',
            r"no key 'text' \(keys: txt\); did you mean 'txt'\? set `field`",
        ),
        ("a.jsonl", b'\n{"text": "x", "text": "y"}', "a.jsonl:2: the key 'text' stands twice"),
        ("a.jsonl", b'{"text": 3}', "a.jsonl:1: 'text' holds no text but int"),
        ("a.csv", b"x", r"not a kind of file that is read \(allowed: .txt, .md, .jsonl, .gz\)"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere.txt", "nowhere/", "no*.txt"])
def test_a_missing_path_is_told(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / path)


def test_a_missing_path_is_told_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("x")
    with pytest.raises(
        SourceError, match=r"^\./corpsu\.txt: no .*; did you mean '\./corpus\.txt'\?$"
    ):
        open_source(FilesSource(paths=("./corpsu.txt",)))


def test_a_folder_without_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(DataError, match="no file to read"):
        read(tmp_path)


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"a.txt: cannot be read \(No such file or directory\)"):
        read(tmp_path)


def test_a_reader_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in "ab"))
    reader = open_source(FilesSource(paths=(str(tmp_path),)))
    assert list(reader.documents()) == list(reader.documents())


@pytest.mark.parametrize(
    ("part", "expected"),
    [("0:2", "ab"), ("1:", "bcd"), (":1", "a"), ("2:9", "cd"), (":", "abcd"), ("3:3", "")],
)
def test_some_documents_alone(tmp_path: Path, part: str, expected: str) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in "abcd")
    (tmp_path / "a.jsonl").write_text(lines)
    source = FilesSource(paths=(str(tmp_path),), documents=part)
    reader = open_source(source)
    for _ in range(2):
        assert "".join(document.text for document in reader.documents()) == expected


def test_parts_of_a_corpus_are_other_data_and_a_whole_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    whole = FilesSource(paths=(str(tmp_path),))
    assert "documents" not in whole.model_dump(mode="json")
    with pytest.raises(ValueError, match="documents"):
        FilesSource(paths=(str(tmp_path),), documents="1")
