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

from mllm_plugin.image.generation import DamagedImageError, Generation, write_generation
from mllm_plugin.image.space import Space

Result = TypeVar("Result")
_MANIFEST = "manifest.json"
_EPOCH = "epoch"


class ImageFolder:
    """Generations of one memory; shared by threads, and by processes.

    Args:
        folder: Below the memory's; made when something is published.
        identity: Of the memory and its weights; generations of another one are not used.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self._identity = Path(folder), identity
        self._lock = threading.Lock()
        self._current: Generation | None = None
        self._spaces: dict[int, Space | None] = {}

    def space(self, namespace_id: int) -> Space | None:
        """The arrays of a namespace in the current generation, of whatever version; None if there are none.

        A damaged generation is dropped.
        """
        with self._lock:
            try:
                generation = self._latest()
                if generation is None:
                    return None
                if namespace_id not in self._spaces:
                    self._spaces[namespace_id] = generation.space(namespace_id)
                return self._spaces[namespace_id]
            except (DamagedImageError, OSError):
                self._drop()
                return None

    def walked(self, namespace_id: int, use: Callable[[Space], Result]) -> Result | None:
        """What `use` makes of a namespace's arrays; None if there are none, or they prove damaged on the way.

        Damage is found when a block is first touched. The generation is then dropped, to be made again.
        """
        space = self.space(namespace_id)
        if space is None:
            return None
        try:
            return use(space)
        except DamagedImageError:
            with self._lock:
                self._drop()
            return None

    def check_all(self) -> bool:
        """Compares all of the current generation with its checksums; searches are quicker afterwards.

        Returns:
            Whether it is whole; it is dropped if not.
        """
        with self._lock:
            current = self._current
        if current is None:
            return False
        try:
            current.blocks.check_all()
        except DamagedImageError:
            with self._lock:
                self._drop()
            return False
        return True

    def epoch(self) -> str:
        """Changes with every `forget`; to be read before the snapshot that is to be published."""
        self.folder.mkdir(parents=True, exist_ok=True)  # so that whoever forgets sees that one is on its way
        try:
            return (self.folder / _EPOCH).read_text()
        except FileNotFoundError:
            return ""

    def publish(self, spaces: Iterable[tuple[int, Space]], epoch: str) -> bool:
        """Writes a generation, makes it the current one and removes all others.

        Args:
            spaces: By namespace id, read from one snapshot.
            epoch: As it was before that snapshot was taken.

        Returns:
            Whether it is current; False when something was forgotten meanwhile.
        """
        name = f"{uuid.uuid4().hex}.image"
        written = self.folder / f"{name}.new"
        try:
            write_generation(written, self._identity, spaces)
            os.replace(written, self.folder / name)
        finally:
            written.unlink(missing_ok=True)
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

    def _put(self, name: str, text: str) -> None:
        written = self.folder / f"{uuid.uuid4().hex}.image.new"
        with written.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(written, self.folder / name)

    def _latest(self) -> Generation | None:
        name = self._named()
        if self._current is None or self._current.path.name != name:
            self._current, self._spaces = None, {}
            if name is not None:
                found = Generation.open(self.folder / name)
                self._current = found if found.identity == self._identity else None
        return self._current

    def _named(self) -> str | None:
        try:
            name = json.loads((self.folder / _MANIFEST).read_text())["generation"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedImageError(f"the manifest of {self.folder} is damaged") from error
        return name if isinstance(name, str) and Path(name).name == name else None

    def _drop(self) -> None:
        self._current, self._spaces = None, {}
        (self.folder / _MANIFEST).unlink(missing_ok=True)
        self._sweep(keep=None)

    def _sweep(self, keep: str | None) -> None:
        for path in self.folder.glob("*.image*"):
            if path.name != keep:
                with suppress(OSError):  # where a mapped file cannot be removed, the next sweep does it
                    path.unlink()
