"""SQLite's and Python's errors in our words, and those that pass."""

from __future__ import annotations

import errno
from pathlib import Path

import apsw
import pytest

from mllm_plugin import DamagedStoreError, DiskFullError, ReadOnlyStoreError, StoreBusyError, StoreError
from mllm_plugin.store.connections import consistent, decoding, enough_handles, is_damage, making, translated
from mllm_plugin.store.times import Times

PATH = Path("memory.db")


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (apsw.BusyError, StoreBusyError),
        (apsw.LockedError, StoreBusyError),
        (apsw.FullError, DiskFullError),
        (apsw.ReadOnlyError, ReadOnlyStoreError),
        (apsw.CorruptError, DamagedStoreError),
        (apsw.ConstraintError, DamagedStoreError),
        (apsw.CantOpenError, ReadOnlyStoreError),
        (apsw.SQLError, StoreError),
    ],
)
def test_every_error_of_sqlite_has_one_of_ours(error, ours):
    with pytest.raises(StoreError, match=r"memory\.db") as raised, translated(PATH, 2.0):
        raise error("no")
    assert type(raised.value) is ours
    assert isinstance(raised.value.__cause__, error)


def test_damage_is_a_bad_page_too():
    page = apsw.IOError("bad")
    page.extendedresult = apsw.SQLITE_IOERR_DATA
    assert is_damage(page)
    assert is_damage(apsw.NotADBError())
    assert not is_damage(apsw.IOError("a cable"))


def test_errors_of_the_system_are_told_apart():
    with pytest.raises(StoreError, match="no file handles left"), enough_handles(PATH):
        raise OSError(errno.EMFILE, "many")
    with pytest.raises(FileNotFoundError), enough_handles(PATH):
        raise FileNotFoundError
    with pytest.raises(DiskFullError), making(PATH, 0.0):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(ReadOnlyStoreError), making(PATH, 0.0):
        raise PermissionError


def test_only_our_own_surprises_are_damage():
    with pytest.raises(KeyError), consistent(PATH):
        raise KeyError("of whoever plugged something in")
    with pytest.raises(DamagedStoreError, match="does not fit together"), consistent(PATH):
        Times("1").fields()  # our code on what no sound file holds
    with pytest.raises(DamagedStoreError, match="node 3 is missing"), decoding("node 3"):
        raise KeyError("3")
    with pytest.raises(StoreBusyError), decoding("node 3"):
        raise StoreBusyError("passed on")
