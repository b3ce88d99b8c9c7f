"""Keeps the search image of a memory: uses the current generation, and makes another one when that pays.

A generation is made in a thread, and nobody waits for it: searches walk the file meanwhile, and a removal
breaks it off. Of several processes one makes it, and all of them use it.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mllm_plugin.config import LexicalConfig
from mllm_plugin.errors import MLLMError
from mllm_plugin.image.descent import Plan, SpaceWindows, compare, lexical, walk
from mllm_plugin.image.folder import ImageFolder
from mllm_plugin.image.kernels import loading
from mllm_plugin.image.source import Delta, Levels, read_delta, read_levels
from mllm_plugin.image.space import Level, Space, arrange, with_windows
from mllm_plugin.store.codec import Windows
from mllm_plugin.store.database import FILE_NAME
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.snapshot import Snapshot
from mllm_plugin.text.lexical import QueryTerms, TermCounts

FOLDER_NAME = "image"
_RENEWED = 1 / 16  # of the chunks, so many that are not in the arrays make another generation worth it
_TOO_MANY = 1 / 4  # and with so many the arrays are of no use
_FEW = 512
_REST = 2.0  # seconds from one making to the next, at least, and so many times what the last one took
_ROOM = 3  # times the file's size must be free for windows in the image: they are there twice for a while
_SLICE = 0.004  # seconds of work, and as long at rest, so that searches have their turn
_PAYS = 16  # walks over the file, after which a namespace is worth its arrays
_MOST_DELTAS = 64
_MOST_PLACED = 64
_AT_HAND = ("cpu",)  # devices that read what is mapped
_TRIES = 20

Result = TypeVar("Result")


class Images:
    """The search image of one memory; shared by threads.

    Args:
        folder: The memory's.
        snapshots: Opens a snapshot of the memory.
        note: Names the generation that is current in the memory; None where nothing may be written.
        device: Where walks go, if not on the CPU.
        windows_up_to: Chunks of a namespace up to which their windows are in the image.
    """

    def __init__(
        self,
        folder: Path,
        snapshots: Callable[[], AbstractContextManager[Snapshot]],
        note: Callable[[str], None] | None,
        device: Any = None,
        windows_up_to: int = 0,
    ) -> None:
        self._folder = ImageFolder(folder / FOLDER_NAME, read_only=note is None)
        self._snapshots, self._note, self._device = snapshots, note, device
        self._windows_up_to = windows_up_to
        self._placed: OrderedDict[int, tuple[Space, Space]] = OrderedDict()
        self._deltas: OrderedDict[int, tuple[Space, Delta]] = OrderedDict()
        self._wanted: dict[int, tuple[int, int]] = {}  # by namespace: how often, and as of which write
        self._closed, self._earliest, self._took = False, 0.0, 0.0
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._placing = threading.Lock()
        self._reading = threading.Lock()  # held by who has a connection; across a fork by nobody
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._folder.nbytes()

    def walked(
        self, snapshot: Snapshot, row: NamespaceRow, use: Callable[[Space, Delta], Result]
    ) -> Result | None:
        """What `use` makes of a namespace's arrays and what was written since; None where there are none.

        They are then made, if that pays, for later searches.
        """
        name, found = snapshot.image, None
        if name is not None and loading.done:
            found = self._folder.walked(row.namespace_id, name, partial(self._used, snapshot, row, use))
        if found is None:
            self._want(row)
        return found

    def forget(self, wait: float) -> bool:
        """Removes every generation, and breaks off what is being made of older ones.

        Args:
            wait: Seconds for the latter.

        Returns:
            Whether none is left on disk.
        """
        with self._lock:
            self._rest()
            self._stop.set()
            self._deltas.clear()
            self._placed.clear()
        gone = self._folder.forget()
        if self._making.acquire(blocking=False):
            self._making.release()
            return gone
        if not self._making.acquire(timeout=max(wait, _SLICE)):
            return False
        self._making.release()
        return self._folder.forget()

    def settle(self, timeout: float) -> None:
        """Waits until what is being made is made."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def close(self) -> None:
        """Stops what is being made; it leaves no thread behind."""
        with self._lock:
            self._closed = True
            self._stop.set()
            thread = self._thread
        if thread is not None:
            thread.join()

    # -- forks, see `store.forks`

    def before_fork(self) -> None:
        """Breaks off reading, so that no connection is in use for it."""
        self._stop.set()
        self._reading.acquire()

    def after_fork(self, *, child: bool) -> None:
        """Goes on; a child has no thread of its parent."""
        if child:
            self._folder.after_fork()
            self._placed, self._device = OrderedDict(), None  # CUDA works in no forked child
            self._fresh()
        else:
            self._reading.release()

    # -- using it

    def _used(
        self, snapshot: Snapshot, row: NamespaceRow, use: Callable[[Space, Delta], Result], space: Space
    ) -> Result | None:
        delta = self._delta(snapshot, row, space)
        many = max(_FEW, len(space.chunk_ids))
        if delta.size > _FEW and delta.size > _TOO_MANY * many:
            return None
        if delta.size > _FEW and delta.size > _RENEWED * many:
            self._want(row)
        return use(self._there(row.namespace_id, space), delta)

    def _there(self, namespace_id: int, space: Space) -> Space:
        """The arrays on the device, if there is one; they are moved when first used."""
        if self._device is None or self._device.type in _AT_HAND:
            return space
        from mllm_plugin.image.placed import placed

        with self._placing:
            known = self._placed.pop(namespace_id, None)
            if known is None or known[0] is not space:
                known = space, placed(space, self._device)
            self._placed[namespace_id] = known
            if len(self._placed) > _MOST_PLACED:
                self._placed.popitem(last=False)
        return known[1]

    def _delta(self, snapshot: Snapshot, row: NamespaceRow, space: Space) -> Delta:
        with self._lock:
            known, before = self._deltas.get(row.namespace_id, (None, None))
        before = before if known is space else None
        if before is not None and before.version == row.version:
            return before
        delta = read_delta(snapshot, row, space, before)
        with self._lock:
            self._deltas[row.namespace_id] = space, delta
            self._deltas.move_to_end(row.namespace_id)
            if len(self._deltas) > _MOST_DELTAS:
                self._deltas.popitem(last=False)
        return delta

    # -- making another one

    def _want(self, row: NamespaceRow) -> None:
        with self._lock:
            often = self._wanted.get(row.namespace_id, (0, 0))[0] + 1
            self._wanted[row.namespace_id] = often, row.version
            if often < _PAYS or self._closed or time.monotonic() < self._earliest:
                return
            if self._thread is None:
                self._stop = threading.Event()
                arguments = {"args": (self._stop,), "name": "search image", "daemon": True}
                self._thread = threading.Thread(target=self._work, **arguments)
                self._thread.start()

    def _work(self, stop: threading.Event) -> None:
        started = time.monotonic()
        try:
            if loading.once(_use_kernels) and not stop.is_set():
                with suppress(MLLMError, OSError), self._making:
                    self._make(stop)
        finally:
            with self._lock:
                self._took = time.monotonic() - started
                self._rest()
                self._thread = None

    def _rest(self) -> None:
        self._earliest = time.monotonic() + _REST * max(1.0, self._took)

    def _make(self, stop: threading.Event) -> None:
        epoch, pace = self._folder.epoch(), _Pace(stop)

        def go_on() -> bool:
            return pace() and self._folder.epoch() == epoch

        with self._alone() as alone:
            with self._reading:
                found = [] if stop.is_set() else self._read(go_on, alone)
            if found and go_on():
                name = uuid.uuid4().hex
                spaces = ((row.namespace_id, one.space()) for row, one in found if go_on())
                if self._folder.publish(spaces, epoch, name, go_on):
                    self._name(name, stop)
                    self._folder.space(found[0][0].namespace_id, name)
        self._folder.check_all(go_on)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether nobody else makes an image here: another process, or one that may not write."""
        if self._note is None:
            yield False
        else:
            with _locked(self._folder.folder / "lock") as alone:
                yield alone

    def _read(self, go_on: Callable[[], bool], alone: bool) -> list[tuple[NamespaceRow, Levels]]:
        """The namespaces that are to be in the image; none where it is there meanwhile, or broken off."""
        with self._snapshots() as snapshot:
            name, found = snapshot.image, []
            with self._lock:
                wanted = {
                    place: version for place, (often, version) in self._wanted.items() if often >= _PAYS
                }
            rows = snapshot.namespaces()
            missing = [row for row in rows if row.namespace_id in wanted and not self._has(row, name, wanted)]
            if not missing or not alone:
                return []
            also = self._folder.namespaces() | wanted.keys()
            up_to = self._windows_up_to if self._has_room() else 0
            for row in (row for row in rows if row.namespace_id in also):
                windows = row.live_chunks <= up_to
                if levels := read_levels(snapshot, row, go_on, windows=windows, aside=self._folder.folder):
                    found.append((row, levels))
            return found if go_on() else []

    def _has_room(self) -> bool:
        """Whether windows, most of what the file holds, leave room on the disk while they are written."""
        memory = self._folder.folder.parent
        held = sum(path.stat().st_size for path in memory.glob(f"{FILE_NAME}*"))
        return shutil.disk_usage(memory).free > _ROOM * held

    def _has(self, row: NamespaceRow, name: str | None, wanted: Mapping[int, int]) -> bool:
        space = None if name is None else self._folder.space(row.namespace_id, name)
        return space is not None and space.version >= wanted[row.namespace_id]

    def _name(self, name: str, stop: threading.Event) -> None:
        """Names the generation in the memory, as soon as no other writer is at it."""
        assert self._note is not None
        for _ in range(_TRIES):
            with self._reading:
                if stop.is_set():
                    return
                with suppress(MLLMError):
                    self._note(name)
                    return
            stop.wait(_REST / 2)


class _Pace:
    """Says whether to go on; rests after every slice of work as long as that took."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._since = stop, time.monotonic()

    def __call__(self) -> bool:
        took = time.monotonic() - self._since
        if took > _SLICE:
            self._stop.wait(min(took, _SLICE))
            self._since = time.monotonic()
        return not self._stop.is_set()


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether no other process has this lock; where the system knows none, nobody has."""
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with path.open("wb") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a forked child does not have it, as with flock
            alone = True
        except OSError:
            alone = False
        yield alone


def _use_kernels() -> None:
    """Every kernel that a search uses, on arrays of the types that it uses."""
    vectors = np.eye(4, 8, dtype=np.float16)
    ids, live = np.arange(4), np.ones(4, np.int64)
    nodes = Level(ids[:2], 2 * live[:2], live[:2], vectors[:2], 2 * live[:2])
    chunks = Level(ids, live, live, vectors, np.zeros(0, np.int64))
    space = arrange([nodes, chunks], TermCounts.of(["a"] * 4), 1)
    query = np.ones((1, 1, 8), np.float32)
    window = Windows(np.ones((4, 8), np.int8), np.ones(4, np.float32), live)
    SpaceWindows(with_windows(space, window), ids).best(query[0])
    walk(space, query, Plan(1))
    compare(space, query, [ids])
    space.vectors(ids)
    lexical(space, QueryTerms.of("a", {}, 4, 4), ids, LexicalConfig())
