"""What every part of the facade works with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.config import MemoryConfig
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.ingest import Ingest
from mllm_plugin.options import explain_calls
from mllm_plugin.protocols import TextEncoder
from mllm_plugin.search.engine import Searcher
from mllm_plugin.store.cache import EmbeddingCache
from mllm_plugin.store.database import FILE_NAME, Database
from mllm_plugin.store.documents import missing_chunks
from mllm_plugin.store.hierarchies import HierarchyInUse
from mllm_plugin.store.namespaces import NamespaceRow
from mllm_plugin.store.writer import NamespaceWriter


@explain_calls
class MemoryParts:
    """The open files, the encoder and the settings of one memory.

    Attributes:
        reranker: Scores the best chunks of every search anew, where a search says nothing else.
    """

    def __init_subclass__(cls) -> None:
        explain_calls(cls)

    def __init__(
        self, database: Database, encoder: TextEncoder, config: MemoryConfig, hierarchies: HierarchyInUse
    ) -> None:
        self.encoder, self.config = encoder, config
        self.reranker: Any = None
        self._hierarchies = hierarchies
        self.path, self.dim = database.folder, encoder.dim
        self._database = database
        self._cache = (
            None if database.read_only else EmbeddingCache(database.folder, encoder.fingerprint, encoder.dim)
        )
        self._vector_caches: dict[str, EmbeddingCache] = {}
        used = self._cache if config.embedding_cache else None  # one that is not used is still erased
        self._ingest = Ingest(database, encoder, used, config, self._hierarchies)
        self._searcher = Searcher(config, self._hierarchies, encoder.dim)

    @property
    def hierarchy(self) -> Hierarchy:
        """The level encoders and rankers in use."""
        with self._database.read() as tx:
            return self._hierarchies.of(tx)

    def vector_cache(self, fingerprint: str, dim: int) -> EmbeddingCache | None:
        """A place for what can be made again of stored texts, by what made it; every removal empties it.

        None where nothing may be kept: a memory opened for reading only, or without `embedding_cache`.
        """
        if self._database.read_only or not self.config.embedding_cache:
            return None
        if fingerprint not in self._vector_caches:
            self._vector_caches[fingerprint] = EmbeddingCache(self.path, fingerprint, dim)
        return self._vector_caches[fingerprint]

    def keep_vectors(
        self, cache: EmbeddingCache, entries: Mapping[int, tuple[bytes, NDArray[np.float32], bytes]]
    ) -> None:
        """Puts into a `vector_cache` what was made of chunks, by id, unless one was removed meanwhile."""
        cache.put(entries.values())
        with self._database.read() as tx:
            gone = missing_chunks(tx, entries)
        if gone:
            cache.erase(0.0)

    def close(self) -> None:
        """Closes the files; further calls raise `ClosedError`."""
        self._database.close()
        for cache in self._vector_caches.values():
            cache.close()
        if self._cache is not None:
            self._cache.close()

    def _writer(self, tx: Any, row: NamespaceRow) -> NamespaceWriter:
        fold = self._hierarchies.of(tx).fold
        return NamespaceWriter(tx, row, config=self.config, fold=fold, dim=self.dim)

    def _erase(self, wait: float) -> tuple[bool, str]:
        """Rewrites the cache and empties the log, so that no file holds what was removed; else says why."""
        if self._cache is not None and not self._cache.erase(wait):
            return False, "another process is using the embedding cache; call compact() later"
        if self._database.truncate_log(wait):
            return True, ""
        return False, f"a reader held old pages for more than {wait:g} s; call compact() when it is done"

    def _file_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.path.glob(f"{FILE_NAME}*"))
