"""What happens in one namespace shows in no other: searches, scores, masks, removals, embeddings."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mllm_plugin import Document, MaskReport, MemoryIndex
from tests.helpers.robustness_tools import KEPT, MODES, block_rows, rows
from tests.helpers.toy import ToyEncoder

ANNA, BOB = ("users", "anna"), ("users", "bob")


@pytest.fixture
def tenants(memory):
    """Two namespaces with the same ids and words, and the root with none of them."""
    for namespace in (ANNA, BOB):
        memory.add(list(tenants_documents(namespace[-1])), namespace=namespace)
    memory.add(KEPT)
    return memory


@pytest.mark.parametrize("mode", MODES)
def test_search_does_not_leak(tenants, mode):
    assert {hit.namespace for hit in tenants.search("password tulip", k=9, namespace=ANNA, mode=mode)} == {
        ANNA
    }
    assert {hit.namespace for hit in tenants.search("password tulip", k=9, mode=mode)} == {()}
    assert tenants.search("password", k=9, namespace=("users",), mode=mode) == []
    below = tenants.search("password tulip", k=9, namespace=("users",), prefix=True, mode=mode)
    assert {hit.namespace for hit in below} == {ANNA, BOB}
    assert tenants.search("password", k=9, namespace="us", prefix=True, mode=mode) == []


@pytest.mark.parametrize("mode", ["flat", "exact"])
def test_scores_do_not_depend_on_other_namespaces(tenants, tmp_path, mode):
    with MemoryIndex.open(tmp_path / "alone", encoder=ToyEncoder()) as alone:
        alone.add(list(tenants_documents("anna")), namespace=ANNA)
        mine = [
            (hit.document_id, hit.score) for hit in tenants.search("tulip sailing", namespace=ANNA, mode=mode)
        ]
        assert mine == [
            (hit.document_id, hit.score) for hit in alone.search("tulip sailing", namespace=ANNA, mode=mode)
        ]


def tenants_documents(name):
    yield Document(
        f"the password of {name} is tulip", id="note", metadata={"owner": name}, labels=("private",)
    )
    yield Document(f"{name} likes sailing", id="hobby", metadata={"owner": name})


def test_get_and_listing_do_not_leak(tenants):
    assert [document.namespace for document in tenants.get(["note", "fox"], namespace=ANNA)] == [ANNA]
    assert tenants.get(["note"]) == []
    assert {document.namespace for document in tenants.documents(namespace=ANNA)} == {ANNA}
    assert list(tenants.documents(namespace=ANNA, filter={"owner": "bob"})) == []
    assert [record["namespace"] for record in tenants.export(namespace=ANNA, prefix=False)] == [
        list(ANNA)
    ] * 2
    assert tenants.namespaces(("users",)) == [ANNA, BOB]


MASKINGS = {
    "ids": {"ids": ["note"]},
    "label": {"label": "private"},
    "filter": {"filter": {}},
}


@pytest.mark.parametrize("options", MASKINGS.values(), ids=MASKINGS)
def test_masks_do_not_leak(tenants, options):
    others = [row for row in block_rows(tenants) if row[0] not in homes_of(tenants, ANNA)]
    tenants.mask(namespace=ANNA, **options)
    assert "note" not in {hit.document_id for hit in tenants.search("password", namespace=ANNA)}
    assert tenants.search("password", k=1, namespace=BOB)[0].document_id == "note"
    assert not any(document.masks for document in tenants.documents(namespace=BOB))
    assert [row for row in block_rows(tenants) if row[0] not in homes_of(tenants, ANNA)] == others
    assert tenants.unmask(namespace=BOB) == MaskReport(0, 0)
    assert tenants.unmask() == MaskReport(0, 0)
    assert tenants.unmask(namespace=ANNA).documents > 0
    assert tenants.verify().problems == ()


@pytest.mark.parametrize("options", MASKINGS.values(), ids=MASKINGS)
def test_removals_do_not_leak(tenants, options):
    assert tenants.remove(namespace=ANNA, **options).erased
    assert tenants.get(["note"], namespace=ANNA) == []
    assert [document.id for document in tenants.documents(namespace=BOB)] == ["note", "hobby"]
    assert tenants.search("password tulip", k=1, namespace=BOB)[0].text == "the password of bob is tulip"
    assert tenants.verify().problems == ()


def test_updates_and_embeddings_do_not_leak(tenants):
    seen = len(tenants.encoder.encoded)
    tenants.add([Document("the password of bob is tulip", id="note")], namespace=ANNA)
    assert len(tenants.encoder.encoded) == seen + 1, "an embedding was taken from another namespace"
    assert tenants.get(["note"], namespace=BOB)[0].metadata == {"owner": "bob"}


def homes_of(memory: MemoryIndex, namespace: tuple[str, ...]) -> set[int]:
    path = "".join(f"{part}\x1f" for part in namespace)
    query = "SELECT node_id FROM nodes JOIN namespaces USING (namespace_id) WHERE path = ?"
    return {node_id for (node_id,) in rows(memory, query, (path,))}


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "b"), ("ab",)), (("a",), ("a", "a")), (("a", "b"), ("a", "B")), (("é",), ("e\u0301",))],
    ids=ascii,
)
def test_namespaces_that_look_alike_differ(memory, one, other):
    memory.add([Document("first", id="x")], namespace=one)
    memory.add([Document("second", id="x")], namespace=other)
    assert memory.get(["x"], namespace=one)[0].text == "first"
    assert memory.get(["x"], namespace=other)[0].text == "second"
    memory.remove(["x"], namespace=one)
    assert memory.get(["x"], namespace=other)[0].text == "second"
    for longer, shorter in pairwise((one, other)):
        assert longer != shorter
