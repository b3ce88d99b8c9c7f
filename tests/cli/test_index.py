from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from toy import ToyEncoder

from mllm_plugin import MemoryIndex


def counts(report: dict) -> dict[str, int]:
    names = ("added", "updated", "unchanged", "removed")
    return {name: report[name] for name in names if report[name]}


def test_index_stores_each_file_under_its_relative_path(mllm_json, files: Path, folder: Path) -> None:
    report = mllm_json("index", files, "--label", "zoo")
    assert counts(report) == {"added": 3}
    with MemoryIndex.open(folder, encoder=None) as memory:
        stored = {document.id: document for document in memory.documents()}
        assert memory.verify().ok
    assert set(stored) == {"herons.md", "quokkas.rst", "deep/compilers.txt"}
    herons = stored["herons.md"]
    assert herons.text == (files / "herons.md").read_text()
    assert herons.labels == ("zoo",)
    assert herons.metadata["path"] == str(files / "herons.md")
    assert (herons.metadata["type"], herons.metadata["size"]) == (
        "markdown",
        (files / "herons.md").stat().st_size,
    )
    assert herons.metadata["modified"].endswith("Z")


def test_running_again_reads_and_encodes_only_what_changed(
    mllm_json, indexed: Path, encoder: ToyEncoder
) -> None:
    encoder.encoded.clear()
    assert counts(mllm_json("index", indexed)) == {"unchanged": 3}
    (indexed / "herons.md").write_text("Herons fly.")
    os.utime(indexed / "quokkas.rst", ns=(1, 1))
    assert counts(mllm_json("index", indexed)) == {"updated": 2, "unchanged": 1}
    assert encoder.encoded == ["Herons fly."]


def test_labels_stay_unless_new_ones_are_given(mllm_json, files: Path) -> None:
    mllm_json("index", files, "--label", "zoo")
    assert counts(mllm_json("index", files)) == {"unchanged": 3}
    assert counts(mllm_json("index", files, "--label", "park")) == {"updated": 3}
    assert {tuple(one["labels"]) for one in mllm_json("list")} == {("park",)}


def test_prune_removes_only_what_this_folder_lost(mllm_json, indexed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Something else.")
    mllm_json("index", other)
    (indexed / "herons.md").unlink()
    assert counts(mllm_json("index", indexed)) == {"unchanged": 2}
    assert counts(mllm_json("index", indexed, "--prune", "--glob", "*.rst")) == {"unchanged": 1, "removed": 1}
    assert {one["id"] for one in mllm_json("list")} == {"quokkas.rst", "deep/compilers.txt", "other.txt"}


def test_unreadable_files_are_skipped_and_listed(mllm, mllm_json, files: Path) -> None:
    (files / "latin.txt").write_bytes("Füße".encode("latin-1"))
    (files / "binary.txt").write_bytes(b"a\0b")
    (files / "empty.txt").write_bytes(b"")
    (files / "broken.pdf").write_bytes(b"%PDF-1.4")
    (files / "link.txt").symlink_to(files / "nowhere.txt")
    result = mllm("index", files)
    assert "7 files: 3 added, 4 skipped" in result.stdout
    for line in (
        "latin.txt: not utf-8",
        "binary.txt: binary file",
        "empty.txt: no text",
        "broken.pdf: damaged PDF",
    ):
        assert line in result.stderr
    report = mllm_json("index", files, "--encoding", "latin-1")
    assert counts(report) == {"added": 1, "unchanged": 3}
    assert len(report["skipped"]) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows names are Unicode")
def test_a_file_name_that_is_no_unicode_is_skipped(mllm_json, files: Path) -> None:
    (Path(os.fsdecode(os.fsencode(files) + b"/\xff.txt"))).write_text("text")
    report = mllm_json("index", files)
    assert counts(report) == {"added": 3}
    assert "no valid Unicode" in report["skipped"][0]["reason"]


def test_a_huge_line_is_indexed(mllm_json, tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("word " * 30_000)
    assert counts(mllm_json("index", tmp_path / "line.txt")) == {"added": 1}
    assert mllm_json("verify")["ok"]


def test_two_files_of_one_name_are_refused(mllm, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    assert (
        "would both be document 'a.txt'" in mllm("index", tmp_path / "one", tmp_path / "two", code=1).stderr
    )
    mllm("index", tmp_path / "one")
    result = mllm("index", tmp_path / "two")
    assert "was indexed from" in result.stderr
    assert "1 skipped" in result.stdout


def test_a_moved_folder_keeps_its_documents(mllm_json, indexed: Path, tmp_path: Path) -> None:
    moved = indexed.rename(tmp_path / "moved")
    assert counts(mllm_json("index", moved)) == {"updated": 3}
    assert {one["metadata"]["root"] for one in mllm_json("list")} == {str(moved)}


def test_documents_that_came_from_no_file_are_not_replaced(
    mllm_json, files: Path, folder: Path, encoder
) -> None:
    from mllm_plugin import Document

    with MemoryIndex.open(folder, encoder=encoder) as memory:
        memory.add([Document("Mine.", "herons.md")])
    report = mllm_json("index", files)
    assert counts(report) == {"added": 2}
    assert "came from no file" in report["skipped"][0]["reason"]


def test_an_interrupted_run_goes_on_where_it_was(
    mllm, mllm_json, tmp_path: Path, encoder: ToyEncoder
) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(40):
        (root / f"{number:02}.txt").write_text(f"file number {number}")
    encode = encoder.encode_documents

    def interrupted(texts):
        if len(encoder.encoded) >= 16:
            raise KeyboardInterrupt
        return encode(texts)

    encoder.encode_documents = interrupted  # type: ignore[method-assign]
    assert "run the same command again" in mllm("index", root, code=130).stderr
    encoder.encode_documents = encode  # type: ignore[method-assign]
    assert counts(mllm_json("index", root)) == {"added": 24, "unchanged": 16}
    assert len(encoder.encoded) == 40
    assert mllm_json("verify")["ok"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 1, "no file or folder"),
        ([], 2, "Missing argument"),
        (["."], 1, "no readable file"),
        ([".", "--encoding", "klingon"], 2, "unknown encoding"),
    ],
    ids=["missing", "none", "empty folder", "encoding"],
)
def test_index_errors(
    mllm, tmp_path: Path, monkeypatch, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert message in mllm("index", *arguments, code=code).stderr


def test_the_bar_does_not_run_ahead_of_what_is_written(mllm, tmp_path: Path, monkeypatch) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(40):
        (many / f"{number:02}.md").write_text(f"Note {number}.")
    begun, at_writes = [], []
    add = MemoryIndex.add_provisionally

    def writes(self: MemoryIndex, *arguments: object, **options: object) -> object:
        at_writes.append(len(begun))
        return add(self, *arguments, **options)

    class Counter(contextlib.nullcontext):
        update = staticmethod(lambda: begun.append(1))

    monkeypatch.setattr(MemoryIndex, "add_provisionally", writes)
    monkeypatch.setattr("mllm_plugin.cli.index.bar", lambda *_args, **_options: Counter())
    mllm("index", many)
    assert at_writes == [16, 32, 40]
