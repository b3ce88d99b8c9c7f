"""A file that is not what it was: an error that says so, or the answers as before; never anything else."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from mllm_plugin import (
    DamagedStoreError,
    Document,
    FormatVersionError,
    MemoryConfig,
    MemoryIndex,
    NotFoundError,
    StoreError,
    TreeConfig,
)
from mllm_plugin.store.cache import FOLDER_NAME
from mllm_plugin.store.database import FILE_NAME
from tests.helpers.file_tools import value
from tests.helpers.robustness_tools import KEPT, MODES, answers, assert_sound, contents, some_documents
from tests.helpers.toy import ToyEncoder

DOCUMENTS = [*KEPT, *some_documents(150, words=30)]
QUERIES = ["lighthouse ships", "d17", "w3 w5 w8"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """The folder of a closed memory with three levels, all of it in one file."""
    folder = tmp_path_factory.mktemp("sound") / "memory"
    with MemoryIndex.open(
        folder, encoder=ToyEncoder(), config=MemoryConfig(tree=TreeConfig(fan_out=8))
    ) as memory:
        memory.add(DOCUMENTS)
        memory.add([Document("another tree", id="x")], namespace="elsewhere")
        memory.mask(["d3", "d4"], label="draft")
        memory.compact()
    assert [path.name for path in folder.iterdir() if path.name.startswith(FILE_NAME)] == [FILE_NAME]
    return folder


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def everything(folder: Path, **options) -> tuple:
    """What a memory answers, through every way of reading."""
    with MemoryIndex.open(folder, encoder=ToyEncoder(), **options) as memory:
        found = [answers(memory, QUERIES, mode=mode) for mode in MODES]
        filtered = memory.search("w3", filter={"even": True}, k=3)
        stats = memory.stats()
        return found, filtered, contents(memory), list(memory.export()), stats.documents, stats.live_chunks


@pytest.fixture(scope="module")
def expected(sound) -> tuple:
    return everything(sound)


def flip(folder: Path, place: int, bit: int) -> None:
    with open(folder / FILE_NAME, "r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def assert_right_or_refused(folder: Path, expected: tuple, **options) -> None:
    try:
        found = everything(folder, **options)
    except StoreError:
        return
    assert found == expected


def assert_writes_are_right_or_refused(folder: Path) -> None:
    """A write into a damaged memory either works as in a sound one, or is refused."""
    try:
        with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
            memory.remove(["d10"])
            memory.add([Document("freshly added words", id="fresh"), Document("new text", id="fox")])
            memory.mask(["kettle"])
            problems = memory.verify().problems
    except StoreError:
        return
    assert problems == () or any("cannot be read" in one or "is damaged" in one for one in problems)


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit(copy, expected, seed):
    generator = random.Random(seed)
    flip(copy, generator.randrange((copy / FILE_NAME).stat().st_size), generator.randrange(8))
    assert_right_or_refused(copy, expected)
    assert_writes_are_right_or_refused(copy)


@pytest.mark.parametrize("place", [*range(0, 100, 3), 20, 28, 31, 52, 60, 68])
@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_a_flipped_bit_in_the_header(copy, expected, place, read_only):
    flip(copy, place, place % 8)
    assert_right_or_refused(copy, expected, read_only=read_only)


def test_a_flipped_bit_in_a_vector_is_found_by_verify(copy):
    vectors = value(copy, "SELECT vectors FROM blocks ORDER BY length(vectors) DESC LIMIT 1")
    place = (copy / FILE_NAME).read_bytes().index(vectors[:400])
    flip(copy, place + 100, 3)
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as memory:
        problems = memory.verify().problems
    named = [one for one in problems if one.startswith("namespace (): node ")]
    assert named
    assert all("(of document '" in one and "cannot be read" in one for one in named)


def test_damage_while_the_memory_is_open(copy, expected):
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as memory:
        memory.search("ships")
        size = (copy / FILE_NAME).stat().st_size
        for page in range(0, size, 16384):
            flip(copy, page + 5_000, 1)
        assert any("is damaged" in problem for problem in memory.verify().problems)
        with pytest.raises(DamagedStoreError):
            list(memory.documents())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999], ids=lambda share: f"{share:.1%}")
def test_a_truncated_file(copy, expected, share):
    size = int((copy / FILE_NAME).stat().st_size * share)
    with open(copy / FILE_NAME, "r+b") as file:
        file.truncate(size)
    assert_right_or_refused(copy, expected)
    assert (copy / FILE_NAME).stat().st_size == size


@pytest.mark.parametrize("missing", [1, 8, 100, 4_096, 9_000, 16_383])
def test_a_file_cut_inside_of_its_last_page(copy, missing):
    """SQLite reads what is missing as zeros, and its checksum VFS passes over short pages."""
    size = (copy / FILE_NAME).stat().st_size
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as opened:
        with open(copy / FILE_NAME, "r+b") as file:
            file.truncate(size - missing)
        with pytest.raises(DamagedStoreError, match=r"cut short: 1 of \d+ pages are missing"):
            opened.search("ships")
        assert any("cut short" in problem for problem in opened.verify().problems)
    with pytest.raises(DamagedStoreError, match="cut short"):
        MemoryIndex.open(copy, encoder=ToyEncoder())


def test_a_file_whose_last_pages_are_in_the_log_is_whole(copy):
    """A writer that is killed leaves pages in the log that the file has no room for yet."""
    size = (copy / FILE_NAME).stat().st_size
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as memory:
        memory.add(some_documents(100, prefix="new"))
        assert memory.search("new7", k=1)[0].document_id == "new7"
        killed = Path(shutil.copytree(copy, copy.parent / "killed"))
        pages = memory._database.exclusive(lambda connection: connection.pragma("page_count"))
    assert size <= (killed / FILE_NAME).stat().st_size < pages * 16384
    with MemoryIndex.open(killed, encoder=ToyEncoder()) as memory:
        assert memory.verify().problems == ()
        assert memory.search("new7", k=1)[0].document_id == "new7"


def test_a_file_cut_at_a_page(copy, expected):
    with open(copy / FILE_NAME, "r+b") as file:
        file.truncate((copy / FILE_NAME).stat().st_size - 16384)
    assert_right_or_refused(copy, expected)


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
@pytest.mark.parametrize("create", [False, True], ids=["existing", "or-new"])
def test_an_emptied_file_is_not_taken_for_a_memory(copy, read_only, create):
    """Zero bytes are what a copy cut short leaves."""
    (copy / FILE_NAME).write_bytes(b"")
    with pytest.raises(DamagedStoreError, match=r"is empty.*Restore a backup with `mllm restore`, or delete"):
        MemoryIndex.open(copy, encoder=ToyEncoder(), create=create, read_only=read_only)
    assert (copy / FILE_NAME).read_bytes() == b""


GARBAGE = {
    "text": b"this is no database at all. " * 2_000,
    "short": b"SQLite",
    "random": random.Random(1).randbytes(50_000),
    "zeros": bytes(40_000),
    "magic-then-random": b"SQLite format 3\x00" + random.Random(2).randbytes(50_000),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_garbage(tmp_path, garbage, read_only):
    (tmp_path / FILE_NAME).write_bytes(garbage)
    with pytest.raises(DamagedStoreError):
        MemoryIndex.open(tmp_path, encoder=ToyEncoder(), read_only=read_only)
    assert (tmp_path / FILE_NAME).read_bytes() == garbage


@pytest.mark.parametrize("user_version", [0, 1, 7])
@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_the_database_of_another_program_is_left_alone(tmp_path, user_version, read_only):
    path = tmp_path / FILE_NAME
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.execute("INSERT INTO recipes VALUES ('soup')")
    connection.execute(f"PRAGMA user_version = {user_version}")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DamagedStoreError, match="not a memory"):
        MemoryIndex.open(tmp_path, encoder=ToyEncoder(), read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_a_newer_format_is_refused_and_not_touched(copy, read_only):
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as memory:
        memory._database.exclusive(lambda connection: connection.pragma("user_version", 99))
    before = (copy / FILE_NAME).read_bytes()
    with pytest.raises(FormatVersionError, match=r"format version 99, this release reads up to \d+; upgrade"):
        MemoryIndex.open(copy, encoder=ToyEncoder(), read_only=read_only)
    assert (copy / FILE_NAME).read_bytes() == before


def test_settings_of_a_newer_release(copy):
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as memory, memory._database.write() as tx:
        tx.execute("""UPDATE meta SET value = '{"holographic": true}' WHERE key = 'config'""")
    with pytest.raises(FormatVersionError, match="upgrade mllm-plugin"):
        MemoryIndex.open(copy, encoder=ToyEncoder())


@pytest.mark.parametrize(
    "options", [{"create": False}, {"read_only": True}], ids=["create=False", "read-only"]
)
def test_a_missing_folder_is_not_made(tmp_path, options):
    folder = tmp_path / "deep" / "memory"
    with pytest.raises(NotFoundError, match="no memory at"):
        MemoryIndex.open(folder, encoder=ToyEncoder(), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "memory"], ids=["the-path", "its-parent"])
def test_a_path_that_is_a_file(tmp_path, below):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(StoreError, match="file"):
        MemoryIndex.open(tmp_path / "file" / below, encoder=ToyEncoder())
    assert (tmp_path / "file").read_text() == "hello"


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StoreError):
        MemoryIndex.open(tmp_path, encoder=ToyEncoder())


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal"])
def test_a_damaged_cache_costs_time_only(copy, expected, name):
    (copy / FOLDER_NAME).mkdir(exist_ok=True)
    (copy / FOLDER_NAME / name).write_bytes(GARBAGE["random"])
    assert everything(copy) == expected
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as memory:
        assert memory.add([Document("more words", id="more")]).added == 1
        assert memory.search("more words", k=1)[0].document_id == "more"
        assert memory.remove(["more"]).documents == 1
        assert_sound(memory, [*(document.id for document in DOCUMENTS), "x"])


def test_a_deleted_cache_costs_time_only(copy, expected):
    with MemoryIndex.open(copy, encoder=ToyEncoder()) as memory:
        memory.add([Document("more words", id="more")])
        shutil.rmtree(copy / FOLDER_NAME)
        assert memory.add([Document("yet more", id="more")]).updated == 1
        assert memory.remove(["more"]).documents == 1
    assert everything(copy) == expected
