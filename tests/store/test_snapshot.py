"""A snapshot: one moment of a memory, read in batches."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mllm_plugin import ClosedError, DamagedStoreError, Document, MemoryIndex
from mllm_plugin.store.cache import hash_text
from mllm_plugin.store.codec import unpack_windows
from mllm_plugin.store.database import Database
from mllm_plugin.store.snapshot import Frequency, rare_terms
from tests.helpers.file_tools import rows
from tests.helpers.recall_tools import CONFIG, many_documents
from tests.helpers.toy import ToyEncoder

MOST_MODULES = 35


@pytest.fixture
def stocked(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), config=CONFIG) as memory:
        memory.add(many_documents(120))
        yield memory


def test_it_sees_one_moment(stocked):
    with stocked.snapshot() as snapshot:
        row = snapshot.namespace(())
        stocked.add([Document("new words here", id="new"), Document("other words", id="d3")])
        stocked.add([Document("elsewhere", id="e")], namespace="other")
        assert snapshot.namespaces() == [row]
        names = [document.id for document in snapshot.documents(row, snapshot.select(row).rowids)]
        assert names == [f"d{n}" for n in range(120)]
        assert snapshot.select(row, ids=["new", "d3"]).missing == ("new",)
    with stocked.snapshot() as snapshot:
        assert len(snapshot.namespaces()) == 2


def test_it_ends_with_its_block(stocked):
    with stocked.snapshot() as snapshot:
        row = snapshot.namespace(())
        documents = snapshot.documents(row, snapshot.select(row).rowids)
        next(documents)
    with pytest.raises(ClosedError, match="snapshot has ended"):
        snapshot.namespaces()
    with pytest.raises(ClosedError, match="snapshot has ended"):
        list(documents)
    stocked.close()
    with pytest.raises(ClosedError, match="is closed"):
        stocked.snapshot()


def test_a_documents_iterator_left_open_does_not_pin_the_next_snapshot(stocked):
    with stocked.snapshot() as snapshot:
        row = snapshot.namespace(())
        left_open = snapshot.documents(row, snapshot.select(row).rowids)
        next(left_open)
    stocked.add([Document("new words here", id="new")])
    assert [document.id for document in stocked.get("new")] == ["new"]


def test_chunks_in_batches_are_the_rows_of_the_file(stocked):
    wanted = [
        chunk for (chunk,) in rows(stocked, "SELECT chunk_id FROM chunks ORDER BY chunk_id % 7, chunk_id")
    ]
    missing = max(wanted) + 1
    with stocked.snapshot() as snapshot:
        places = snapshot.places([*wanted, missing])
        windows = snapshot.windows(np.array([*wanted, missing]))
        texts = snapshot.texts(place.document_rowid for place in places.values())
        tree = {node.node_id: node for node in snapshot.nodes(snapshot.namespace(()))}
        above = snapshot.ancestors([places[wanted[0]].node_id])
    assert list(places) == wanted
    query = (
        'SELECT d.document_rowid, d.id, c.start, c."end", c.node_id, w.data, d.text FROM chunks c '
        "JOIN documents d USING (document_rowid) JOIN windows w USING (chunk_id) WHERE c.chunk_id = ?"
    )
    for place, chunk in enumerate(wanted):
        ((*stored, data, text),) = rows(stocked, query, (chunk,))
        assert places[chunk] == tuple(stored)
        first, size = windows.starts[place], windows.sizes[place]
        assert np.array_equal(windows.vectors[first : first + size], unpack_windows(data, stocked.dim))
        assert texts[places[chunk].document_rowid][0] == text.decode()
    assert windows.sizes[-1] == 0
    assert {node.node_id for node in tree.values()} == {
        n for (n,) in rows(stocked, "SELECT node_id FROM nodes")
    }
    levels = [node.level for node in tree.values()]
    assert levels == sorted(levels)
    assert all(tree[node_id] == node for node_id, node in above.items())
    assert sorted(node.level for node in above.values()) == list(range(2, max(levels) + 1))


def test_embeddings_by_text(stocked):
    (first,) = stocked.get("d0")
    known, unknown = hash_text((), first.text), hash_text((), "never")
    with stocked.snapshot() as snapshot:
        ((text_hash, (vector, packed)),) = snapshot.embeddings([unknown, known]).items()
        row = snapshot.namespace(())
        (chunk,) = snapshot.chunks_of(snapshot.select(row, ids=["d0"]).rowids[0])
    assert text_hash == known
    assert np.array_equal(vector, chunk.vector)
    assert packed == chunk.windows
    (expected,) = stocked.encoder.encode_queries([first.text])
    assert np.abs(vector - expected).max() < 1e-3


def test_a_node_that_is_its_own_ancestor_is_named(stocked):
    node = rows(stocked, "SELECT node_id FROM nodes WHERE level = 2 LIMIT 1")[0][0]
    with Database(stocked.path).write() as tx:
        tx.execute("UPDATE nodes SET parent_id = node_id WHERE node_id = ?", (node,))
    with stocked.snapshot() as snapshot, pytest.raises(DamagedStoreError, match=f"node {node} of level 2"):
        snapshot.ancestors([node])


def test_a_listing_is_of_one_moment(stocked, monkeypatch):
    """However long it is: documents that are updated meanwhile have another row, and none is left out."""
    for ahead in (1 << 24, 100):
        monkeypatch.setattr("mllm_plugin.memory.searching._READ_AHEAD", ahead)
        listing = stocked.documents()
        names = [next(listing).id]
        before = [document.text for document in stocked.documents()]
        stocked.add(Document(f"changed {ahead} w{n}", id=f"d{n}") for n in range(1, 120))
        found = list(listing)
        assert [*names, *(document.id for document in found)] == [f"d{n}" for n in range(120)]
        assert [document.text for document in found] == before[1:]
        stocked.remove([f"d{n}" for n in range(120)])
        stocked.add(many_documents(120))


def test_listing_while_another_thread_updates_everything(stocked):
    failures: list[Exception] = []

    def update() -> None:
        try:
            for turn in range(5):
                stocked.add(Document(f"turn {turn} w{n}", id=f"d{n}") for n in range(120))
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=update)
    writer.start()
    while writer.is_alive():
        found = list(stocked.documents())
        assert len(found) == 120
        assert len({document.text.split()[1] for document in found if document.text.startswith("turn")}) <= 1
    writer.join()
    assert failures == []


@pytest.mark.parametrize("options", [{}, {"mode": "beam"}, {"filter": {"n": {"$lt": 50}}}], ids=str)
def test_modules_that_one_search_passes(stocked, options):
    """How many files one must know to follow a search: those whose code runs in it, once it is warm."""
    entered: set[str] = set()

    def note(frame, event, argument):
        name = frame.f_code.co_filename
        if event == "call" and "mllm_plugin" in Path(name).parts:
            entered.add(name)

    stocked.search("w1 w2", **options)
    sys.setprofile(note)
    try:
        stocked.search("w1 w3", **options)
    finally:
        sys.setprofile(None)
    assert any(name.endswith("engine.py") for name in entered)
    assert len(entered) <= MOST_MODULES + 3 * ("filter" in options), sorted(entered)


def test_the_rarest_terms_that_lead_to_chunks_come_first():
    known = {5: Frequency(1, 3, 1), 9: Frequency(2, 2, 1), 7: Frequency(1, 1, 0)}
    assert rare_terms(known) == [(2, 9), (3, 5)]


def test_it_tells_which_namespaces_have_a_document(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory:
        for namespace, name in ((("a",), "x"), (("a", "b"), "x"), (("a", "c"), "y"), (("ab",), "x")):
            memory.add([Document("some words", id=name)], namespace=namespace)
        with memory.snapshot() as snapshot:

            def holding(namespace, name):
                return [row.namespace for row in snapshot.holding(namespace, name)]

            assert holding((), "x") == [("a",), ("a", "b"), ("ab",)]
            assert holding(("a",), "x") == [("a",), ("a", "b")]
            assert holding(("a", "c"), "x") == holding((), "z") == []
