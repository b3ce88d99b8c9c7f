"""What the memory's encoder made of a few texts, as the file has it."""

from __future__ import annotations

import apsw
import numpy as np

from mllm_plugin.encoders.identity import Sample
from mllm_plugin.store.snapshot import Snapshot

_KEY, _CHUNKS = "probes", 3


def save_probes(tx: apsw.Connection, sample: Sample) -> None:
    """Keeps what a new memory's encoder makes of the probe texts."""
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, sample.to_json()))


def load_probes(tx: apsw.Connection, dim: int) -> Sample | None:
    """What was kept; in a memory without it some of its own chunks, None where the encoder made none."""
    kept = tx.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).get
    return _of_chunks(tx, dim) if kept is None else Sample.from_json(kept, dim)


def _of_chunks(tx: apsw.Connection, dim: int) -> Sample | None:
    found = Snapshot(tx, dim).some_chunks(_CHUNKS)
    if not found:
        return None
    texts, vectors = zip(*found, strict=True)
    none = np.zeros((0, dim), dtype=np.float32)
    return Sample(texts, np.asarray(vectors, dtype=np.float32), none)
