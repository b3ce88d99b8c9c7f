"""The functions below `Snapshot` and `Edit`: what each reads from the file, and writes there."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin import Document, InvalidInputError, InvalidTypeError, MemoryConfig, MemoryIndex, TreeConfig
from mllm_plugin.encoders.identity import sample_of
from mllm_plugin.hierarchy import Hierarchy, document_mark
from mllm_plugin.store import listing, times
from mllm_plugin.store.decoded import stored_fingerprint
from mllm_plugin.store.documents import (
    document_state,
    drop_masks,
    missing_chunks,
    same_text,
    select_documents,
)
from mllm_plugin.store.namespaces import check_namespace, create_namespace, find_namespace, namespaces_below
from mllm_plugin.store.nodes import SqlNodeStore, leaf_nodes, load_children
from mllm_plugin.store.settings import load_probes, load_settings, note_reader, save_probes, weights_that_saw
from mllm_plugin.store.statistics import chunk_count, namespace_stats, text_bytes
from mllm_plugin.store.times import EXPIRED, Times, When, given_times, stamped
from mllm_plugin.store.writer import (
    add_terms,
    next_version,
    posted_terms,
    rebuild_postings,
    remove_terms,
    shift_live_terms,
)
from mllm_plugin.text.lexical import TermCounts, term_hash
from mllm_plugin.tree.node import EmbeddingChunk, Node
from tests.helpers.file_tools import own_database
from tests.helpers.toy import ToyEncoder

LIVE = "d.masked = 0"


@pytest.fixture
def tx(stocked):
    """A write transaction on a memory of three documents: lighthouse, kettle, fox."""
    with own_database(stocked).write() as connection:
        yield connection


@pytest.fixture
def home(tx):
    return find_namespace(tx, ())


def ids(tx, rows, what=None):
    found = listing.listed_documents(tx, rows, what or listing.Listing(), LIVE)
    query = "SELECT id FROM documents WHERE document_rowid = ?"
    return [tx.execute(query, (rowid,)).get for _, rowid in found]


# -- namespaces


def test_a_namespace_is_made_once_and_found_by_prefix(tx):
    made = [create_namespace(tx, name) for name in [("a",), ("a", "b"), ("ab",), ("a",)]]
    assert made[0] == made[3] == find_namespace(tx, ("a",))
    assert [row.namespace for row in namespaces_below(tx, ("a",))] == [("a",), ("a", "b")]
    assert find_namespace(tx, ("b",)) is None


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("", InvalidInputError),
        (("a", "b\x1fc"), InvalidInputError),
        (("\ud800",), InvalidInputError),
        (3, InvalidTypeError),
        (("a", 1), InvalidTypeError),
    ],
)
def test_a_namespace_has_parts_that_can_be_told_apart(given, error):
    with pytest.raises(error):
        check_namespace(given)
    assert check_namespace("a") == check_namespace(["a"]) == ("a",)


# -- documents


def test_documents_are_selected_by_all_that_is_given(tx, home):
    def chosen(**given):
        options = {"ids": None, "condition": None, "label": None, **given}
        return select_documents(tx, home.namespace_id, **options)

    assert len(chosen(condition={}).rowids) == 3
    assert chosen(ids=["fox", "none", "fox", "\ud800"]).missing == ("none", "\ud800")
    assert chosen(ids=["fox", "kettle"], condition={"year": {"$lt": 2000}}).missing == ("fox",)
    assert chosen(label="sea").rowids == chosen(ids=["lighthouse"]).rowids
    with pytest.raises(InvalidInputError):
        chosen()


def test_the_state_of_a_document_tells_whether_it_changed(tx, home, stocked):
    fox = document_state(tx, home.namespace_id, "fox")
    assert fox is not None
    (document,) = stocked.get("fox")
    assert same_text(fox, document, True)
    assert not same_text(fox, document, False)
    assert document_state(tx, home.namespace_id, "none") is None
    assert drop_masks(tx, [fox.rowid], None) == []  # it was live
    assert missing_chunks(tx, [10_000]) == [10_000]


def test_what_has_expired_stays_masked_for_that_alone(tx, home):
    fox = document_state(tx, home.namespace_id, "fox")
    assert fox is not None
    kept = fox._replace(masks=(EXPIRED, "draft"), times=Times(hidden=1)).masks_kept()
    assert kept == ("draft",)
    assert fox._replace(masks=(EXPIRED,)).masks_kept() == (EXPIRED,)  # the caller's own mask of that name


def test_documents_are_listed_in_either_order_and_counted(tx, home):
    ordered = listing.Listing(order="id")
    assert ids(tx, [home]) == ["lighthouse", "kettle", "fox"]
    assert ids(tx, [home], ordered) == ["fox", "kettle", "lighthouse"]
    assert ids(tx, [home], ordered._replace(order="-id", limit=1, offset=1)) == ["kettle"]
    assert ids(tx, [home], listing.Listing(masked=True)) == []
    some = listing.Listing({"year": {"$gte": 1950}})
    assert listing.count_documents(tx, [home], some, LIVE) == 2
    assert len(listing.ORDERS) == 12


def test_counts_are_those_of_the_rows(tx, home, stocked):
    found = namespace_stats(tx, home)
    assert (found.documents, found.masked_documents, found.chunks, found.live_chunks) == (3, 0, 3, 3)
    assert [(level.level, level.embeddings, level.groups) for level in found.levels] == [(1, 3, 1)]
    assert chunk_count(tx, home.namespace_id) == 3
    assert text_bytes(tx) == sum(len(one.text.encode()) for one in stocked.documents())


# -- nodes


def test_a_node_comes_back_as_it_was_saved(tx, home):
    store = SqlNodeStore(tx, home.namespace_id, 16, next_version(tx))
    first, second = store.new_id(), store.new_id()
    assert second == first + 1
    vectors = np.arange(32, dtype=np.float16).reshape(2, 1, 16)
    terms = TermCounts.of(["red", "blue sky"])
    children = EmbeddingChunk.of_chunks(np.array([7, 9]), vectors, np.array([True, False]), terms)
    store.save(Node(first, 2, None, children))
    store.set_parent(first, home.root_id)
    loaded = store.load(first)
    assert (loaded.level, loaded.parent_id) == (2, home.root_id)
    assert loaded.children.vectors.tobytes() == vectors.tobytes()
    assert loaded.children.live.tolist() == [1, 0]
    assert load_children(tx, first, 16).terms.hashes.tolist() == terms.hashes.tolist()
    assert leaf_nodes(tx, home.namespace_id).keys() == {home.root_id, first}
    store.delete(first)
    assert leaf_nodes(tx, home.namespace_id).keys() == {home.root_id}


# -- words


def test_a_rare_word_has_postings_until_it_is_frequent_and_again(tx, home):
    space, word = create_namespace(tx, ("words",)).namespace_id, term_hash("zebra")

    def posted():
        query = "SELECT chunk_id FROM postings WHERE namespace_id = ? AND term = ?"
        return [chunk for (chunk,) in tx.execute(query, (space, word))]

    def counts():
        return tx.execute(
            "SELECT live, total FROM terms WHERE namespace_id = ? AND term = ?", (space, word)
        ).get

    terms, live = TermCounts.of(["zebra zebra", "zebra"]), np.array([True, False])
    add_terms(tx, space, np.array([1, 2]), terms, live, 2)
    assert (posted(), counts()) == ([1, 2], (1, 2))
    assert word in posted_terms(tx, space)
    one = TermCounts.of(["zebra"])
    add_terms(tx, space, np.array([3]), one, np.array([True]), 2)
    assert (posted(), counts()) == ([], (2, 3))
    shift_live_terms(tx, space, one, -1)
    assert counts() == (1, 3)
    remove_terms(tx, space, np.array([3]), one, np.array([False]))
    block = EmbeddingChunk.of_chunks(np.array([1, 2]), np.zeros((2, 1, 4), np.float16), live, terms)
    assert rebuild_postings(tx, space, [block], 2) == 1
    assert posted() == [1, 2]
    remove_terms(tx, space, np.array([1, 2]), terms, live)
    assert (posted(), counts()) == ([], None)


# -- times


def test_a_document_that_is_written_again_was_created_once():
    first = stamped(Document("a", id="a"), 5, 100, None, None)
    again = stamped(Document("b", id="a", expires_at="2030-01-01"), 5, 200, first, None)
    assert (first.created, first.updated, first.version) == (100, 100, 5)
    assert (again.created, again.updated, again.version) == (100, 200, 6)  # told apart within a write
    copied = stamped(Document("b", id="a"), 1, 300, None, again)
    assert (copied.created, copied.updated, copied.version) == (100, 200, 6)


def test_what_holds_from_and_to():
    given = given_times(Document("a", valid_from="1970-01-01T00:00:01Z", valid_to="1970-01-01T00:00:02Z"))
    assert given == (None, 1_000_000, 2_000_000)
    with pytest.raises(InvalidInputError, match="comes before"):
        given_times(Document("a", valid_from="2020-01-02", valid_to="2020-01-01"))


def test_only_what_restricts_makes_a_condition():
    assert not When().restricts()
    assert times.ALWAYS.condition(LIVE, None) == (LIVE, ())
    clause, parameters = When(since=5, as_of=7).condition(LIVE, 3)
    assert parameters == (5, 7, 7)
    assert clause.startswith(f"{LIVE} AND ")
    through, parameters = When(include_masked=("draft",)).condition(LIVE, 3)
    assert LIVE not in through
    assert "t.expires > 3" in through
    assert parameters == ('["draft"]',)


def test_what_is_overdue_is_found_once(tx, home):
    fox = document_state(tx, home.namespace_id, "fox")
    assert fox is not None
    times.save_times(tx, fox.rowid, Times(expires=10))
    assert times.last_overdue(tx, 9) is None
    assert times.last_overdue(tx, 10) == 10
    assert times.overdue(tx, 10, 5) == {home.namespace_id: [fox.rowid]}
    times.set_hidden(tx, [fox.rowid])
    assert times.overdue(tx, 10, 5) == {}
    assert times.expired_ids(tx, home.namespace_id, 10) == ["fox"]
    assert times.load_times(tx, fox.rowid) == Times(expires=10, hidden=1)


# -- what a memory was made with


def test_settings_are_those_that_it_was_made_with(tmp_path):
    config = MemoryConfig(tree=TreeConfig(fan_out=7))
    with MemoryIndex.open(tmp_path, encoder=ToyEncoder(), config=config) as memory:
        found = load_settings(own_database(memory))
    assert found is not None
    assert (found.fingerprint, found.dim, found.hierarchy) == ("toy:16:1", 16, "identity")
    assert found.resolve(None).tree.fan_out == 7
    assert (
        found.resolve(MemoryConfig(tree=TreeConfig(fan_out=7), search={"beam_width": 3})).search.beam_width
        == 3
    )
    with pytest.raises(InvalidInputError, match="tree="):
        found.resolve(MemoryConfig(tree=TreeConfig(fan_out=8)))


def test_probes_are_what_was_kept_or_some_chunks(tx):
    own = load_probes(tx, 16)
    assert own is not None
    assert "a fox crosses the frozen river at dawn" in own.texts
    made = sample_of(ToyEncoder())
    save_probes(tx, made)
    kept = load_probes(tx, 16)
    assert kept is not None
    assert kept.texts == made.texts
    np.testing.assert_allclose(kept.documents, made.documents, atol=1e-3)  # as float16


def test_weights_know_which_documents_they_have_seen(tx, home):
    assert stored_fingerprint(tx) == Hierarchy().fingerprint
    fox = document_state(tx, home.namespace_id, "fox")
    kettle = document_state(tx, home.namespace_id, "kettle")
    assert fox is not None
    assert kettle is not None
    note_reader(tx, "folder", [document_mark((), "fox")])
    assert weights_that_saw(tx, (), [kettle.rowid]) == ()
    note_reader(tx, "folder", [document_mark((), "kettle")])  # beside what it had seen before
    assert (
        weights_that_saw(tx, (), [kettle.rowid])
        == weights_that_saw(tx, (), [fox.rowid])
        == ("adapter:folder",)
    )
