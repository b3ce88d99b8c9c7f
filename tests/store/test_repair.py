"""`repair` keeps every document but those on the damaged page, and says which these are."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from mllm_plugin import (
    DamagedStoreError,
    Document,
    EncoderMismatchError,
    InvalidInputError,
    MemoryConfig,
    MemoryIndex,
    NotFoundError,
    StoreBusyError,
    TreeConfig,
    repair,
)
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.pages import Pages
from mllm_plugin.store.salvage import open_salvage
from tests.helpers.fault_tools import SOAK
from tests.helpers.robustness_tools import KEPT, some_documents, start_python
from tests.helpers.toy import ToyEncoder

PAGE = 16384
DIM = 32
BIG = Document(" ".join(f"t{number}" for number in range(9000)), id="big")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A closed memory with all that a document can have, and one that lies on pages of its own."""
    folder = tmp_path_factory.mktemp("sound") / "memory"
    config = MemoryConfig(tree=TreeConfig(fan_out=8))
    with MemoryIndex.open(folder, encoder=ToyEncoder(DIM), config=config) as memory:
        memory.add([*KEPT, *some_documents(150, words=60), BIG])
        memory.add([Document("its own vector", id="vector")], embeddings=[[1.0] * DIM])
        memory.add([Document("the note of anna", id="note", labels=("x",))], namespace=("users", "anna"))
        memory.mask(["d3", "d4"], label="draft")
        memory.compact()
    return folder


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def contents(folder: Path) -> dict[tuple, tuple]:
    with MemoryIndex.open(folder, encoder=None) as memory:
        return {
            (one.namespace, one.id): (one.text, one.metadata, one.labels, one.masks, one.split)
            for one in memory.documents(prefix=True)
        }


@pytest.fixture(scope="module")
def expected(sound) -> dict[tuple, tuple]:
    return contents(sound)


def damage(folder: Path, page: int) -> None:
    with open(folder / FILE_NAME, "r+b") as file:
        file.seek((page - 1) * PAGE + 5000)
        file.write(b"\xa5" * 16)


def pages_of(folder: Path) -> list[int]:
    count = (folder / FILE_NAME).stat().st_size // PAGE
    return list(range(1, count + 1)) if SOAK else list(range(1, count + 1, 4))


def test_any_one_damaged_page_costs_the_documents_on_it_alone(sound, expected, tmp_path):
    shares = []
    for page in pages_of(sound):
        damaged, target = tmp_path / "damaged", tmp_path / "repaired"
        shutil.copytree(sound, damaged)
        damage(damaged, page)
        before = (damaged / FILE_NAME).read_bytes()
        report = repair(damaged, target, encoder=ToyEncoder(DIM), progress=False)
        found = contents(target)
        assert found == {name: expected[name] for name in found}
        assert set(expected) - set(found) == set(report.lost)
        assert report.documents == len(found)
        assert (damaged / FILE_NAME).read_bytes() == before
        with MemoryIndex.open(target, encoder=ToyEncoder(DIM)) as memory:
            assert memory.verify().problems == ()
        shares.append(len(found) / len(expected))
        shutil.rmtree(damaged)
        shutil.rmtree(target)
    print(f"{len(shares)} pages: kept {sum(shares) / len(shares):.1%} on average, {min(shares):.1%} at worst")
    assert sum(shares) / len(shares) > 0.97
    assert min(shares) > 0.6, "a page holds a part of the documents only"


def test_a_sound_memory_is_repaired_to_the_same_answers(sound, expected, tmp_path):
    report = repair(sound, tmp_path / "again", progress=False)
    assert (report.documents, report.lost, report.encoded, report.pages, report.notes) == (
        len(expected),
        (),
        0,
        0,
        (),
    )
    with (
        MemoryIndex.open(sound, encoder=ToyEncoder(DIM)) as old,
        MemoryIndex.open(tmp_path / "again", encoder=ToyEncoder(DIM)) as new,
    ):
        for query in ("lighthouse ships", "d17", "t77 t78"):
            scores = [
                [(hit.document_id, hit.score) for hit in one.search(query, mode="exact")]
                for one in (old, new)
            ]
            assert scores[0] == scores[1]


def test_writes_in_the_log_are_kept(sound, expected, tmp_path):
    with MemoryIndex.open(shutil.copytree(sound, tmp_path / "open"), encoder=ToyEncoder(DIM)) as memory:
        memory.add([Document("only in the log", id="logged")])
        killed = Path(shutil.copytree(tmp_path / "open", tmp_path / "killed"))
    damage(killed, 1)
    report = repair(killed, tmp_path / "repaired", encoder=ToyEncoder(DIM), progress=False)
    assert report.lost == ()
    assert contents(tmp_path / "repaired").keys() == expected.keys() | {((), "logged")}


def test_a_file_cut_in_half_and_one_of_a_stranger(copy, expected, tmp_path):
    with open(copy / FILE_NAME, "r+b") as file:
        file.truncate((copy / FILE_NAME).stat().st_size // 2 + 77)
    report = repair(copy, tmp_path / "half", encoder=ToyEncoder(DIM), progress=False)
    found = contents(tmp_path / "half")
    assert found == {name: expected[name] for name in found}
    assert found.keys() | set(report.lost) == expected.keys()


def test_without_an_encoder_what_lost_its_vectors_is_named(copy, expected, tmp_path):
    with MemoryIndex.open(copy, encoder=None) as memory, memory._database.read() as tx:
        root = tx.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'chunks'").get
    damage(copy, root)
    without = repair(copy, tmp_path / "without", progress=False)
    assert without.lost
    assert any("give the encoder" in note for note in without.notes)
    assert repair(copy, tmp_path / "with", encoder=ToyEncoder(DIM), progress=False).lost == ()


def test_what_a_repair_refuses(copy, tmp_path):
    with pytest.raises(NotFoundError, match="no memory at"):
        repair(tmp_path / "none", tmp_path / "new")
    with pytest.raises(InvalidInputError, match="never overwrites"):
        repair(copy, copy)
    with pytest.raises(EncoderMismatchError, match="name it, or none"):
        repair(copy, tmp_path / "new", encoder=ToyEncoder(7))
    with (
        MemoryIndex.open(copy, encoder=ToyEncoder(DIM)),
        pytest.raises(StoreBusyError, match="close it before"),
    ):
        repair(copy, tmp_path / "new")
    (copy / FILE_NAME).write_bytes(b"\x07" * 5 * PAGE)
    with pytest.raises((DamagedStoreError, InvalidInputError)):
        repair(copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


OPENED = """
import sys
from mllm_plugin import MemoryIndex
from tests.helpers.toy import ToyEncoder
with MemoryIndex.open(sys.argv[1], encoder=None, timeout=0.1) as memory:
    print(memory.stats().documents, flush=True)
    input()
"""


def test_no_other_process_has_the_memory_open_nor_opens_it_meanwhile(copy, tmp_path, monkeypatch):
    other = start_python(OPENED, copy)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(StoreBusyError, match="another process has"):
        repair(copy, tmp_path / "saved", encoder=ToyEncoder(DIM), progress=False)
    assert not (tmp_path / "saved").exists()
    other.communicate("\n", timeout=60)
    refused = []

    def opened_by_another(path):
        _, errors = start_python(OPENED, copy).communicate("\n", timeout=60)
        refused.append(errors.strip().splitlines()[-1].partition(":")[0])
        return open_salvage(path)

    monkeypatch.setattr("mllm_plugin.repairing.open_salvage", opened_by_another)
    repair(copy, tmp_path / "saved", encoder=ToyEncoder(DIM), progress=False)
    assert refused == ["mllm_plugin.errors.StoreBusyError"]
    assert contents(copy) == contents(tmp_path / "saved")


@pytest.mark.parametrize("table", ["masks", "labels", "namespaces", "sqlite_schema"])
def test_a_row_of_other_columns_costs_itself_alone(copy, tmp_path, table, monkeypatch):
    """A page whose checksum holds may hold anything."""
    whole = Pages.row

    def shortened(self, cell, **options):
        row = whole(self, cell, **options)
        return row[:1] if row is not None and cell.page in roots else row

    with closing(open_salvage(copy / FILE_NAME)) as salvage:
        roots = {1} if table == "sqlite_schema" else {salvage._roots[table]}
    monkeypatch.setattr(Pages, "row", shortened)
    report = repair(copy, tmp_path / "saved", encoder=ToyEncoder(DIM), progress=False)
    assert report.lost == ()
