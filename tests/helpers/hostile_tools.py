"""What a stranger may put into a folder."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mllm_plugin.store.checksums import checksum
from mllm_plugin.store.schema import CHECKSUM_BYTES, PAGE_SIZE


def linked(path: Path, target: Path) -> None:
    """Puts a link in the place of whatever is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)


def journal(name: bytes, pages: int = 7) -> bytes:
    """A rollback journal of a file of so many pages, which ends in the name of a file that SQLite deletes."""
    magic = bytes.fromhex("d9d505f920a163d7")
    numbers = (
        0,
        0,
        pages,
        512,
        PAGE_SIZE,
    )  # records, salt, pages of the database, bytes of a sector and of a page
    header = magic + b"".join(number.to_bytes(4, "big") for number in numbers)
    total = sum(byte if byte < 128 else byte - 256 for byte in name) % (1 << 32)
    end = (1 << 22).to_bytes(4, "big") + name + len(name).to_bytes(4, "big") + total.to_bytes(4, "big")
    return header.ljust(512, b"\0") + end + magic


def sealed(page: bytes) -> bytes:
    """A page of a memory's file with a checksum that holds, as anybody can make it."""
    a, b = checksum(page[: PAGE_SIZE - CHECKSUM_BYTES])
    return page[:-CHECKSUM_BYTES] + a.to_bytes(4, "little") + b.to_bytes(4, "little")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails when what happens inside takes longer, even where it never ends."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
