"""An embedding chunk: rows in ascending id order, whatever is taken, left out or joined."""

from __future__ import annotations

import numpy as np

from mllm_plugin.text.lexical import TermCounts
from mllm_plugin.tree.node import EmbeddingChunk


def chunks(*ids: int) -> EmbeddingChunk:
    vectors = np.array(ids, np.float16)[:, None, None] * np.ones((1, 1, 4), np.float16)
    live = np.array(ids) % 2 == 0
    return EmbeddingChunk.of_chunks(
        np.array(ids), vectors, live, TermCounts.of([f"word{one}" for one in ids])
    )


def test_joined_and_without_are_each_others_opposite():
    one, two = chunks(2, 5), chunks(3, 8)
    both = one.joined(two)
    assert both.ids.tolist() == [2, 3, 5, 8]
    assert both.vectors[:, 0, 0].tolist() == both.directions[:, 0].tolist() == [2.0, 3.0, 5.0, 8.0]
    assert both.live.tolist() == [1, 0, 0, 1]
    again = both.without([3, 8])
    assert again.ids.tolist() == one.ids.tolist()
    assert again.terms.hashes.tolist() == one.terms.hashes.tolist()


def test_a_change_leaves_the_original_alone():
    before = chunks(2, 5)
    after = before.changed(1, vector=np.zeros((1, 4), np.float16), live=7, total=9, version=3)
    assert (after.live.tolist(), after.total.tolist(), after.versions.tolist()) == ([1, 7], [1, 9], [0, 3])
    assert before.live.tolist() == [1, 0]
    assert before.vectors[1, 0, 0] == 5.0
