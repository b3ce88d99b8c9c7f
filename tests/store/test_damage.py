"""Bits that flip, files that are cut, pages that are lost, stale or swapped: never a wrong answer in silence.

`make soak` tries thousands. A page that is stale, or in another's place, has a checksum that holds; what it
changes is found by `verify`.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryConfig, MemoryIndex, StoreError, TreeConfig
from mllm_plugin.store.database import FILE_NAME
from tests.helpers.fault_tools import SOAK
from tests.helpers.robustness_tools import KEPT, answers, contents, some_documents
from tests.helpers.toy import ToyEncoder

PAGE = 16384
LOG = f"{FILE_NAME}-wal"
ROUNDS = 1500 if SOAK else 12


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, bytes]:
    """A closed memory, and its file as it was some writes before."""
    folder = tmp_path_factory.mktemp("sound") / "memory"
    config = MemoryConfig(tree=TreeConfig(fan_out=8))
    with MemoryIndex.open(folder, encoder=ToyEncoder(32), config=config) as memory:
        memory.add([*KEPT, *some_documents(120, words=40)])
        memory.add([Document(" ".join(f"t{number}" for number in range(9000)), id="big")])
    before = (folder / FILE_NAME).read_bytes()
    with MemoryIndex.open(folder, encoder=ToyEncoder(32)) as memory:
        memory.add([Document("another text of the fox", id="fox"), *some_documents(20, prefix="late")])
        memory.mask(["d3", "d4"])
        memory.remove(["d5", "d6"])
    return folder, before


def everything(folder: Path) -> tuple:
    with MemoryIndex.open(folder, encoder=ToyEncoder(32)) as memory:
        queries = ["lighthouse ships", "d17", "late7", "t77 t78"]
        found = [answers(memory, queries, mode=mode) for mode in ("beam", "flat", "exact")]
        return found, contents(memory), list(memory.export()), memory.verify().ok


@pytest.fixture(scope="module")
def expected(sound) -> tuple:
    return everything(sound[0])


def flip(data: bytearray, _: bytes, generator: random.Random) -> None:
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def cut(data: bytearray, _: bytes, generator: random.Random) -> None:
    del data[generator.randrange(len(data)) :]


def cut_at_the_end(data: bytearray, _: bytes, generator: random.Random) -> None:
    del data[len(data) - generator.randrange(1, PAGE) :]


def zeros(data: bytearray, _: bytes, generator: random.Random) -> None:
    page = generator.randrange(len(data) // PAGE)
    data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)


def stale(data: bytearray, before: bytes, generator: random.Random) -> None:
    page = generator.randrange(len(before) // PAGE)
    data[page * PAGE : (page + 1) * PAGE] = before[page * PAGE : (page + 1) * PAGE]


def swapped(data: bytearray, _: bytes, generator: random.Random) -> None:
    one, other = (generator.randrange(1, len(data) // PAGE) * PAGE for _ in range(2))
    data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]


CHECKSUM_HOLDS = (zeros, stale, swapped)


@pytest.mark.parametrize("damage", [flip, cut, cut_at_the_end, *CHECKSUM_HOLDS])
def test_a_damaged_file(sound, expected, tmp_path, damage):
    folder, before = sound
    fates: Counter[str] = Counter()
    for seed in range(ROUNDS):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        data = bytearray((copy / FILE_NAME).read_bytes())
        damage(data, before, random.Random(seed))
        (copy / FILE_NAME).write_bytes(data)
        fates[fate(copy, expected)] += 1
        shutil.rmtree(copy)
    print(damage.__name__, dict(fates))
    assert fates["a wrong answer in silence"] == 0
    if damage not in CHECKSUM_HOLDS:
        assert fates["wrong, named by verify"] == 0


def fate(folder: Path, expected: tuple) -> str:
    try:
        found = everything(folder)
    except StoreError:
        return "refused"
    if found == expected:
        return "harmless"
    if found[-1]:
        return "a wrong answer in silence"
    return "right, named by verify" if found[:-1] == expected[:-1] else "wrong, named by verify"


@pytest.fixture(scope="module")
def with_log(sound, tmp_path_factory) -> Path:
    """The memory as a kill leaves it: the last writes are in the log alone."""
    folder = Path(shutil.copytree(sound[0], tmp_path_factory.mktemp("log") / "memory"))
    with MemoryIndex.open(folder, encoder=ToyEncoder(32)) as memory:
        for number in range(5):
            memory.add(some_documents(3, prefix=f"p{number}-"))
        killed = folder.with_name("killed")
        killed.mkdir()
        for name in (FILE_NAME, LOG):
            shutil.copy(folder / name, killed / name)
    return killed


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_log(with_log, tmp_path, damage):
    """What is lost is a tail of the writes; a flip in it is told, but in the last of them."""
    whole, fates = everything(Path(shutil.copytree(with_log, tmp_path / "whole"))), Counter[str]()
    for seed in range(ROUNDS):
        copy = Path(shutil.copytree(with_log, tmp_path / "copy"))
        data = bytearray((copy / LOG).read_bytes())
        damage(data, b"", random.Random(seed))
        (copy / LOG).write_bytes(data)
        with MemoryIndex.open(copy, encoder=ToyEncoder(32)) as memory:
            problems = memory.verify().problems
            ids = {name for _, name in contents(memory)}
        lost = {name for _, name in whole[1]} - ids
        batches = [{f"p{number}-{place}" for place in range(3)} for number in range(5)]
        assert lost in [set().union(*batches[number:]) for number in range(6)]
        assert all(problem.startswith("log: ") for problem in problems)
        if damage is flip and len(lost) > 3:
            assert problems
        fates["harmless" if not lost else "named by verify" if problems else "an end of the log"] += 1
        shutil.rmtree(copy)
    print("log", damage.__name__, dict(fates))
