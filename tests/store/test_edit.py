"""What one transaction changes, and how a check finds what does not agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_plugin import Document, MaskReport, MemoryConfig, NotFoundError
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.store.decoded import HierarchyInUse
from mllm_plugin.store.documents import Which
from mllm_plugin.store.edit import Edit, Removed, StaleError
from mllm_plugin.store.namespaces import find_namespace
from mllm_plugin.store.values import metadata_json, parsed_metadata, postings
from mllm_plugin.store.verify import found_in, verify_store
from mllm_plugin.store.verify_namespace import NamespaceCheck
from mllm_plugin.store.writer import NamespaceWriter, next_version
from tests.helpers.file_tools import own_database

CONFIG = MemoryConfig()


@pytest.fixture
def tx(stocked):
    with own_database(stocked).write() as connection:
        yield connection


@pytest.fixture
def edit(tx):
    return Edit(tx, CONFIG, HierarchyInUse(CONFIG.leaf), 16)


def problems(tx, memory) -> tuple[str, ...]:
    hierarchy = lambda _: Hierarchy()  # noqa: E731
    path = own_database(memory).path
    return verify_store(tx, path=path, config=CONFIG, hierarchy_of=hierarchy, dim=16).problems


def test_an_edit_removes_masks_and_says_what_was_not_there(tx, edit, stocked):
    assert edit.mask((), Which(ids=["fox"]), "draft") == MaskReport(1, 1)
    assert edit.unmask((), Which(ids=["fox"]), None) == MaskReport(1, 1)
    assert edit.remove((), Which(ids=["fox", "none"])) == (1, 1, ("none",), ())
    with pytest.raises(NotFoundError, match="'fox' in namespace"):
        edit.unmask((), Which(ids=["fox"]), None)
    assert problems(tx, stocked) == ()
    assert Removed(1, 2, ("a",), ("w",)).joined(Removed(3, 4, (), ("w", "v"))) == (4, 6, ("a",), ("w", "v"))


def test_what_changed_since_it_was_prepared_is_refused(edit):
    assert edit.put((), [], []) == (0, 0, 0, 0)
    with pytest.raises(StaleError):
        edit.put((), [Document("another text", id="fox")], [])


def test_a_writer_keeps_rows_statistics_and_tree_in_step(tx, stocked):
    row = find_namespace(tx, ())
    before = next_version(tx)
    writer = NamespaceWriter(tx, row, config=CONFIG, fold=Hierarchy().fold, dim=16)
    rowids = [tx.execute("SELECT document_rowid FROM documents WHERE id = 'fox'").get]
    assert writer.set_masked(rowids, True) == 1
    assert writer.remove([]) == 0
    writer.finish()
    after = find_namespace(tx, ())
    assert (after.live_chunks, after.version) == (2, before + 1)
    assert after.live_terms < row.live_terms
    tx.execute("INSERT INTO masks VALUES (?, 'draft')", rowids)
    assert problems(tx, stocked) == ()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE documents SET masked = 1 WHERE id = 'fox'", "masked"),
        ("UPDATE namespaces SET live_chunks = 7", "counts of live chunks"),
        ("DELETE FROM postings", "posting"),
        ("UPDATE terms SET live = live + 1", "term"),
        ("DELETE FROM metadata", "metadata"),
        ("UPDATE blocks SET total = x'00'", "node"),
    ],
)
def test_a_check_says_what_does_not_agree(tx, stocked, damage, told):
    assert problems(tx, stocked) == ()
    tx.execute(damage)
    found = problems(tx, stocked)
    assert found
    assert told in " ".join(found)


def test_a_check_counts_what_it_looked_at(tx):
    row = find_namespace(tx, ())
    check = NamespaceCheck(tx, row, CONFIG, Hierarchy().fold, 16, 0.0)
    assert [text for part in check.parts() for text in part()] == []
    assert check.checked["documents"] == check.checked["chunks"] == 3

    def early():
        yield "one"
        raise KeyError("two")

    assert len(list(found_in("tree", early, Path("memory.db")))) == 2


def test_metadata_is_posted_as_filters_look_for_it():
    stored = metadata_json({"b": [1, "x" * 300], "a": {"c": True}, "z": None})
    assert parsed_metadata(stored) == {"b": [1, "x" * 300], "a": {"c": True}, "z": None}
    found = {(one.key, one.kind) for one in postings(parsed_metadata(stored))}
    assert found == {("b", "n"), ("b", "l"), ("a.c", "b"), ("z", "z")}
