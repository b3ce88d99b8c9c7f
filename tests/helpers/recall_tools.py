"""What the tests of searching and recall share."""

from __future__ import annotations

import numpy as np

from mllm_plugin import (
    Document,
    MemoryConfig,
    MemoryEmbedding,
    MemoryIndex,
    Recall,
    TreeConfig,
)
from mllm_plugin.hierarchy import AttentionLevelEncoder, Hierarchy, MappedRanker
from tests.helpers.file_tools import rows

CONFIG = MemoryConfig(tree=TreeConfig(fan_out=6, cap_factor=2))
MODES = ["beam", "flat", "exact"]
DIM = 16


def many_documents(count: int = 500, seed: int = 0, first: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{n}" for n in rng.integers(120, size=12)) for _ in range(count)]
    return [
        Document(
            f"{text} id{number}",
            id=f"d{number}",
            metadata={"n": number},
            labels=("odd",) if number % 2 else (),
        )
        for number, text in enumerate(texts, first)
    ]


def random_weights() -> Hierarchy:
    """Random weights as if they had been trained; the slack drops nodes."""
    rng = np.random.default_rng(0)
    shapes = {"seeds": (2, DIM), "spread": (2,), "query": (2, DIM), "gates": (2, DIM)}
    shapes |= {"down": (4, DIM), "up": (DIM, 4)}
    fold = {f"0.{name}": (0.3 * rng.normal(size=shape)).astype("f4") for name, shape in shapes.items()}
    numbers = {"scale": 1.0, "offset": 0.0, "path": 0.2, "slack": 0.1}
    rank = {name: np.array([value], dtype="f4") for name, value in numbers.items()}
    rank |= {"map": (0.1 * rng.normal(size=(DIM, DIM))).astype("f4")}
    return Hierarchy(level_encoders={2: AttentionLevelEncoder(fold)}, rankers={2: MappedRanker(rank)})


def key_of(recall: Recall, first: int = 0):
    """Everything to the bit, from a level up."""
    return {
        level: [(one.node_id, one.vectors.tobytes(), one.score, one.namespace) for one in found]
        for level, found in recall.levels.items()
        if level >= first
    }


def node_vectors(recall: Recall) -> list[tuple[int, int, bytes]]:
    """The nodes to the bit."""
    return [(one.level, one.node_id, one.vectors.tobytes()) for one in nodes_of(recall)]


def nodes_of(recall: Recall) -> list[MemoryEmbedding]:
    return [one for level, found in recall.levels.items() if level >= 2 for one in found]


def same_hits(left, right):
    return [(hit.chunk_id, hit.score, hit.path) for hit in left] == [
        (hit.chunk_id, hit.score, hit.path) for hit in right
    ]


def children_of(memory: MemoryIndex, node_id: int):
    with memory.snapshot() as snapshot:
        return snapshot.children(node_id)


def parent_of(memory: MemoryIndex, node_id: int) -> int:
    with memory.snapshot() as snapshot:
        return snapshot.node(node_id).parent_id


def chunk_ids(memory: MemoryIndex, condition: str) -> set[int]:
    """Chunks of documents whose id meets an SQL condition."""
    query = f"SELECT chunk_id FROM chunks JOIN documents d USING (document_rowid) WHERE {condition}"
    return {chunk for (chunk,) in rows(memory, query)}


def levels_of(memory: MemoryIndex) -> list[int]:
    (stats,) = memory.stats().namespaces
    return [0, *(level.level for level in stats.levels)]
