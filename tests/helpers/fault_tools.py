"""Disks that fail on purpose: calls that are counted, refused, killed at, or lost with the power."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from mllm_plugin import Document, MemoryIndex, StoreError
from mllm_plugin.store import creation, database
from mllm_plugin.store.connections import checksum_vfs
from tests.helpers.robustness_tools import KEPT, some_documents
from tests.helpers.toy import ToyEncoder

SOAK = bool(os.environ.get("MLLM_SOAK"))  # `make soak`: the long runs
SECTOR = 4096
_KEPT: list[apsw.VFS] = []  # registered, so that they must live
Hook = Callable[..., None]  # of a call's name, a file's path and the call's arguments, before it is done


class _File(apsw.VFSFile):
    def __init__(self, base: str, name, flags: list[int], hook: Hook) -> None:
        self._hook = hook
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name
        hook("open", self._path, flags[0])
        super().__init__(base, name, flags)

    def xRead(self, amount, offset):
        self._hook("read", self._path)
        return super().xRead(amount, offset)

    def xWrite(self, data, offset):
        self._hook("write", self._path, bytes(data), offset)
        super().xWrite(data, offset)

    def xSync(self, flags):
        self._hook("sync", self._path)
        super().xSync(flags)

    def xTruncate(self, size):
        self._hook("truncate", self._path, size)
        super().xTruncate(size)


class _VFS(apsw.VFS):
    def __init__(self, name: str, hook: Hook) -> None:
        self._hook, self._below = hook, checksum_vfs()
        super().__init__(name, self._below)

    def xOpen(self, name, flags):
        return _File(self._below, name, flags, self._hook)

    def xDelete(self, filename, syncdir):
        self._hook("delete", filename)
        super().xDelete(filename, syncdir)


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Every call of SQLite, and every sync and link of ours, goes through the hook first."""
    with pytest.MonkeyPatch.context() as patch:
        name = f"hooked-{len(_KEPT)}"
        _KEPT.append(_VFS(name, hook))
        for module in (database, creation):
            real = module.sync
            patch.setattr(module, "sync", lambda path, real=real: (hook("sync", str(path)), real(path))[1])
        link = os.link
        patch.setattr(os, "link", lambda a, b: (hook("link", str(b)), link(a, b))[1])
        patch.setattr(database, "checksum_vfs", lambda: name)
        yield


def in_child(work: Callable[[], object], seconds: int = 20) -> str:
    """What `work` returns in a forked process, as text; or its error; killed if it hangs."""
    found, status = forked(work, seconds)
    assert status == 0, f"the child ended with {status}: it hangs"
    return found


def forked(work: Callable[[], object], seconds: int = 20) -> tuple[str, int]:
    """What a forked process reported, and how it ended."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some tests have threads on purpose
        child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        try:
            found = str(work())
        except BaseException as error:
            found = f"{type(error).__name__}: {error}"
        os.write(writing, found.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    return found, os.waitpid(child, 0)[1]


SECRET = Document("a zanzibar of secrets to be forgotten", id="secret")
STEPS: tuple[Callable[[MemoryIndex], object], ...] = (
    lambda memory: memory.add([*KEPT, SECRET]),
    lambda memory: memory.add(some_documents(40)),
    lambda memory: memory.mask(["d3", "fox"]),
    lambda memory: memory.add([Document("another text of the fox", id="fox")]),
    lambda memory: _erased(memory.remove(["secret", "d7"])),
    lambda memory: memory.unmask(["d3"]),
    lambda memory: memory.compact(),
)


def _erased(report) -> None:
    if not report.erased:
        raise StoreError(report.reason)


def state(memory: MemoryIndex) -> dict[str, tuple]:
    return {one.id: (one.text, one.masks) for one in memory.documents()}


def run_steps(folder: Path, done: Callable[[int], object]) -> None:
    """A short life of a memory; `done` hears of every step that was acknowledged."""
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        done(0)
        for number, step in enumerate(STEPS, 1):
            step(memory)
            done(number)


def states(folder: Path) -> list[dict[str, tuple]]:
    """The state after each number of steps."""
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        found = [state(memory)]
        for step in STEPS:
            step(memory)
            found.append(state(memory))
    return found


class Recorder:
    """Remembers what was written and what was synced, to make up what a power failure leaves."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, call: str, path: str | None, *arguments) -> None:
        if call in ("write", "truncate", "sync", "delete") and path is not None and not path.endswith("-shm"):
            self.calls.append((call, Path(path).name, *arguments))

    def note(self, step: int) -> None:
        self.calls.append(("done", "", step))

    def crash(
        self, start: dict[str, bytes], at: int, generator: random.Random
    ) -> tuple[dict[str, bytes], int]:
        """Files as a power failure after `at` calls may leave them, and the last step acknowledged before."""
        disk = {name: bytearray(data) for name, data in start.items()}
        waiting: dict[str, list[tuple]] = defaultdict(list)
        step = 0
        for call, name, *arguments in self.calls[:at]:
            if call == "done":
                step = arguments[0]
            elif call == "sync":
                for one in waiting.pop(name, ()):
                    _apply(disk, name, one)
            else:
                waiting[name].append((call, *arguments))
        for name, calls in waiting.items():
            for call, *arguments in calls:
                for part in _sectors(call, arguments):
                    if generator.random() < 0.5:
                        _apply(disk, name, part)
        return {name: bytes(data) for name, data in disk.items()}, step


def _sectors(call: str, arguments: list) -> Iterator[tuple]:
    if call != "write":
        yield (call, *arguments)
        return
    data, offset = arguments
    at = 0
    while at < len(data):
        size = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
        yield "write", data[at : at + size], offset + at
        at += size


def _apply(disk: dict[str, bytearray], name: str, call: tuple) -> None:
    kind, *arguments = call
    if kind == "delete":
        disk.pop(name, None)
    elif kind == "truncate":
        file = disk.setdefault(name, bytearray())
        del file[arguments[0] :]
        file.extend(bytes(arguments[0] - len(file)))
    else:
        data, offset = arguments
        file = disk.setdefault(name, bytearray())
        file.extend(bytes(max(0, offset + len(data) - len(file))))
        file[offset : offset + len(data)] = data
