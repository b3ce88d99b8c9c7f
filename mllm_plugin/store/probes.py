"""What the memory's encoder made of a few texts, as the file has it."""

from __future__ import annotations

import apsw
import numpy as np

from mllm_plugin.encoders.identity import Sample
from mllm_plugin.store.nodes import load_children

_KEY, _CHUNKS = "probes", 3


def save_probes(tx: apsw.Connection, sample: Sample) -> None:
    """Keeps what a new memory's encoder makes of the probe texts."""
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, sample.to_json()))


def load_probes(tx: apsw.Connection, dim: int) -> Sample | None:
    """What was kept; in a memory without it some of its own chunks, None where the encoder made none."""
    kept = tx.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).get
    return _of_chunks(tx, dim) if kept is None else Sample.from_json(kept, dim)


def _of_chunks(tx: apsw.Connection, dim: int) -> Sample | None:
    rows = tx.execute(
        'SELECT c.chunk_id, c.node_id, c.start, c."end", d.text FROM chunks c '
        "JOIN documents d USING (document_rowid) WHERE c.text_hash IS NOT NULL LIMIT ?",
        (_CHUNKS,),
    )
    texts, vectors = [], []
    for chunk_id, node_id, start, end, text in list(rows):
        block = load_children(tx, node_id, dim)
        texts.append(text.decode("utf-8")[start:end])
        vectors.append(block.vectors[int(np.searchsorted(block.ids, chunk_id)), 0])
    none = np.zeros((0, dim), dtype=np.float32)
    return Sample(tuple(texts), np.asarray(vectors, dtype=np.float32), none) if texts else None
