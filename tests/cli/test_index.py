from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.cli.indexing import Wishes
from mllm_plugin.cli.watch import changes
from mllm_plugin.errors import MissingDependencyError
from tests.helpers.toy import ToyEncoder

HERONS = "# Herons\n\nHerons eat fish. They stand still for hours.\n"


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
    assert "8 files: 3 added, 5 skipped" in result.stdout
    for line in (
        "latin.txt: not utf-8",
        "binary.txt: binary file",
        "empty.txt: no text",
        "broken.pdf: damaged PDF",
        "link.txt: a link to nothing",
    ):
        assert line in result.stderr
    report = mllm_json("index", files, "--encoding", "latin-1")
    assert counts(report) == {"added": 1, "unchanged": 3}
    assert len(report["skipped"]) == 4


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

        def __enter__(self) -> Counter:
            return self

    monkeypatch.setattr(MemoryIndex, "add_provisionally", writes)
    monkeypatch.setattr("mllm_plugin.cli.indexing.bar", lambda *_args, **_options: Counter())
    mllm("index", many)
    assert at_writes == [16, 32, 40]


# -- what is on disk is what is found
# -------------------------------------------------------------------------------------------------------


def ids(mllm_json) -> set[str]:
    return {one["id"] for one in mllm_json("list")}


def removed(report: dict) -> dict[str, str]:
    assert report["removed"] == len(report["removed_documents"])
    return {one["id"]: one["reason"] for one in report["removed_documents"]}


def test_prune_says_line_by_line_what_it_removes(mllm, indexed: Path) -> None:
    (indexed / "herons.md").unlink()
    result = mllm("index", indexed, "--prune")
    assert "removed herons.md: the file is gone" in result.stderr
    assert "2 files: 2 unchanged, 1 removed" in result.stdout


@pytest.mark.parametrize("gone", ["files", "folder", "file", "sub-folder", "files of a sub-folder"])
def test_prune_where_everything_is_gone(mllm_json, indexed: Path, gone: str) -> None:
    path, left = indexed, set()
    if gone == "file":
        path, left = indexed / "herons.md", {"quokkas.rst", "deep/compilers.txt"}
        path.unlink()
    elif gone.endswith("sub-folder"):
        path, left = indexed / "deep", {"herons.md", "quokkas.rst"}
        (path / "compilers.txt").unlink()
    else:
        shutil.rmtree(path)
    if gone in ("files", "files of a sub-folder"):
        path.mkdir(exist_ok=True)
    elif path.is_dir():
        path.rmdir()
    report = mllm_json("index", path, "--prune")
    assert report["files"] == 0
    assert ids(mllm_json) == left
    assert set(removed(report)) == {"herons.md", "quokkas.rst", "deep/compilers.txt"} - left
    assert mllm_json("verify")["ok"]


def test_prune_of_what_was_never_there_is_an_error(mllm, mllm_json, indexed: Path) -> None:
    result = mllm("index", indexed / "typo", "--prune", code=1)
    assert "no file or folder" in result.stderr
    assert len(ids(mllm_json)) == 3


def test_without_prune_nothing_goes_because_a_file_is_gone(mllm, mllm_json, indexed: Path) -> None:
    shutil.rmtree(indexed)
    mllm("index", indexed, code=1)
    indexed.mkdir()
    assert "--prune" in mllm("index", indexed, code=1).stderr
    assert len(ids(mllm_json)) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b" \n\n", "no text"), (b"\x89PNG\0\0", "binary"), (b"F\xfc\xdfe", "not utf-8")],
    ids=["empty", "blank", "binary", "encoding"],
)
def test_a_changed_file_without_readable_text_takes_its_old_text_along(
    mllm, mllm_json, indexed: Path, content: bytes, reason: str
) -> None:
    (indexed / "herons.md").write_bytes(content)
    report = mllm_json("index", indexed)
    assert counts(report) == {"unchanged": 2, "removed": 1}
    assert reason in removed(report)["herons.md"]
    assert reason in report["skipped"][0]["reason"]
    assert "herons.md" not in ids(mllm_json)
    (indexed / "herons.md").write_text("Herons again.")
    assert counts(mllm_json("index", indexed)) == {"added": 1, "unchanged": 2}


def test_text_of_an_unchanged_file_stays_when_it_cannot_be_read_now(mllm_json, indexed: Path) -> None:
    report = mllm_json("index", indexed, "--force", "--max-mb", "0.00004")
    assert len(report["skipped"]) == 3
    assert not report["removed"]
    assert "still found" in report["notes"][0]["note"]
    assert len(ids(mllm_json)) == 3
    report = mllm_json("index", indexed, "--force", "--max-mb", "0.00004", "--prune")
    assert report["removed"] == 3


def test_a_missing_package_never_removes_anything(mllm_json, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.html").write_text("<p>Herons")
    mllm_json("index", tmp_path / "a.html")
    (tmp_path / "a.html").write_text("<p>Quokkas")
    monkeypatch.setitem(sys.modules, "resiliparse", None)
    report = mllm_json("index", tmp_path / "a.html", "--prune")
    assert "mllm-plugin[readers]" in report["skipped"][0]["reason"]
    assert ids(mllm_json) == {"a.html"}


def test_an_unreadable_folder_is_named_and_its_documents_stay(mllm_json, indexed: Path, monkeypatch) -> None:
    scandir, stat = os.scandir, Path.stat

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    def refuse_file(path, **options):
        if path.parent.name == "deep":
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    (indexed / "herons.md").unlink()
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(Path, "stat", refuse_file)
    report = mllm_json("index", indexed, "--prune")
    assert removed(report) == {"herons.md": "the file is gone"}
    assert report["skipped"] == [
        {"path": str(indexed / "deep"), "reason": "the folder cannot be read: Permission denied"}
    ]
    assert "Permission denied" in report["notes"][0]["note"]
    monkeypatch.undo()
    assert ids(mllm_json) == {"quokkas.rst", "deep/compilers.txt"}


@pytest.mark.parametrize("at_once", [True, False], ids=["pruned at once", "pruned later"])
def test_a_renamed_folder_takes_its_deleted_files_along(
    mllm, mllm_json, indexed: Path, tmp_path: Path, at_once: bool
) -> None:
    mllm("mask", "quokkas.rst", "--label", "check")
    moved = indexed.rename(tmp_path / "moved")
    (moved / "herons.md").unlink()
    if not at_once:
        mllm("index", moved)
        assert "herons.md" in ids(mllm_json)
    assert removed(mllm_json("index", moved, "--prune")) == {"herons.md": "the file is gone"}
    assert ids(mllm_json) == {"quokkas.rst", "deep/compilers.txt"}
    assert {tuple(one["masks"]) for one in mllm_json("list", "--masked")} == {("check",)}
    assert mllm_json("verify")["ok"]


def test_files_of_a_drive_that_is_away_stay(mllm_json, indexed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("Something else.")
    mllm_json("index", other)
    indexed.rename(tmp_path / "away")
    assert counts(mllm_json("index", other, "--prune")) == {"unchanged": 1}
    assert len(ids(mllm_json)) == 4


# -- what is read again, and what is left out
# -------------------------------------------------------------------------------------------------------


def test_files_read_by_an_older_reader_are_read_again(
    mllm_json, indexed: Path, folder: Path, encoder
) -> None:
    with MemoryIndex.open(folder, encoder=encoder) as memory:
        stored = memory.get("herons.md")[0]
        older = {name: value for name, value in stored.metadata.items() if name != "reader"}
        memory.add([Document("read wrongly", stored.id, metadata=older)])
    assert counts(mllm_json("index", indexed)) == {"updated": 1, "unchanged": 2}
    assert mllm_json("show", "herons.md")["text"] == HERONS
    assert counts(mllm_json("index", indexed)) == {"unchanged": 3}


def test_another_encoding_and_force_read_again(mllm_json, files: Path, encoder: ToyEncoder) -> None:
    (files / "cyrillic.txt").write_bytes("Привет".encode("cp1251"))
    (files / "umlaut.txt").write_text("Füße", encoding="utf-8")
    assert counts(mllm_json("index", files, "--encoding", "latin-1")) == {"added": 5}
    assert mllm_json("show", "umlaut.txt")["text"] == "Füße"
    assert counts(mllm_json("index", files)) == {"unchanged": 5}
    assert counts(mllm_json("index", files, "--encoding", "cp1251")) == {"updated": 1, "unchanged": 4}
    assert mllm_json("show", "cyrillic.txt")["text"] == "Привет"
    (files / "umlaut.txt").write_bytes(b"abcdef")
    os.utime(files / "umlaut.txt", (1, 1))
    mllm_json("index", files, "--encoding", "cp1251")
    (files / "umlaut.txt").write_bytes(b"ABCDEF")
    os.utime(files / "umlaut.txt", (1, 1))
    assert counts(mllm_json("index", files, "--encoding", "cp1251")) == {"unchanged": 5}
    assert counts(mllm_json("index", files, "--encoding", "cp1251", "--force")) == {
        "updated": 1,
        "unchanged": 4,
    }
    assert mllm_json("show", "umlaut.txt")["text"] == "ABCDEF"


def test_files_without_a_reader_are_counted_and_named(mllm, mllm_json, files: Path) -> None:
    for number in range(5):
        (files / f"{number}.png").write_bytes(b"\x89PNG")
    (files / "server.log").write_text("started")
    (files / "table.csv").write_text("bird,food\nheron,fish\n")
    report = mllm_json("index", files)
    assert counts(report) == {"added": 4}
    assert (report["files"], len(report["skipped"])) == (10, 6)
    result = mllm("index", files)
    assert "10 files: 4 unchanged, 6 skipped" in result.stdout
    assert "0.png and 4 more: no reader for .png; a picture needs text recognition first" in result.stderr
    assert "server.log: no reader for .log; --glob '*.log' reads it as text" in result.stderr


def test_exclusions_and_gitignore_are_counted_and_their_documents_stay(
    mllm, mllm_json, indexed: Path
) -> None:
    (indexed / ".gitignore").write_text("*.rst\n")
    result = mllm("index", indexed, "--exclude", "deep/", "--prune")
    assert "1 file: 1 unchanged" in result.stdout
    assert "left out: 1 hidden, 2 ignored" in result.stderr
    assert len(ids(mllm_json)) == 3
    assert counts(mllm_json("index", indexed, "--no-gitignore")) == {"unchanged": 3}


def test_embedded_images_are_named(mllm, mllm_json, files: Path) -> None:
    (files / "herons.md").write_text(f"A heron. ![](data:image/png;base64,{'iVBORw0KGgo' * 1000}) It fishes.")
    result = mllm("index", files)
    assert "herons.md: 1 embedded file (base64) left out of the text" in result.stderr
    assert mllm_json("show", "herons.md")["text"] == "A heron. ![](data:image/png;base64,…) It fishes."


# -- watching
# -------------------------------------------------------------------------------------------------------


def test_watch_follows_changes(mllm, mllm_json, files: Path, monkeypatch) -> None:
    import watchfiles

    seen = []

    def edits():
        yield lambda: (files / "new.md").write_text("Otters swim.")
        yield lambda: (files / "herons.md").write_text("Herons fly.")
        yield lambda: (files / "quokkas.rst").unlink()

    watch = watchfiles.watch

    def watched(*paths, **options):
        steps = edits()
        for changed in watch(*paths, rust_timeout=100, debounce=50, **options):
            seen.append(changed)
            yield changed
            if changed or len(seen) == 1:
                step = next(steps, None)
                if step is None:
                    return
                step()

    monkeypatch.setattr(watchfiles, "watch", watched)
    lines = mllm("index", files, "--watch", "--json").stdout.splitlines()
    reports = [counts(json.loads(line)) for line in lines]
    assert reports == [
        {"added": 3},
        {"added": 1, "unchanged": 3},
        {"updated": 1, "unchanged": 3},
        {"unchanged": 3, "removed": 1},
    ]
    assert ids(mllm_json) == {"new.md", "herons.md", "deep/compilers.txt"}


def test_watch_keeps_the_documents_of_a_folder_that_went_away(tmp_path: Path, monkeypatch) -> None:
    import watchfiles

    root = tmp_path / "notes"
    root.mkdir()
    monkeypatch.setattr(watchfiles, "watch", lambda *paths, **options: iter([set(), {("deleted", "x")}]))
    passes = changes(Wishes((root,), prune=True), tmp_path / "memory")
    assert next(passes).paths == (root,)
    root.rmdir()
    assert next(passes).paths == ()


def test_watch_passes_over_what_the_memory_writes(tmp_path: Path, monkeypatch) -> None:
    import watchfiles

    filters = []
    monkeypatch.setattr(
        watchfiles, "watch", lambda *paths, watch_filter, **options: filters.append(watch_filter) or iter([])
    )
    assert list(changes(Wishes((tmp_path,)), tmp_path / "memory")) == []
    assert not filters[0](None, str(tmp_path / "memory" / "memory.db-wal"))
    assert filters[0](None, str(tmp_path / "memory.md"))
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(MissingDependencyError, match=r"mllm-plugin\[watch\]"):
        next(changes(Wishes((tmp_path,)), tmp_path / "memory"))


def test_what_could_not_be_done_after_all_was_written_is_said(
    mllm, mllm_json, indexed: Path, folder: Path, tmp_path: Path
) -> None:
    with (
        MemoryIndex.open(folder, encoder=None) as memory,
        contextlib.closing(memory.export()) as records,
    ):
        next(records)  # a reader that holds old pages
        (indexed / "herons.md").write_text("Herons fly.")
        shown = mllm("index", indexed)
        assert "1 updated" in shown.stdout
        assert "a reader held old pages" in shown.stderr
        (indexed / "herons.md").write_text("Herons sleep.")
        assert "a reader held old pages" in mllm_json("index", indexed)["reason"]
        lines = tmp_path / "lines.jsonl"
        lines.write_text(json.dumps({"id": "herons.md", "text": "Herons dream."}))
        shown = mllm("import", lines)
        assert "1 updated" in shown.stdout
        assert "a reader held old pages" in shown.stderr
    assert mllm_json("index", indexed)["reason"] == ""
