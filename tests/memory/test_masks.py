"""A masked document is out of every result and every ancestor, moves nothing, and comes back to the byte."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mllm_plugin import Document, MaskReport, MemoryConfig, MemoryIndex, NotFoundError, TreeConfig
from mllm_plugin.encoders import VectorsOnly
from mllm_plugin.text.lexical import term_hash, terms_of
from tests.helpers.robustness_tools import (
    KEPT,
    MODES,
    answers,
    assert_sound,
    block_rows,
    rows,
    some_documents,
    unharmed,
)
from tests.helpers.toy import ToyEncoder

DOCUMENTS = some_documents(120)
DEEP = MemoryConfig(tree=TreeConfig(fan_out=4))


@pytest.fixture
def deep(tmp_path):
    """A memory with several levels."""
    with MemoryIndex.open(tmp_path / "deep", encoder=ToyEncoder(), config=DEEP) as memory:
        memory.add(DOCUMENTS)
        assert len(memory.stats().namespaces[0].levels) >= 3
        yield memory


def structure(memory: MemoryIndex) -> list[tuple]:
    return rows(memory, "SELECT node_id, level, parent_id FROM nodes ORDER BY node_id")


def term_rows(memory: MemoryIndex) -> list[tuple]:
    return rows(memory, "SELECT namespace_id, term, live, total, posted FROM terms ORDER BY 1, 2")


def posting_rows(memory: MemoryIndex) -> list[tuple]:
    return rows(memory, "SELECT * FROM postings ORDER BY 1, 2, 3")


def state(memory: MemoryIndex) -> tuple:
    counts = rows(memory, "SELECT namespace_id, root_id, live_chunks, live_terms FROM namespaces ORDER BY 1")
    return structure(memory), block_rows(memory), term_rows(memory), posting_rows(memory), counts


CHOSEN = {
    "one": ["d7"],
    "several": ["d1", "d2", "d50", "d119"],
    "most": [document.id for document in DOCUMENTS[:110]],
    "all": [document.id for document in DOCUMENTS],
}


@pytest.mark.parametrize("ids", CHOSEN.values(), ids=CHOSEN)
def test_unmask_restores_the_stored_bytes(deep, ids):
    before, found = state(deep), answers(deep, ["d7", "w3 w5"], mode="exact")
    assert deep.mask(ids) == MaskReport(len(ids), len(ids))
    assert structure(deep) == before[0]
    assert deep.verify().problems == ()
    assert deep.unmask(ids) == MaskReport(len(ids), len(ids))
    assert state(deep) == before
    assert answers(deep, ["d7", "w3 w5"], mode="exact") == found
    assert deep.verify().problems == ()


@pytest.mark.parametrize("fan_out", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(8))
def test_masking_moves_nothing_in_any_tree(tmp_path, seed, fan_out):
    """Trees that grew by insertions and removals have small groups; a mask must leave them alone."""
    generator = np.random.default_rng([seed, fan_out])
    config = MemoryConfig(tree=TreeConfig(fan_out=fan_out, cap_factor=2))
    with MemoryIndex.open(tmp_path / "memory", encoder=VectorsOnly(4), config=config) as memory:
        count = 0
        for _ in range(6):
            size = int(generator.integers(1, 12))
            batch = [Document(f"word{n}", id=f"d{n}") for n in range(count, count + size)]
            memory.add(batch, embeddings=list(generator.normal(size=(size, 4))))
            count += size
            memory.remove([f"d{n}" for n in generator.integers(0, count, 2)])
        before = state(memory)
        for document in list(memory.documents()):
            memory.mask([document.id])
            assert structure(memory) == before[0], f"masking {document.id} moved a node"
            memory.unmask([document.id])
            assert state(memory) == before, f"unmasking {document.id} did not restore the tree"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beam_width", [1, 100])
def test_a_masked_document_is_in_no_result(deep, mode, beam_width):
    hidden = ["d7", "d8", "d90"]
    deep.mask(hidden, label="draft")
    for query in [*hidden, DOCUMENTS[7].text, DOCUMENTS[90].text, "w3"]:
        for condition in (None, {"number": {"$in": [7, 8, 90, 91]}}):
            hits = deep.search(query, k=120, mode=mode, beam_width=beam_width, filter=condition)
            assert not {hit.document_id for hit in hits} & set(hidden)
    vector = deep.encoder.encode_queries([DOCUMENTS[7].text])[0]
    assert "d7" not in {hit.document_id for hit in deep.search(vector, k=120, mode=mode)}
    assert deep.search(DOCUMENTS[7].text, k=200, mode=mode, beam_width=1000, filter={"number": 7}) == []


def folded_from_live_chunks(memory: MemoryIndex) -> dict[int, np.ndarray]:
    """Every node's embedding from its live chunks' rows, with no help of the store's or the tree's code."""
    live = dict(rows(memory, "SELECT chunk_id, NOT masked FROM chunks JOIN documents USING (document_rowid)"))
    blocks = {
        node_id: (
            level,
            np.frombuffer(ids, "<i8").tolist(),
            np.frombuffer(vectors, "<f2").reshape(-1, memory.dim),
        )
        for node_id, level, ids, vectors in rows(
            memory, "SELECT node_id, level, ids, vectors FROM nodes JOIN blocks USING (node_id)"
        )
    }

    def fold(node_id: int) -> tuple[np.ndarray, bool]:
        level, ids, vectors = blocks[node_id]
        if level == 2:
            used = [vector for child, vector in zip(ids, vectors, strict=True) if live[child]]
        else:
            used = [vector for vector, alive in map(fold, ids) if alive]
        total = np.sum(np.array(used, dtype=np.float64).reshape(-1, memory.dim), axis=0)
        length = np.linalg.norm(total)
        return (total / length if length else total).astype(np.float16), bool(used)

    return {node_id: fold(node_id)[0] for node_id in blocks}


def stored_ancestors(memory: MemoryIndex) -> dict[int, np.ndarray]:
    found = {}
    for ids, vectors in rows(
        memory, "SELECT ids, vectors FROM nodes JOIN blocks USING (node_id) WHERE level > 2"
    ):
        found.update(
            zip(
                np.frombuffer(ids, "<i8").tolist(),
                np.frombuffer(vectors, "<f2").reshape(-1, memory.dim),
                strict=True,
            )
        )
    return found


@pytest.mark.parametrize("ids", CHOSEN.values(), ids=CHOSEN)
def test_a_masked_document_is_in_no_ancestor(deep, ids):
    deep.mask(ids)
    expected = folded_from_live_chunks(deep)
    stored = stored_ancestors(deep)
    assert len(stored) > 10
    for node_id, vector in stored.items():
        np.testing.assert_array_equal(vector, expected[node_id], err_msg=f"node {node_id}")


def test_ancestors_equal_those_of_a_memory_that_never_had_the_document(tmp_path):
    """One group, with and without the masked documents: their parent's embedding is the same to the bit."""
    config = MemoryConfig(tree=TreeConfig(fan_out=(4, 64)))
    hidden = {document.id for document in DOCUMENTS[:20:3]}
    with MemoryIndex.open(tmp_path / "with", encoder=ToyEncoder(), config=config) as memory:
        memory.add(DOCUMENTS[:20])
        memory.mask(hidden)
        homes = rows(memory, "SELECT id, node_id FROM documents JOIN chunks USING (document_rowid)")
        found = stored_ancestors(memory)
    for node_id in found:
        group = [
            document
            for document in DOCUMENTS[:20]
            if (document.id, node_id) in homes and document.id not in hidden
        ]
        pooled = np.array(
            [ToyEncoder().encode_documents([one.text])[0][0] for one in group] or np.zeros((0, 16))
        )
        lengths = np.linalg.norm(pooled.astype(np.float64), axis=1, keepdims=True)
        stored = (pooled / lengths).astype(np.float32).astype(np.float16).astype(np.float64)
        total = stored.sum(axis=0)
        np.testing.assert_allclose(
            found[node_id].astype(np.float64), total / (np.linalg.norm(total) or 1), atol=2e-3
        )


def expected_frequencies(documents: list[Document]) -> Counter:
    return Counter(
        term for document in documents for term in {term_hash(term) for term in terms_of(document.text)}
    )


def test_document_frequencies_exclude_masked_documents(deep):
    hidden = CHOSEN["several"]
    deep.mask(hidden)
    live = expected_frequencies([document for document in DOCUMENTS if document.id not in hidden])
    total = expected_frequencies(DOCUMENTS)
    assert {term: (a, b) for _, term, a, b, _ in term_rows(deep)} == {
        term: (live[term], total[term]) for term in total
    }


def test_scores_are_those_of_a_memory_without_the_masked_documents(tmp_path, deep):
    hidden = CHOSEN["several"]
    deep.mask(hidden)
    with MemoryIndex.open(tmp_path / "other", encoder=ToyEncoder(), config=DEEP) as other:
        other.add([document for document in DOCUMENTS if document.id not in hidden])
        for mode in ("flat", "exact"):
            assert answers(deep, ["w3 w5", "d9", "d7 w1"], mode=mode, k=20) == answers(
                other, ["w3 w5", "d9", "d7 w1"], mode=mode, k=20
            )


def test_live_again_only_when_no_mask_is_left(stocked):
    stocked.mask(["fox"], label="draft")
    assert stocked.mask(["fox"], label="secret") == MaskReport(0, 0)
    stocked.mask(["fox"])
    assert stocked.get(["fox"])[0].masks == ("", "draft", "secret")
    assert stocked.unmask(["fox"], label="draft") == MaskReport(0, 0)
    assert stocked.unmask(label="secret") == MaskReport(0, 0)
    assert "fox" not in {hit.document_id for hit in stocked.search("fox")}
    assert stocked.unmask(["fox"], label="") == MaskReport(1, 1)
    assert stocked.search("fox", k=1)[0].document_id == "fox"
    assert stocked.unmask(["fox"]) == MaskReport(0, 0)
    assert stocked.verify().problems == ()


def test_unmask_without_a_label_lifts_all(stocked):
    for label in ("a", "b", ""):
        stocked.mask(["fox", "kettle"], label=label)
    assert stocked.unmask(["fox"]) == MaskReport(1, 1)
    assert stocked.get(["fox", "kettle"])[0].masks == ()
    assert stocked.unmask() == MaskReport(1, 1)
    assert stocked.get(["kettle"])[0].masks == ()


def test_lifting_a_mask_that_is_not_there(stocked):
    stocked.mask(["fox"], label="draft")
    with unharmed(stocked):
        assert stocked.unmask(label="other") == MaskReport(0, 0)
        assert stocked.unmask(["fox"], label="other") == MaskReport(0, 0)
        assert stocked.unmask(["kettle"]) == MaskReport(0, 0)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (lambda memory: memory.mask(["d3", "d4"]), {"d3", "d4"}),
        (lambda memory: memory.mask("d3"), {"d3"}),
        (lambda memory: memory.mask(filter={"number": {"$lt": 3}}), {"d0", "d1", "d2"}),
        (lambda memory: memory.mask(["d1", "d2"], filter={"even": True}), {"d2"}),
        (lambda memory: memory.mask(label="sea"), {"lighthouse"}),
        (lambda memory: memory.mask(filter={"number": 5}, label="sea"), {"d5"}),
        (lambda memory: memory.mask(filter={"number": "none"}), set()),
    ],
    ids=["ids", "one-id", "filter", "ids-and-filter", "label", "filter-under-label", "nothing"],
)
def test_ways_to_choose(stocked, mask, expected):
    stocked.add(some_documents(10))
    try:
        report = mask(stocked)
    except NotFoundError:  # an id that the filter leaves out may be said to be missing
        expected, report = set(), MaskReport(0, 0)
    assert {document.id for document in stocked.documents() if document.masks} == expected
    assert report.documents == len(expected)
    assert stocked.stats().masked_documents == len(expected)
    stocked.unmask()
    assert not any(document.masks for document in stocked.documents())


UPDATES = {
    "text": lambda memory: memory.add([Document("a wolf at dusk", id="fox", metadata={"year": 2001})]),
    "metadata": lambda memory: memory.add(
        [Document(KEPT[2].text, id="fox", metadata={"year": 9}, labels=("new",))]
    ),
    "nothing": lambda memory: memory.add([KEPT[2]]),
    "vector": lambda memory: memory.add([Document("a wolf at dusk", id="fox")], embeddings=[np.ones(16)]),
    "whole": lambda memory: memory.add([KEPT[2]], split=False),
    "record": lambda memory: memory.import_records([{"id": "fox", "text": "a wolf at dusk"}]),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_an_updated_document_stays_masked(stocked, update):
    stocked.mask(["fox"], label="draft")
    stocked.mask(["fox"], label="secret")
    update(stocked)
    assert stocked.get(["fox"])[0].masks == ("draft", "secret")
    assert "fox" not in {hit.document_id for hit in stocked.search("wolf fox", k=9, mode="exact")}
    assert stocked.verify().problems == ()
    stocked.unmask(label="draft")
    assert "fox" not in {hit.document_id for hit in stocked.search("wolf fox", k=9)}
    stocked.unmask(label="secret")
    assert "fox" in {hit.document_id for hit in stocked.search("wolf fox", k=9)}


def test_a_masked_document_can_be_removed(deep):
    deep.mask(["d7", "d8"], label="draft")
    assert deep.remove(["d7"]).erased
    assert rows(deep, "SELECT count(*) FROM masks") == [(1,)]
    assert_sound(deep, [document.id for document in DOCUMENTS if document.id != "d7"])
    deep.add([DOCUMENTS[7]])
    assert deep.get(["d7"])[0].masks == ()


def test_a_memory_that_is_all_masked(deep):
    deep.mask(filter={})
    assert all(deep.search("d7", mode=mode) == [] for mode in MODES)
    deep.add([Document("the only live one", id="live")])
    assert all([hit.document_id for hit in deep.search("d7", mode=mode)] == ["live"] for mode in MODES)
    assert deep.verify().problems == ()


def test_masks_survive_reopening_and_regrouping(deep):
    deep.mask(["d7"], label="draft")
    deep.compact(regroup=True)
    deep.close()
    with MemoryIndex.open(deep.path, encoder=ToyEncoder()) as reopened:
        assert reopened.verify().problems == ()
        assert "d7" not in {hit.document_id for hit in reopened.search("d7", k=200)}
        reopened.unmask(label="draft")
        assert reopened.search("d7", k=1)[0].document_id == "d7"


def test_a_mask_shows_in_every_open_memory_at_once(deep):
    with MemoryIndex.open(deep.path, encoder=ToyEncoder()) as other:
        for mode in MODES:
            assert other.search("d7", k=1, mode=mode)[0].document_id == "d7"
            deep.mask(["d7"])
            assert other.search("d7", k=1, mode=mode)[0].document_id != "d7"
            deep.unmask(["d7"])
            assert other.search("d7", k=1, mode=mode)[0].document_id == "d7"
