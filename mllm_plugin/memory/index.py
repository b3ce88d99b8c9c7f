"""`MemoryIndex`: the facade over documents, tree and search of one memory on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_plugin.config import MemoryConfig
from mllm_plugin.encoders import DEFAULT_ENCODER, VectorsOnly, as_encoder
from mllm_plugin.errors import EncoderMismatchError, InvalidInputError, InvalidTypeError, NotFoundError
from mllm_plugin.hierarchy import IDENTITY, Hierarchy, LeafRanker
from mllm_plugin.memory.arguments import path_of, seconds
from mllm_plugin.memory.care import Care
from mllm_plugin.memory.twins import AsyncTwins
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.store.database import FILE_NAME, Database
from mllm_plugin.store.settings import load_settings, save_settings


class MemoryIndex(AsyncTwins, Care):
    """A searchable, editable memory in one folder; open it with `MemoryIndex.open`.

    Threads may share one; processes may each open the same folder. Every call that writes is one transaction.
    """

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Any = DEFAULT_ENCODER,
        config: MemoryConfig | None = None,
        hierarchy: str | Hierarchy = IDENTITY,
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
            hierarchy: "identity" for the untrained one, or a `Hierarchy`.
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
        given = None if encoder is None else as_encoder(encoder)
        database = Database(folder, create=create, read_only=read_only, timeout=timeout)
        try:
            settings = load_settings(database) or save_settings(
                database, config or MemoryConfig(), given, _fingerprint(hierarchy)
            )
            _check_encoder(given, settings.fingerprint, folder)
            _check_hierarchy(hierarchy, settings.hierarchy, folder)
            chosen = settings.resolve(config)
            hierarchy = (
                hierarchy
                if isinstance(hierarchy, Hierarchy)
                else Hierarchy(leaf_ranker=LeafRanker(chosen.leaf))
            )
            return cls(database, given or VectorsOnly(settings.dim, settings.fingerprint), chosen, hierarchy)
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> MemoryIndex:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryIndex({str(self.path)!r}, encoder={self.encoder.fingerprint!r})"


def _fingerprint(hierarchy: Any) -> str:
    if isinstance(hierarchy, Hierarchy):
        return hierarchy.fingerprint
    if hierarchy != IDENTITY:
        raise InvalidInputError(f"unknown hierarchy {hierarchy!r}; expected 'identity' or a Hierarchy")
    return IDENTITY


def _check_hierarchy(hierarchy: Any, stored: str, folder: Path) -> None:
    if _fingerprint(hierarchy) != stored:
        raise InvalidInputError(
            f"the nodes of {folder} were folded by hierarchy {stored!r}, got {_fingerprint(hierarchy)!r}; "
            f"open it with the first, or build a new memory"
        )


def _check_encoder(encoder: TextEncoder | None, stored: str, folder: Path) -> None:
    if encoder is not None and encoder.fingerprint != stored:
        raise EncoderMismatchError(
            f"the memory at {folder} was written with encoder {stored!r}, got {encoder.fingerprint!r}. "
            f"Vectors of two encoders do not compare: open it with the first, or build a new memory"
        )
