"""`MemoryIndex`: the facade over documents, tree and search of one memory on disk."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from mllm_plugin.config import MemoryConfig
from mllm_plugin.encoders import DEFAULT_ENCODER, VectorsOnly, as_encoder
from mllm_plugin.errors import InvalidInputError, InvalidTypeError, NotFoundError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.memory.arguments import path_of, reranker_of, seconds
from mllm_plugin.memory.care import Care
from mllm_plugin.memory.choice import DEFAULT, choose_hierarchy, reopening
from mllm_plugin.memory.recognition import recognised
from mllm_plugin.memory.twins import AsyncTwins
from mllm_plugin.store.database import FILE_NAME, Database
from mllm_plugin.store.hierarchies import HierarchyInUse
from mllm_plugin.store.settings import Settings, load_settings, save_settings


class MemoryIndex(AsyncTwins, Care):
    """A searchable, editable memory in one folder; open it with `MemoryIndex.open`.

    Threads may share one; processes may each open the same folder. Every call that writes is one transaction.
    Pickled or copied it becomes a handle of its own, opened again from the same folder.
    """

    _given: Any = None  # the encoder as `open` got it

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Any = DEFAULT_ENCODER,
        config: MemoryConfig | None = None,
        hierarchy: str | Path | Hierarchy = DEFAULT,
        reranker: Any = None,
        timeout: float = 30.0,
        create: bool = True,
        read_only: bool = False,
    ) -> MemoryIndex:
        """Creates a memory, or opens the one that is there.

        Args:
            path: Its folder.
            encoder: A model name or path, a `TextEncoder`, a LangChain `Embeddings`, a LlamaIndex
                `BaseEmbedding`; None opens an existing memory for everything that needs no text encoding.
            config: Settings; chunking, tree and level 0 are fixed by the first opening, search may differ.
            hierarchy: For a new memory "default", the trained weights that come with the package for this
                encoder (identity when there are none), "identity" for untrained ones, a folder of weights
                that `mllm train` made, or a `Hierarchy`. A memory keeps a copy; at a later opening "default"
                means what it has, and `install` changes it.
            reranker: Scores the best chunks of every search anew, by their text: a `Reranker`, a
                `CrossEncoder` of sentence-transformers, a `BaseCrossEncoder` of LangChain, or a function of
                (query, text) pairs.
            timeout: Seconds to wait for another writer.
            create: Make the memory when there is none.
            read_only: Never write; works without write permission.

        Raises:
            EncoderMismatchError: The memory was written with another encoder.
            NotFoundError: There is no memory and `create` is False.
            InvalidInputError: `config` contradicts the stored one, or a new memory has no encoder.
            StoreError: The files cannot be used; see `mllm_plugin.errors`.
        """
        folder = path_of(path)
        timeout = seconds("timeout", timeout)
        if config is not None and not isinstance(config, MemoryConfig):
            raise InvalidTypeError(f"config must be a MemoryConfig, got {type(config).__name__}")
        if encoder is None and not (folder / FILE_NAME).exists():
            raise (InvalidInputError if create else NotFoundError)(
                f"no memory at {folder}; a new one needs an encoder"
            )
        given, ranks_last = None if encoder is None else as_encoder(encoder), reranker_of(reranker)
        database = Database(folder, create=create, read_only=read_only, timeout=timeout)
        try:
            settings, is_new = load_settings(database), False
            if settings is None:
                leaf = (config or MemoryConfig()).leaf
                first = None if given is None else choose_hierarchy(hierarchy, given.fingerprint, leaf)
                settings, is_new = save_settings(database, config or MemoryConfig(), given, first)
            if given is not None and not is_new:
                given = recognised(given, settings, database)
            chosen = settings.resolve(config)
            used = _hierarchies(hierarchy, settings, chosen, folder)
            memory = cls(database, given or VectorsOnly(settings.dim, settings.fingerprint), chosen, used)
            memory._given, memory.reranker = _absolute(encoder), ranks_last
            return memory
        except BaseException:
            database.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        options = self._options() | {"encoder": self._given}
        self._check_pickles(options["encoder"], options["hierarchy"], options["reranker"])
        return _reopened, (type(self), self._database.place.parent, options)

    def _check_pickles(self, *parts: Any) -> None:
        try:
            pickle.dumps(parts)
        except Exception as error:
            raise InvalidTypeError(
                f"the memory at {self.path} cannot be pickled, its encoder, hierarchy or reranker "
                f"cannot: {error}. Pickle its path, and open it where it is needed with "
                f"MemoryIndex.open(path, encoder=…); or open it here with a model's name"
            ) from error

    def __copy__(self) -> MemoryIndex:
        return _reopened(type(self), self._database.place.parent, self._options())

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryIndex:
        return self.__copy__()

    def _options(self) -> dict[str, Any]:
        """What opens the memory again as it is."""
        return {
            "encoder": None if self._given is None else self.encoder,
            "config": self.config,
            "hierarchy": reopening(self.hierarchy),
            "reranker": self.reranker,
            "timeout": self._database.timeout,
            "read_only": self._database.read_only,
        }

    def __enter__(self) -> MemoryIndex:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryIndex({str(self.path)!r}, encoder={self.encoder.fingerprint!r})"


def _absolute(encoder: Any) -> Any:
    """A folder's full path, for a process that works in another one; anything else as it is."""
    is_folder = isinstance(encoder, str | Path) and os.path.isdir(encoder)
    return os.path.abspath(encoder) if is_folder else encoder


def _reopened(cls: type[MemoryIndex], path: Path, options: dict[str, Any]) -> MemoryIndex:
    return cls.open(path, create=False, **options)


def _hierarchies(
    given: str | Path | Hierarchy, settings: Settings, config: MemoryConfig, folder: Path
) -> HierarchyInUse:
    """Follows the stored hierarchy; one that the caller names must be the same."""
    followed = HierarchyInUse(config.leaf)
    if given == DEFAULT:
        return followed
    chosen = choose_hierarchy(given, settings.fingerprint, config.leaf)
    if chosen.fingerprint != settings.hierarchy:
        raise InvalidInputError(
            f"the nodes of {folder} were folded by hierarchy {settings.hierarchy!r}, got "
            f"{chosen.fingerprint!r}; open the memory without `hierarchy` and call install(…) to change it"
        )
    followed.announce(chosen)
    return followed
