"""What an open memory works with: its files, its encoder and its settings."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

import diskcache
import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import MemoryConfig
from mllm_plugin.documents.ingest import Ingest
from mllm_plugin.errors import MLLMError, StoreError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.image.keeper import Images
from mllm_plugin.protocols import Reranker, TextEncoder
from mllm_plugin.search.engine import Searcher
from mllm_plugin.store.cache import EmbeddingCache
from mllm_plugin.store.database import FILE_NAME, Database
from mllm_plugin.store.decoded import HierarchyInUse
from mllm_plugin.store.edit import Edit, editing

_NO_PATIENCE = 0.05  # seconds that what can be tried again waits for a writer
_PATIENCE = 1.0  # seconds that what can be made again waits for a writer


class Handle:
    """The parts of one memory, shared by all calls of the facade.

    Attributes:
        device: Where searches compare embeddings; None for the CPU.
        given: The encoder as `open` got it.
        reranker: Of every search that says nothing else.
    """

    def __init__(
        self,
        database: Database,
        encoder: TextEncoder,
        config: MemoryConfig,
        hierarchies: HierarchyInUse,
        device: Any = None,
    ) -> None:
        self.database, self.encoder, self.config = database, encoder, config
        self.hierarchies, self.device, self.given = hierarchies, device, None
        self.reranker: Reranker | None = None
        self.path, self.dim = database.folder, encoder.dim
        self.cache = None if database.read_only else EmbeddingCache(self.path, encoder.fingerprint, self.dim)
        used = self.cache if config.embedding_cache else None  # one that is not used is still erased
        self.ingest = Ingest(database, encoder, used, config, hierarchies)
        note = None if database.read_only else self._name_image
        windows = config.search.image_windows
        self.images = Images(self.path, database.snapshot, note, device, windows_up_to=windows)
        database.readers_of_its_own.append(self.images)
        self.searcher = Searcher(config, hierarchies, self.images)
        self._vector_caches: dict[str, EmbeddingCache] = {}

    @property
    def hierarchy(self) -> Hierarchy:
        """The level encoders and rankers in use."""
        with self.database.read() as tx:
            return self.hierarchies.of(tx)

    def edit(self, wait: float | None = None) -> AbstractContextManager[Edit]:
        """A write transaction; `wait` is how long to wait for another writer."""
        return editing(self.database, self.config, self.hierarchies, self.dim, wait)

    def erase(self, wait: float) -> tuple[bool, str]:
        """Drops image and cache and empties the log, so that no file holds what was removed; else says why.

        It follows a commit, so nothing raises: what was written is kept, whatever becomes of the old.
        """
        try:
            if not self.images.forget(wait):
                return False, "the search image could not be removed; call compact() later"
            if self.cache is not None and not self.cache.erase(wait):
                return False, "another process is using the embedding cache; call compact() later"
            if self.database.truncate_log(wait):
                return True, ""
        except (MLLMError, OSError, sqlite3.Error, diskcache.Timeout) as error:
            cause = error.__cause__ or error
            return False, f"the log and the cache could not be emptied ({cause}); call compact() later"
        return False, f"a reader held old pages for more than {wait:g} s; call compact() when it is done"

    def file_bytes(self) -> int:
        """Bytes of the file and its log."""
        return sum(path.stat().st_size for path in self.path.glob(f"{FILE_NAME}*"))

    def close(self) -> None:
        """Closes all files, also where one of them fails."""
        self.images.close()
        with ExitStack() as files:
            for cache in (self.cache, *self._vector_caches.values()):
                if cache is not None:
                    files.callback(_close, cache)
            files.callback(self.database.close)

    def _name_image(self, name: str) -> None:
        with self.edit(wait=_NO_PATIENCE) as edit:
            edit.note_image(name)

    # -- vectors that can be made again

    def vector_cache(self, fingerprint: str, dim: int) -> EmbeddingCache | None:
        """A place for them by what made them; None where nothing may be kept."""
        if self.database.read_only or not self.config.embedding_cache:
            return None
        if fingerprint not in self._vector_caches:
            self._vector_caches[fingerprint] = EmbeddingCache(self.path, fingerprint, dim)
        return self._vector_caches[fingerprint]

    def keep_vectors(
        self, cache: EmbeddingCache, entries: Mapping[int, tuple[bytes, NDArray[np.float32], bytes]]
    ) -> None:
        """Keeps what was made of chunks, by id, but not of those that were removed meanwhile.

        No removal comes in between, since writers take turns; one that follows empties the cache.
        """
        with suppress(StoreError), self.edit(wait=_PATIENCE) as edit:
            gone = set(edit.missing_chunks(entries))
            cache.put(entry for chunk, entry in entries.items() if chunk not in gone)


def _close(cache: EmbeddingCache) -> None:
    """Closes a cache; what goes wrong there costs nothing but time."""
    with suppress(OSError, sqlite3.Error, diskcache.Timeout):
        cache.close()
