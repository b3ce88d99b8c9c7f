"""Kills, power failures, refused calls: what was acknowledged is there, and the next attempt works.

`make soak` runs them over every call and thousands of states.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path

import apsw
import pytest

from mllm_plugin import DamagedStoreError, DiskFullError, MemoryIndex, MLLMError
from mllm_plugin.store import filesystem
from mllm_plugin.store.database import FILE_NAME
from tests.helpers.fault_tools import (
    SECRET,
    SOAK,
    STEPS,
    Life,
    Recorder,
    any_life,
    forked,
    hooked,
    run_steps,
    state,
    states,
)
from tests.helpers.file_tools import own_database
from tests.helpers.robustness_tools import KEPT, files_holding, some_documents
from tests.helpers.toy import ToyEncoder

CHANGES = ("write", "sync", "truncate", "delete", "link")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[dict[str, tuple]]:
    """What the memory holds after each number of steps."""
    return states(tmp_path_factory.mktemp("expected") / "memory")


@pytest.fixture(scope="module")
def changes(tmp_path_factory) -> int:
    """How many calls change the disk in all steps."""
    return count_changes(tmp_path_factory.mktemp("counted") / "memory", STEPS)


def places(count: int, short: int) -> list[int]:
    """Every place in a long run, some that are spread evenly in a short one."""
    return list(range(count)) if SOAK else [count * place // short for place in range(short)]


def beside_the_log(memory: MemoryIndex) -> list[str]:
    """Problems but for a write that nobody was told of, which lies in the log behind a lost frame."""
    return [one for one in memory.verify().problems if not one.startswith("log: 1 transactions lie")]


def check(folder: Path, expected: list[dict[str, tuple]], step: int) -> None:
    """The memory is sound and holds what `step` steps made of it, or one more."""
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        assert beside_the_log(memory) == []
        assert state(memory) in expected[step : step + 2]
        memory.add(KEPT)
        if not memory.verify().ok:  # of what was not acknowledged, a part still lies behind the new end
            assert beside_the_log(memory) == []
            assert memory.compact().erased
            assert memory.verify().ok
    leftovers = [path.name for path in folder.iterdir() if path.name.endswith(".draft")]
    assert leftovers == []


def killed_at(folder: Path, place: int, life: Life) -> int:
    """Lives until the call that changes the disk after so many others; the steps acknowledged by then."""
    acknowledged = folder.with_suffix(".txt")
    acknowledged.write_text("0")
    left = [place]

    def kill(call: str, *_) -> None:
        if call in CHANGES:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    def live() -> None:
        with hooked(kill):
            run_steps(folder, lambda step: acknowledged.write_text(str(step)), life)

    assert forked(live, seconds=100)[1] == signal.SIGKILL, f"no kill at {place}"
    return int(acknowledged.read_text())


def count_changes(folder: Path, life: Life) -> int:
    seen = []
    with hooked(lambda call, *_: seen.append(call)):
        run_steps(folder, lambda _: None, life)
    return sum(call in CHANGES for call in seen)


def test_a_kill_at_every_change(tmp_path, expected, changes):
    for place in places(changes, 12):
        folder = tmp_path / str(place)
        check(folder, expected, killed_at(folder, place, STEPS))
        shutil.rmtree(folder)
    print(f"{len(places(changes, 12))} kills")


@pytest.mark.parametrize("seed", range(24 if SOAK else 1))
def test_a_kill_at_any_change_of_any_life(tmp_path, seed):
    life = any_life(seed)
    expected, changes = states(tmp_path / "expected", life), count_changes(tmp_path / "counted", life)
    chosen = random.Random(seed).sample(range(changes), 30 if SOAK else 6)
    for place in chosen:
        folder = tmp_path / str(place)
        check(folder, expected, killed_at(folder, place, life))
        shutil.rmtree(folder)
    print(f"{len(chosen)} kills")


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError], ids=["full", "input-output"])
def test_an_error_at_every_call(tmp_path, expected, error):
    for place in places(500, 10):
        folder, done, left = tmp_path / str(place), [0], [place]

        def refuse(call: str, *_, left=left) -> None:
            left[0] -= 1
            if left[0] < 0 and call not in ("open", "link"):
                left[0] = 1 << 30
                raise error("refused on purpose")

        try:
            with hooked(refuse):
                run_steps(folder, lambda step, done=done: done.append(step))
        except MLLMError:
            pass
        check(folder, expected, done[-1])
        shutil.rmtree(folder)
    print(f"{len(places(500, 10))} errors")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[dict[str, bytes], Recorder]:
    """The file of a new memory and all calls of its short life."""
    folder, recorder = tmp_path_factory.mktemp("recorded") / "memory", Recorder()
    MemoryIndex.open(folder, encoder=ToyEncoder()).close()
    start = {FILE_NAME: (folder / FILE_NAME).read_bytes()}
    with hooked(recorder):
        run_steps(folder, recorder.note)
    return start, recorder


FORGOTTEN = {"text": SECRET.text.encode(), "word": b"zanzibar"}


def erased_at(expected: list[dict[str, tuple]]) -> int:
    """The step that removes the secret."""
    return next(number for number, step in enumerate(expected) if number > 1 and "secret" not in step)


@pytest.mark.parametrize("part", range(20 if SOAK else 2))
def test_a_power_failure_at_any_time(tmp_path, expected, recorded, part):
    start, recorder = recorded
    erased = erased_at(expected)
    for seed in range(500 if SOAK else 20):
        generator = random.Random(seed * 1000 + part)
        files, step = recorder.crash(start, generator.randrange(len(recorder.calls) + 1), generator)
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if step >= erased:
            assert files_holding(folder, FORGOTTEN) == [], f"seed {seed}: erased, but still on the disk"
        check(folder, expected, step)
        shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_reported_as_erased_outlasts_a_power_failure_right_then(tmp_path, seed):
    """The log is emptied, but is its length on the disk?"""
    folder, recorder = tmp_path / "memory", Recorder()
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
    start = {FILE_NAME: (folder / FILE_NAME).read_bytes()}
    with hooked(recorder), MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.add([SECRET])
        assert memory.remove([SECRET.id]).erased
        recorder.note(0)
    at = recorder.calls.index(("done", "", 0))
    files, _ = recorder.crash(start, at, random.Random(seed))
    (tmp_path / "crashed").mkdir()
    for name, data in files.items():
        (tmp_path / "crashed" / name).write_bytes(data)
    assert files_holding(tmp_path / "crashed", FORGOTTEN) == []
    with MemoryIndex.open(tmp_path / "crashed", encoder=ToyEncoder()) as memory:
        assert memory.verify().problems == ()
        assert memory.stats().documents == len(KEPT)


# -- making and copying files
# -----------------------------------------------------------------------------------------


def test_a_memory_made_on_a_nearly_full_disk_is_whole_or_not_there(small_disk):
    """Whatever space is left: an error that says so, and the next attempt works."""
    filler, made = small_disk / "filler", 0
    for pages in places(250, 16):
        filler.write_bytes(bytes((256 - pages) * 4096))
        folder = small_disk / f"memory{pages}"
        try:
            MemoryIndex.open(folder, encoder=ToyEncoder()).close()
            made += 1
        except DiskFullError:
            assert not (folder / FILE_NAME).exists() or (folder / FILE_NAME).stat().st_size % 16384 == 0
        filler.unlink()
        with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
            memory.add(KEPT)
            assert memory.verify().ok
        assert [path.name for path in folder.iterdir() if path.name.endswith(".draft")] == []
        shutil.rmtree(folder)
    assert made, "there was never enough space"


def test_a_backup_that_is_killed_leaves_no_file_and_the_next_replaces_it(tmp_path):
    folder, target = tmp_path / "memory", tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.add([*KEPT, *some_documents(200)])

    def counted(hook) -> None:
        with hooked(hook), MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
            memory.backup(target)

    calls: list[str] = []
    counted(lambda call, *_: calls.append(call))
    target.unlink()
    last = max(place for place, call in enumerate(calls) if call == "link")
    for place in places(last, 10):

        def kill(call: str, *_, left=[place]) -> None:  # noqa: B006 - counts down over the calls
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

        assert forked(lambda kill=kill: counted(kill))[1] == 9 << 8
        assert not target.exists()
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.backup(target)
    assert [path.name for path in target.parent.iterdir()] == ["copy.db"]
    target.rename(tmp_path / "copies" / FILE_NAME)
    with MemoryIndex.open(tmp_path / "copies", encoder=ToyEncoder()) as copy:
        assert copy.verify().ok
        assert copy.stats().documents == 203


def test_a_backup_of_a_damaged_memory_says_which_file_is_damaged(tmp_path):
    folder = tmp_path / "memory"
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory.add(some_documents(100))
    data = bytearray((folder / FILE_NAME).read_bytes())
    data[len(data) - 5000] ^= 1
    (folder / FILE_NAME).write_bytes(data)
    with (
        MemoryIndex.open(folder, encoder=ToyEncoder()) as memory,
        pytest.raises(DamagedStoreError, match=rf"^{folder / FILE_NAME} is damaged"),
    ):
        memory.backup(tmp_path / "copy.db")
    assert [path.name for path in tmp_path.iterdir()] == ["memory"]


def test_a_backup_to_a_file_system_without_links_and_locks(tmp_path, monkeypatch):
    """As on a memory stick, or on a network."""

    def refuse(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(filesystem.fcntl, "flock", refuse)
        (tmp_path / ".copy.db.used.draft").mkdir()
        memory.backup(tmp_path / "copy.db")
    assert {path.name for path in tmp_path.iterdir()} == {"memory", "copy.db", ".copy.db.used.draft"}


def test_no_text_leaves_the_folder_through_temporary_files(tmp_path):
    opened: list[tuple[str | None, int]] = []

    def watch(call: str, path: str | None, *arguments) -> None:
        if call == "open":
            opened.append((path, arguments[0]))

    with hooked(watch), MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(some_documents(1500, words=60))
        memory.mask(filter={"even": True})
        memory.remove(filter={"even": False})
        assert memory.compact(regroup=True).erased
        assert memory.verify().ok
    assert len(opened) > 2
    inside = str(tmp_path / "memory")
    assert [path for path, _ in opened if path is None or not path.startswith(inside)] == []


# -- damage in the log
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def with_log(tmp_path):
    """A memory whose last writes are in the log alone, as a kill leaves it."""
    folder, killed = tmp_path / "memory", tmp_path / "killed"
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        for number in range(6):
            memory.add(some_documents(5, prefix=f"p{number}-"))
        killed.mkdir()
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            shutil.copy(folder / name, killed / name)
    return killed


def test_an_undamaged_log_has_no_problem(with_log):
    with MemoryIndex.open(with_log, encoder=ToyEncoder()) as memory:
        assert memory.verify().problems == ()
        assert memory.stats().documents == 30


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("kind", ["flip", "sector"])
def test_verify_tells_of_writes_after_damage_in_the_log(with_log, share, kind):
    log = with_log / f"{FILE_NAME}-wal"
    data = bytearray(log.read_bytes())
    place = int(len(data) * share)
    if kind == "flip":
        data[place] ^= 4
    else:
        data[place : place + 4096] = b"\xff" * 4096
    log.write_bytes(data)
    with MemoryIndex.open(with_log, encoder=ToyEncoder()) as memory:
        problems = memory.verify().problems
        assert memory.stats().documents < 30
    assert len(problems) == 1
    assert "transactions lie after a frame that does not check out" in problems[0]
    with MemoryIndex.open(with_log, encoder=ToyEncoder()) as memory:
        assert memory.verify().ok, "closing emptied the log"


def write_much_and_fail(memory: MemoryIndex) -> None:
    with own_database(memory).write() as tx:
        tx.pragma("cache_size", 2)
        tx.execute(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50) "
            "INSERT INTO meta SELECT 'x' || x, zeroblob(100000) FROM n"
        )
        raise KeyError


def test_what_a_rolled_back_write_left_in_the_log_is_no_damage(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        memory.add(KEPT)
        with pytest.raises(KeyError):
            write_much_and_fail(memory)
        memory.mask(["fox"])
        assert memory.verify().problems == ()


def test_the_steps_do_what_they_are_meant_to(expected):
    assert len(expected) == len(STEPS) + 1
    assert "secret" in expected[1]
    assert "secret" not in expected[-1]
