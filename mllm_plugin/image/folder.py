"""The folder of generations: one manifest says which is current; it changes by one atomic rename."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from mllm_plugin.image.generation import BrokenOffError, DamagedImageError, Generation, write_generation
from mllm_plugin.image.space import Space

Result = TypeVar("Result")
_MANIFEST = "manifest.json"
_EPOCH = "epoch"
_LARGE = 1 << 26  # bytes
_FREED_AFTER = 1.0  # seconds


class ImageFolder:
    """Generations of one memory; shared by threads, and by processes.

    Args:
        folder: Below the memory's; made when something is published.
        read_only: Nothing there is changed; what is damaged is left aside.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder, self._read_only = Path(folder), read_only
        self._lock = threading.Lock()
        self._current: Generation | None = None
        self._spaces: dict[int, Space | None] = {}
        self._manifest: tuple[tuple[int, int], str | None] | None = None
        self._aside: str | None = None

    def space(self, namespace_id: int, identity: str) -> Space | None:
        """The arrays of a namespace in the current generation, of whatever version; None if there are none.

        A damaged generation is dropped.

        Args:
            namespace_id: Which.
            identity: That the generation was published under; another one is not used.
        """
        with self._lock:
            try:
                generation = self._latest()
                if generation is None or generation.identity != identity:
                    return None
                if namespace_id not in self._spaces:
                    self._spaces[namespace_id] = generation.space(namespace_id)
                return self._spaces[namespace_id]
            except (DamagedImageError, OSError):
                self._drop()
                return None

    def namespaces(self) -> frozenset[int]:
        """Whose arrays the generation last looked into has."""
        current = self._current
        return frozenset() if current is None else frozenset(current.directory)

    def walked(
        self, namespace_id: int, identity: str, use: Callable[[Space], Result | None]
    ) -> Result | None:
        """What `use` makes of a namespace's arrays; None if there are none, or they prove damaged on the way.

        Damage is found when a block is first touched. The generation is then dropped, to be made again.
        """
        space = self.space(namespace_id, identity)
        if space is None:
            return None
        try:
            return use(space)
        except DamagedImageError:
            with self._lock:
                self._drop()
            return None

    def check_all(self, go_on: Callable[[], bool] = lambda: True) -> bool:
        """Compares all of the current generation with its checksums; searches are quicker afterwards.

        Args:
            go_on: Asked on the way; it is broken off at the first no.

        Returns:
            Whether it is whole; it is dropped if not.
        """
        with self._lock:
            current = self._current
        if current is None:
            return False
        try:
            current.blocks.check_all(go_on)
        except DamagedImageError:
            with self._lock:
                self._drop()
            return False
        except OSError:  # it was removed meanwhile
            return False
        return current.blocks.complete

    def nbytes(self) -> int:
        """Bytes of all generations on disk."""
        total = 0
        for path in self.folder.glob("*.image*"):
            with suppress(FileNotFoundError):  # swept meanwhile
                total += path.stat().st_size
        return total

    def epoch(self) -> str:
        """Changes with every `forget`; to be read before the snapshot that is to be published."""
        if not self._read_only:
            self.folder.mkdir(parents=True, exist_ok=True)  # so that whoever forgets sees one on its way
        try:
            return (self.folder / _EPOCH).read_text()
        except FileNotFoundError:
            return ""

    def publish(
        self,
        spaces: Iterable[tuple[int, Space]],
        epoch: str,
        identity: str,
        go_on: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Writes a generation, makes it the current one and removes all others.

        Args:
            spaces: By namespace id, read from one snapshot.
            epoch: As it was before that snapshot was taken.
            identity: A name that no other generation has.
            go_on: Asked on the way.

        Returns:
            Whether it is current; False when something was forgotten meanwhile, or at the first no.
        """
        name = f"{uuid.uuid4().hex}.image"
        written = self.folder / f"{name}.new"
        try:
            write_generation(written, identity, spaces, go_on)
            os.replace(written, self.folder / name)
        except BrokenOffError:
            return False
        finally:
            with suppress(FileNotFoundError):  # it has its name
                _remove(written)
        self._put(_MANIFEST, json.dumps({"generation": name}))
        if self.epoch() != epoch:  # read after the rename: whoever forgets later sweeps this one too
            with self._lock:
                self._drop()
            return False
        self._sweep(keep=name)
        return True

    def forget(self) -> bool:
        """Removes every generation, so that none holds what was removed from the memory.

        Who has one mapped keeps reading it until it looks for the current one again, at its next search.

        Returns:
            Whether none is left on disk; False where the system does not remove a file that is mapped.
        """
        if self.folder.is_dir():
            self._put(_EPOCH, uuid.uuid4().hex)
            with self._lock:
                self._drop()
        return not any(self.folder.glob("*.image"))

    def after_fork(self) -> None:
        """In a child: nobody holds the lock any more."""
        self._lock = threading.Lock()

    def _put(self, name: str, text: str) -> None:
        written = self.folder / f"{uuid.uuid4().hex}.image.new"
        with written.open("w") as stream:
            stream.write(text)  # what a power failure leaves of it is made again
        os.replace(written, self.folder / name)

    def _latest(self) -> Generation | None:
        name = self._named()
        if self._current is None or self._current.path.name != name:
            self._current, self._spaces = None, {}
            if name is not None and name != self._aside:
                self._current = Generation.open(self.folder / name)
        return self._current

    def _named(self) -> str | None:
        """The current generation; the manifest is read again only when it is another file."""
        path = self.folder / _MANIFEST
        try:
            state = path.stat()
            if self._manifest is None or self._manifest[0] != (state.st_ino, state.st_mtime_ns):
                name = json.loads(path.read_text())["generation"]
                name = name if isinstance(name, str) and Path(name).name == name else None
                self._manifest = (state.st_ino, state.st_mtime_ns), name
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedImageError(f"the manifest of {self.folder} is damaged") from error
        return self._manifest[1]

    def _drop(self) -> None:
        if self._read_only:
            self._aside = None if self._manifest is None else self._manifest[1]
        self._current, self._spaces, self._manifest = None, {}, None
        if not self._read_only:
            with suppress(OSError):
                (self.folder / _MANIFEST).unlink(missing_ok=True)
            self._sweep(keep=None)

    def _sweep(self, keep: str | None) -> None:
        for path in self.folder.glob("*.image*"):
            if path.name != keep:
                with suppress(OSError):  # where a mapped file cannot be removed, the next sweep does it
                    _remove(path)


def _remove(path: Path) -> None:
    """Removes a file; the bytes of a large one are freed a little later, in a thread.

    That takes a second for 5 GB, in which no write of the caller's would reach the disk.
    """
    if os.name != "posix" or path.stat().st_size < _LARGE:
        path.unlink()
        return
    last = os.open(path, os.O_RDONLY)
    try:
        path.unlink()
    finally:
        later = threading.Timer(_FREED_AFTER, os.close, (last,))
        later.daemon = True
        try:
            later.start()
        except RuntimeError:  # no thread is to be had, as when the interpreter ends
            os.close(last)
