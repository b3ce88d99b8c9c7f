"""An encoder that never embeds a text twice: runs share one file of vectors, outside the repository."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.protocols import TextEncoder
from mllm_plugin.store.codec import pack_windows, unpack_windows


class CachedEncoder:
    """Wraps a `TextEncoder`; pooled vectors are kept as fp16, windows as the store keeps them."""

    def __init__(self, encoder: TextEncoder, folder: Path) -> None:
        self._encoder = encoder
        self.dim, self.fingerprint = encoder.dim, encoder.fingerprint
        self.max_tokens, self.token_offsets = encoder.max_tokens, encoder.token_offsets
        self.window_spans = getattr(encoder, "window_spans", None)
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(self.fingerprint.encode()).hexdigest()[:16]
        self._rows = sqlite3.connect(folder / f"{name}.db", timeout=300, check_same_thread=False)
        self._rows.execute("PRAGMA journal_mode=wal")
        self._rows.execute(
            "CREATE TABLE IF NOT EXISTS v(k BLOB PRIMARY KEY, pooled BLOB, windows BLOB) WITHOUT ROWID"
        )

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """As the wrapped encoder's."""
        rows = self._fetch(texts, "d", self._encoder.encode_documents)
        pooled = [np.frombuffer(pooled, dtype=np.float16) for pooled, _ in rows]
        windows = [unpack_windows(packed, self.dim) for _, packed in rows]
        return np.array(pooled, dtype=np.float32).reshape(-1, self.dim), windows

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the wrapped encoder's."""
        rows = self._fetch(texts, "q", lambda missing: (self._encoder.encode_queries(missing), None))
        pooled = [np.frombuffer(pooled, dtype=np.float16) for pooled, _ in rows]
        return np.array(pooled, dtype=np.float32).reshape(-1, self.dim)

    def encode_query_windows(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """As the wrapped encoder's."""
        rows = self._fetch(texts, "w", self._encoder.encode_query_windows)
        pooled = [np.frombuffer(pooled, dtype=np.float16) for pooled, _ in rows]
        windows = [unpack_windows(packed, self.dim) for _, packed in rows]
        return np.array(pooled, dtype=np.float32).reshape(-1, self.dim), windows

    def _fetch(self, texts: Sequence[str], kind: str, encode) -> list[tuple[bytes, bytes]]:  # noqa: ANN001
        keys = [hashlib.sha256(f"{kind}:{text}".encode()).digest() for text in texts]
        found = {key: row for key in set(keys) if (row := self._get(key))}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            pooled, windows = encode(list(missing.values()))
            for row, key in enumerate(missing):
                packed = pack_windows(windows[row]) if windows is not None else b""
                found[key] = (pooled[row].astype(np.float16).tobytes(), packed)
            with self._rows:
                self._rows.executemany(
                    "INSERT OR REPLACE INTO v VALUES(?, ?, ?)", [(k, *found[k]) for k in missing]
                )
        return [found[key] for key in keys]

    def _get(self, key: bytes) -> tuple[bytes, bytes] | None:
        return self._rows.execute("SELECT pooled, windows FROM v WHERE k = ?", (key,)).fetchone()
