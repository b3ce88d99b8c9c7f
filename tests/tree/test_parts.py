"""What does not fit into memory is grouped in parts, and nothing is lost between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_plugin import MemoryIndex
from mllm_plugin.memory import editing
from mllm_plugin.tree import editor
from mllm_plugin.tree.clustering import Parts
from tests.helpers.file_tools import rows
from tests.helpers.robustness_tools import SMALL_GROUPS, contents, some_documents
from tests.helpers.toy import ToyEncoder


def parts_of(vectors: np.ndarray, sizes: list[int], most: int) -> tuple[Parts, list[np.ndarray]]:
    blocks = np.split(vectors, np.cumsum(sizes)[:-1])
    parts = Parts(sizes, lambda block: blocks[block])
    return parts, list(parts.of_at_most(most))


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=30),
    most=st.integers(2, 80),
    alike=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_vector_is_in_one_part(sizes, most, alike, seed):
    count = sum(sizes)
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    parts, found = parts_of(np.ones_like(vectors) if alike else vectors, sizes, most)
    assert np.array_equal(np.sort(np.concatenate(found)), np.arange(count))
    assert all(len(places) <= most for places in found)
    starts = np.cumsum(sizes) - sizes
    for places in found:
        told = [starts[block] + own for block, own in parts.rows(places)]
        assert np.array_equal(np.concatenate([*told, np.zeros(0, int)]), places)


def test_vectors_of_a_kind_come_into_one_part():
    rng = np.random.default_rng(0)
    kinds = rng.integers(6, size=900)
    vectors = np.eye(6, 12, dtype=np.float32)[kinds] + 0.05 * rng.normal(size=(900, 12)).astype(np.float32)
    _, found = parts_of(vectors, [9] * 100, 400)
    assert len(found) > 1
    assert sum(len(np.unique(kinds[places])) for places in found) == 6


@pytest.fixture
def small_parts(monkeypatch) -> list[int]:
    """At most 64 embeddings are grouped at once; lists how many were."""
    grouped: list[int] = []
    real = editor.group

    def noted(vectors, *options):
        grouped.append(len(vectors))
        return real(vectors, *options)

    for name, value in (("_NUMBERS", 64 * 16), ("_LEAST_GROUPS", 1), ("_BLOCK", 20), ("group", noted)):
        monkeypatch.setattr(editor, name, value)
    return grouped


@pytest.mark.parametrize("way", ["added", "built"])
def test_a_tree_is_grouped_in_parts(tmp_path, small_parts, way):
    documents = some_documents(700)
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add(documents[:50])
        memory.mask(["d3", "d4"])
        if way == "built":
            for start in range(50, 700, 50):
                editing.add(memory._handle, documents[start : start + 50], (), provisional=True)
        else:
            memory.add(documents[50:])
        before, exact = contents(memory), [hit.score for hit in memory.search("d7 w3", exact=True)]
        assert memory.regroup()
        assert len(small_parts) > 10
        assert max(small_parts) <= 64
        assert memory.verify().problems == ()
        assert contents(memory) == before
        assert [hit.score for hit in memory.search("d7 w3", exact=True)] == exact
        (stats,) = memory.stats().namespaces
        assert 3 < stats.levels[0].embeddings / stats.levels[0].groups < 16
        assert len(stats.levels) >= 3
        found = [memory.search(one.text, k=1, mode="beam", beam_width=8)[0] for one in documents[10:700:30]]
        assert [hit.document_id for hit in found] == [one.id for one in documents[10:700:30]]


def test_in_one_transaction_with_removals(tmp_path, small_parts):
    """What the transaction changed before, and did not save yet, is grouped as it is."""
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), config=SMALL_GROUPS) as memory:
        memory.add(some_documents(300))
        memory.add([*some_documents(300, prefix="again"), *some_documents(290)])
        replaced = [type(one)(f"other {one.text}", id=one.id) for one in some_documents(300)]
        memory.add([*replaced, *some_documents(400, prefix="more")])
        assert memory.verify().problems == ()
        assert memory.stats().documents == 1000
        assert rows(memory, "SELECT count(*) FROM nodes")[0][0] < 1000 / 3
