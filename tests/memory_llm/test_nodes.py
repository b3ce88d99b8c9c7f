"""Nodes that are read as vectors: means of what is written of their live chunks, coarse to fine."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin.memory_llm.nodes import FACES

QUESTION = "Which part has the violins number 6?"


def nodes_of(answer) -> list:
    return [one for one in answer.sources if one.level > 1]


def test_there_are_none_unless_asked_for(reader):
    assert reader.config.nodes == 0
    assert not nodes_of(reader.answer(QUESTION, mode="memory"))


@pytest.mark.parametrize("mode", ["memory", "both"])
def test_nodes_come_first_coarse_to_fine(reader, mode):
    plain, answer = (reader.answer(QUESTION, mode=mode, nodes=count) for count in (0, 5))
    levels = [one.level for one in nodes_of(answer)]
    assert len(levels) == 5
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) > 1
    assert not any(one.as_text for one in nodes_of(answer))
    assert [one for one in answer.sources if one.level < 2] == list(plain.sources)
    assert answer.usage.memory_tokens == plain.usage.memory_tokens + 5
    assert answer.usage.input_tokens == plain.usage.input_tokens + 5


def test_text_alone_has_no_vectors_of_nodes(reader):
    assert not nodes_of(reader.answer(QUESTION, mode="text", nodes=5))


def test_the_budget_drops_windows_before_nodes(reader):
    answer = reader.answer(QUESTION, mode="memory", nodes=3, memory_budget=4)
    assert [one.level > 1 for one in answer.sources] == [True, True, True, False]
    assert answer.dropped.nodes == 0
    assert reader.answer(QUESTION, mode="memory", nodes=3, memory_budget=2).dropped.nodes == 1


def vector_of(reader, **scope) -> np.ndarray:
    [recall] = reader.memory.recall_batch([QUESTION], nodes=1, faces=FACES, **scope)
    config = reader._settings({"mode": "memory", "nodes": 1})
    [read] = reader._writer.read([recall], config)
    [node] = read.levels[max(read.levels)]
    return node.vectors[0]


def test_a_vector_is_the_mean_of_what_is_written_and_follows_masks_and_filters(reader):
    whole = vector_of(reader)
    [recall] = reader.memory.recall_batch([QUESTION], nodes=1, faces=FACES)
    [top] = recall.levels[max(recall.levels)]
    assert len(top.faces) == FACES
    written = reader.adapter.write(reader.llm, [face.text for face in top.faces])
    means = np.stack([one.vectors.mean(axis=0) for one in written])
    assert np.allclose(whole, means.mean(axis=0), atol=2e-2)
    face = top.faces[0]
    without = {"filter": {"word": {"$ne": _word(reader, face.document_id)}}}
    assert not np.allclose(vector_of(reader, **without), whole, atol=1e-4)
    reader.memory.mask([face.document_id])
    try:
        masked = vector_of(reader)
        [recall] = reader.memory.recall_batch([QUESTION], nodes=9, faces=50)
        shown = {one.document_id for found in recall.levels.values() for node in found for one in node.faces}
        assert face.document_id not in shown
        assert not np.allclose(masked, whole, atol=1e-4)
    finally:
        reader.memory.unmask([face.document_id])
    assert np.array_equal(vector_of(reader), whole)


def _word(reader, document_id: str) -> str:
    [document] = reader.memory.get([document_id])
    return document.metadata["word"]
