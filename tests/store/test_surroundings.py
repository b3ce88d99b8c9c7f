"""What lies beside a memory: links, pipes and journals that SQLite would write into or obey."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mllm_plugin import MemoryIndex, ReadOnlyStoreError, StoreError
from mllm_plugin.bulk.repairing import repair
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.schema import PAGE_SIZE
from mllm_plugin.store.surroundings import check_surroundings
from tests.helpers.hostile_tools import journal, linked
from tests.helpers.robustness_tools import KEPT, assert_sound
from tests.helpers.toy import ToyEncoder

PRECIOUS = b"years of work"
IDS = [document.id for document in KEPT]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    with MemoryIndex.open(path, encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
    return path


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_bytes(PRECIOUS)
    return path


def hard_link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    os.link(target, path)


def pipe(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def directory(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def names_another(path: Path, target: Path) -> None:
    path.write_bytes(journal(str(target).encode()))


KINDS = {"link": linked, "hard-link": hard_link, "pipe": pipe, "folder": directory}
TRAPS = {
    f"{ending[1:]}-{name}": (ending, trap)
    for ending in ("-wal", "-shm", "-journal")
    for name, trap in KINDS.items()
} | {
    "journal-that-names-a-file": ("-journal", names_another),
    "wal-link-to-nothing": ("-wal", lambda path, target: linked(path, target / "new")),
    "file-pipe": ("", pipe),
    "file-folder": ("", directory),
    "file-link-to-nothing": ("", lambda path, target: linked(path, target.with_name("new"))),
}


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_what_is_no_file_of_the_memory_is_refused(folder, precious, name, read_only):
    ending, trap = TRAPS[name]
    trap(folder / f"{FILE_NAME}{ending}", precious)
    with pytest.raises(StoreError, match=f"{FILE_NAME}{ending}"):
        MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=read_only)
    assert precious.read_bytes() == PRECIOUS
    assert not precious.with_name("new").exists()


@pytest.mark.parametrize("name", [name for name, (ending, _) in TRAPS.items() if ending])
def test_a_repair_does_not_wait_for_it_nor_follow_it(folder, precious, name):
    ending, trap = TRAPS[name]
    trap(folder / f"{FILE_NAME}{ending}", precious)
    report = repair(folder, folder.with_name("saved"), encoder=ToyEncoder(), progress=False)
    assert (report.documents, report.lost, precious.read_bytes()) == (len(KEPT), (), PRECIOUS)


@pytest.mark.parametrize("link", [linked, hard_link])
def test_a_file_with_another_name_is_read_and_never_written(folder, link):
    """As model hubs lay out their caches; with a log by each name, writes would be lost."""
    blob = folder.with_name("blob.db")
    (folder / FILE_NAME).rename(blob)
    link(folder / FILE_NAME, blob)
    before = blob.read_bytes()
    with pytest.raises(ReadOnlyStoreError, match="read_only=True"):
        MemoryIndex.open(folder, encoder=ToyEncoder())
    with MemoryIndex.open(folder, encoder=ToyEncoder(), read_only=True) as memory:
        assert_sound(memory, IDS)
        assert memory.search("the old lighthouse keeper", k=1)[0].document_id == "lighthouse"
    assert blob.read_bytes() == before


def test_the_folder_may_be_a_link(folder):
    link = folder.with_name("link")
    link.symlink_to(folder)
    with MemoryIndex.open(link, encoder=ToyEncoder()) as memory:
        assert memory.remove(["fox"]).erased
        assert_sound(memory, [one for one in IDS if one != "fox"])


def test_a_name_that_a_killed_maker_left_is_no_other_name(folder):
    draft = folder / f".{FILE_NAME}.0123.draft"
    draft.mkdir()
    os.link(folder / FILE_NAME, draft / FILE_NAME)
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert_sound(memory, IDS)


def test_a_journal_of_a_killed_change_is_rolled_back(folder):
    """A restored backup has one for a moment, when its log is turned on."""
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.backup(folder.with_name("backup.db"))
    shutil.copy(folder.with_name("backup.db"), folder / FILE_NAME)
    pages = (folder / FILE_NAME).stat().st_size // PAGE_SIZE
    (folder / f"{FILE_NAME}-journal").write_bytes(journal(b"", pages)[:512])
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.remove(["fox"])
        assert_sound(memory, [one for one in IDS if one != "fox"])


def test_drafts_of_a_stranger_are_not_waited_for(tmp_path, precious):
    folder = tmp_path / "memory"
    folder.mkdir()
    os.mkfifo(folder / f".{FILE_NAME}.pipe.draft")
    linked(folder / f".{FILE_NAME}.link.draft", precious.parent)
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
    assert precious.read_bytes() == PRECIOUS


def test_a_file_that_is_not_there_yet_has_sound_surroundings(folder):
    check_surroundings(folder / "new.db", writes=True)
    check_surroundings(folder / FILE_NAME, writes=True)
    (folder / "other").symlink_to(folder / FILE_NAME)
    check_surroundings(folder / "other", writes=False)
    with pytest.raises(ReadOnlyStoreError, match="is a link"):
        check_surroundings(folder / "other", writes=True)
