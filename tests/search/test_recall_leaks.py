"""Nothing that is filtered out, masked, removed or in another namespace has a part in what is recalled."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin import (
    Document,
    MemoryIndex,
)
from tests.helpers.recall_tools import (
    CONFIG,
    MODES,
    children_of,
    chunk_ids,
    key_of,
    levels_of,
    many_documents,
    node_vectors,
    nodes_of,
    same_hits,
)

# -- filters


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{"filter": {"n": {"$gte": 0}}}, {"exclude_labels": ["unknown"]}])
def test_a_filter_that_hides_nothing_changes_nothing(tall_library, mode, options):
    assert key_of(tall_library.recall("w1 w2", mode=mode, **options)) == key_of(
        tall_library.recall("w1 w2", mode=mode)
    )


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({"filter": {"n": {"$lt": 123}}}, {"filter": {"n": {"$gte": 123}}}),
        ({"exclude_labels": ["odd"]}, {"label": "odd"}),
    ],
    ids=["filter", "labels"],
)
def test_filtered_nodes_equal_those_of_a_memory_where_the_rest_is_masked(tall_library, options, hidden):
    filtered = tall_library.recall("w1 w2 w3", nodes=50, exact=True, **options)
    before = tall_library.recall("w1 w2 w3", nodes=50, exact=True)
    label = hidden.get("label", "")
    tall_library.mask(**hidden)
    try:
        masked = tall_library.recall("w1 w2 w3", nodes=50, exact=True)
    finally:
        tall_library.unmask(label=label)
    scores = [[one.score for one in nodes_of(found)] for found in (filtered, masked)]
    assert np.allclose(*scores, atol=1e-6)
    assert node_vectors(filtered) == node_vectors(masked)
    assert node_vectors(filtered) != node_vectors(before)


@pytest.mark.parametrize("mode", ["beam", "flat"])
@pytest.mark.parametrize("width", [2, 5, 64])
def test_each_node_is_the_fold_of_its_matching_visited_children(tall_library, mode, width):
    options = {"k": 1, "nodes": width, "beam_width": width, "mode": mode}  # all that is visited comes back
    found = tall_library.recall("w1 w2 w3", filter={"n": {"$lt": 200}}, **options)
    matching = chunk_ids(tall_library, "CAST(substr(d.id, 2) AS INTEGER) < 200")
    visited: dict[int, np.ndarray] = {}
    partial = 0
    for level in list(found.levels)[2:]:
        assert found.levels[level]
        for one in found.levels[level]:
            children = children_of(tall_library, one.node_id)
            wanted = matching if level == 2 else visited
            rows = [row for row, child in enumerate(children.ids.tolist()) if child in wanted]
            assert rows
            if _below(tall_library, level, one.node_id) <= matching:  # nothing to hide: as stored
                rows, vectors = list(range(len(children))), children.vectors
            elif level == 2:
                partial += len(rows) < len(children)
                vectors = children.vectors
            else:
                vectors = np.zeros_like(children.vectors)
                for row in rows:
                    vectors[row] = visited[int(children.ids[row])]
            expected = tall_library.hierarchy.fold(level, vectors[rows], np.ones(len(rows), dtype=bool))
            assert np.array_equal(one.vectors, expected.astype(np.float32)), (level, one.node_id)
        visited |= {one.node_id: one.vectors.astype(np.float16) for one in found.levels[level]}
    assert partial


def _below(memory: MemoryIndex, level: int, node_id: int) -> set[int]:
    ids = {node_id}
    for _ in range(level - 1):
        ids = {child for one in ids for child in children_of(memory, one).ids.tolist()}
    return ids


def test_the_mean_by_hand(tall_library):
    """The same for the lowest level, without any of our own arithmetic."""
    if tall_library.hierarchy.level_encoders:
        pytest.skip("the identity hierarchy only")
    found = tall_library.recall("w1 w2 w3", exclude_labels=["odd"], nodes=9)
    even = chunk_ids(tall_library, "CAST(substr(d.id, 2) AS INTEGER) % 2 = 0")
    assert len(even) == 250
    query = tall_library.encoder.encode_queries(["w1 w2 w3"])[0]
    for one in found.levels[2]:
        children = children_of(tall_library, one.node_id)
        mean = (
            children.vectors[[child in even for child in children.ids.tolist()], 0].astype(float).mean(axis=0)
        )
        assert np.allclose(one.vectors[0], mean / np.linalg.norm(mean), atol=1e-3)
        assert one.score == pytest.approx(one.vectors[0] @ query, abs=1e-5)


@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize("number", [0, 250, 499])
def test_a_filter_for_one_document_leaves_one_node_on_each_level(tall_library, mode, number):
    found = tall_library.recall("w1 w2", filter={"n": number}, mode=mode, beam_width=1)
    assert [hit.document_id for hit in found.hits] == [f"d{number}"]
    path = {step.level: step.node_id for step in found.hits[0].path}
    chunk = found.levels[1][0].vectors[0]
    for level in levels_of(tall_library)[2:]:
        (node,) = found.levels[level]
        assert node.node_id == path[level]
        if not tall_library.hierarchy.level_encoders:
            assert np.allclose(node.vectors[0], chunk, atol=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_matches(tall_library, mode):
    found = tall_library.recall("w1 w2", filter={"n": -1}, mode=mode)
    assert found.hits == ()
    assert found.levels == dict.fromkeys(levels_of(tall_library), ())


# -- masks and removal


@pytest.mark.parametrize("mode", MODES)
def test_a_masked_or_removed_document_has_no_part_in_any_node(tmp_path, encoder, mode):
    """Compared to the bit with the memory that never had it."""
    late = Document("w1 w2 w3 w2", id="late")  # its node is not split
    options = {"mode": mode, "nodes": 100, "k": 3}
    with MemoryIndex.open(tmp_path / "m", encoder=encoder, config=CONFIG, hierarchy="identity") as memory:
        memory.add(many_documents(200))
        never = memory.recall("w1 w2 w3", **options)
        memory.add([late])
        there = memory.recall("w1 w2 w3", **options)
        assert there.levels[1][0].document_id == "late"
        for level in list(never.levels)[2:]:  # its ancestor on each level, or else nothing would be tested
            before = {one.node_id: one.vectors.tobytes() for one in never.levels[level]}
            after = {one.node_id: one.vectors.tobytes() for one in there.levels[level]}
            assert sum(before[node_id] != vectors for node_id, vectors in after.items()) == 1
        memory.mask(["late"])
        masked = memory.recall("w1 w2 w3", **options)
        memory.unmask(["late"])
        assert key_of(memory.recall("w1 w2 w3", **options)) == key_of(there)
        filtered = memory.recall("w1 w2 w3", filter={"n": {"$gte": 0}}, **options)
        memory.remove(["late"])
        removed = memory.recall("w1 w2 w3", **options)
    assert key_of(masked) == key_of(never) == key_of(removed)
    assert [one.document_id for one in masked.hits] == [one.document_id for one in never.hits]
    for found in (masked, filtered, removed):
        assert all(one.document_id != "late" for level in found.levels.values() for one in level)
    assert mode != "exact" or key_of(filtered, 2) == key_of(never, 2)


def test_after_all_is_masked_or_removed_nothing_is_left(tmp_path, encoder):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=CONFIG) as memory:
        assert memory.recall("w1").levels == {0: (), 1: ()}
        memory.add(many_documents(100))
        memory.mask(filter={})
        assert memory.recall("w1").levels == {0: (), 1: ()}
        memory.unmask()
        assert nodes_of(memory.recall("w1"))
        memory.remove(filter={})
        found = memory.recall("w1")
        assert (found.hits, found.levels) == ((), {0: (), 1: ()})


# -- namespaces


@pytest.mark.parametrize("mode", MODES)
def test_trees_of_several_namespaces_are_merged_and_never_mixed(tmp_path, encoder, mode):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=CONFIG) as memory:
        memory.add(many_documents(300), namespace=("users", "1"))
        memory.add(many_documents(40, seed=1), namespace=("users", "2"))
        memory.add(many_documents(300, seed=2), namespace="others")
        options = {"nodes": 6, "mode": mode}
        alone = [memory.recall("w1 w2", namespace=("users", name), **options) for name in ("1", "2")]
        both = memory.recall("w1 w2", namespace="users", prefix=True, **options)
        hits = memory.search("w1 w2", namespace="users", prefix=True, mode=mode)
        assert list(both.levels) == list(alone[0].levels)
        assert len(alone[1].levels) < len(alone[0].levels)
        assert same_hits(both.hits, hits)
        for level in list(both.levels)[2:]:
            apart = [row for one in alone for row in key_of(one).get(level, [])]
            assert key_of(both)[level] == sorted(apart, key=lambda row: -row[2])[:6]
        assert {one.namespace for one in nodes_of(both)} == {("users", "1"), ("users", "2")}
        assert memory.recall("w1 w2").levels == {0: (), 1: ()}
