from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_plugin import Document, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.hierarchy import CosineRanker, MeanLevelEncoder
from mllm_plugin.tree.clustering import group
from tests.helpers.file_tools import rows


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 300), target=st.integers(2, 20), seed=st.integers(0, 5), alike=st.booleans())
def test_groups_are_complete_and_within_the_cap(count, target, seed, alike):
    rng = np.random.default_rng(seed)
    vectors = np.ones((count, 8)) if alike else rng.normal(size=(count, 8))
    labels = group(vectors.astype(np.float32), target, 4 * target, 2, seed)
    sizes = np.bincount(labels)
    assert len(labels) == count
    assert (sizes > 0).all()
    assert sizes.max() <= 4 * target
    assert (len(sizes) == 1) == (count <= target)


def test_grouping_in_two_stages_keeps_the_cap(monkeypatch):
    monkeypatch.setattr("mllm_plugin.tree.clustering._DIRECT", 1000)
    vectors = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    sizes = np.bincount(group(vectors, 16, 64, 4))
    assert 16 / 2 < sizes.mean() < 16 * 2
    assert sizes.max() <= 64


@pytest.mark.parametrize(
    "live", [[True] * 5, [True, False, True, False, True], [False] * 5], ids=["all", "some", "none"]
)
def test_mean_level_encoder_is_the_normalised_mean_of_live_children(live):
    children = np.random.default_rng(1).normal(size=(5, 1, 12)).astype(np.float16)
    live = np.array(live)
    folded = MeanLevelEncoder().fold(children, live)
    mean = children[live].astype(np.float64).sum(axis=(0, 1))
    expected = mean / np.linalg.norm(mean) if live.any() else np.zeros(12)
    assert folded.shape == (1, 12)
    assert folded.dtype == np.float16
    assert np.allclose(folded[0].astype(float), expected, atol=1e-3)


@given(order=st.permutations(range(9)))
def test_mean_level_encoder_does_not_depend_on_order_to_the_bit(order):
    children = np.random.default_rng(2).normal(size=(9, 1, 16)).astype(np.float16)
    live = np.ones(9, dtype=bool)
    folded = MeanLevelEncoder().fold(children, live)
    assert folded.tobytes() == MeanLevelEncoder().fold(children[list(order)], live).tobytes()


def test_cosine_ranker_takes_the_best_pair_of_vectors():
    rng = np.random.default_rng(3)
    queries, embeddings = rng.normal(size=(2, 3, 8)), rng.normal(size=(5, 2, 8))
    expected = np.einsum("bmd,nrd->bnmr", queries, embeddings).max(axis=(2, 3))
    scores = CosineRanker().score(queries.astype(np.float32), embeddings.astype(np.float32))
    assert np.allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("fan_out", [4, (8, 3)], ids=["one", "per-level"])
def test_levels_grow_with_the_logarithm_and_shrink_again(tmp_path, encoder, fan_out):
    config = MemoryConfig(tree=TreeConfig(fan_out=fan_out, cap_factor=2))
    rng = np.random.default_rng(4)
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=config) as memory:
        depths = {}
        for start in range(0, 600, 20):
            documents = [
                Document(" ".join(f"w{n}" for n in rng.integers(200, size=6)), id=str(start + n))
                for n in range(20)
            ]
            memory.add(documents)
            (stats,) = memory.stats().namespaces
            depths[stats.chunks] = len(stats.levels)
            smallest = config.tree.floor(1) if isinstance(fan_out, int) else 2
            assert len(stats.levels) <= 2 + math.log(stats.chunks, smallest)
            assert stats.levels[-1].embeddings <= config.tree.target(stats.levels[-1].level)
            for below, above in zip(stats.levels, stats.levels[1:], strict=False):
                assert below.groups == above.embeddings
        assert depths[600] > depths[20]
        assert memory.verify().ok
        memory.remove([str(n) for n in range(590)])
        (stats,) = memory.stats().namespaces
        assert len(stats.levels) <= depths[20] + 1
        assert memory.verify().ok


def test_an_edit_touches_only_its_path(tmp_path, encoder):
    config = MemoryConfig(tree=TreeConfig(fan_out=4, cap_factor=3))
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=config) as memory:
        memory.add([Document(f"w{n % 60} w{n % 7} w{n}", id=str(n)) for n in range(300)])

        def versions() -> dict[int, int]:
            return dict(rows(memory, "SELECT node_id, version FROM nodes"))

        before = versions()
        memory.mask(["7"])
        after = versions()
        (stats,) = memory.stats().namespaces
        changed = [node for node in after if after[node] != before.get(node)]
        assert after.keys() == before.keys()
        assert 0 < len(changed) <= len(stats.levels)
