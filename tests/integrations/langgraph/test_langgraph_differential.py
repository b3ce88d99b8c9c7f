"""Random sequences of operations give what LangGraph's own `InMemoryStore` gives."""

import os
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import Item
from langgraph_mllm import HierarchicalMemoryStore

from mllm_plugin import LeafConfig, MemoryConfig
from tests.helpers.langgraph_tools import ApartEmbeddings, Operations, Oracle

SEQUENCES = int(os.environ.get("MLLM_SEQUENCES", "100"))
COSINE = MemoryConfig(leaf=LeafConfig(window=0.0, lexical=0.0))
INDEX: Any = {"embed": ApartEmbeddings(), "dims": 3, "fields": ["text", "more[*]"]}


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_a_sequence_gives_what_the_store_in_memory_gives(tmp_path: Path, seed: int) -> None:
    operations, oracle = Operations(seed), Oracle(index=INDEX)
    options: Any = {"config": COSINE, "hierarchy": "identity"}
    with HierarchicalMemoryStore.open(tmp_path / "memory", index=INDEX, **options) as store:
        for _ in range(12):
            ops = operations.batch()
            assert plain(store.batch(ops)) == plain(oracle.batch(ops)), ops
        assert not store.memory.verify().problems


def plain(result: Any) -> Any:
    """A result without times and scores."""
    if isinstance(result, list):
        return [plain(one) for one in result]
    return (result.namespace, result.key, result.value) if isinstance(result, Item) else result
