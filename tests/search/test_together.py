"""Many small namespaces are scanned together, and every hit is what a scan of its own would make of it."""

from __future__ import annotations

import random

import pytest

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.search import engine
from tests.helpers.robustness_tools import SMALL_GROUPS
from tests.helpers.toy import ToyEncoder

WORDS = ["runs", "running", "cat", "cats", "the", "lamp", "river", "x17", "moon", "moons", "old", "key"]
QUERIES = [
    "a cat and the moon",
    "the cat runs",
    "moon",
    "x17 keys of the old river",
    "nothing here",
    "the the cats",
    "?!",
]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """Forty namespaces, some with masked documents, one with nothing live, one with a tree of some levels."""
    draw = random.Random(0)
    with MemoryIndex.open(
        tmp_path_factory.mktemp("many") / "memory", encoder=ToyEncoder(), config=SMALL_GROUPS
    ) as memory:
        for user in range(40):
            documents = [
                Document(
                    ". ".join(" ".join(draw.choices(WORDS, k=draw.randrange(1, 9))) for _ in range(2)),
                    id=f"{number}",
                    metadata={"even": number % 2 == 0},
                    labels=("low",) if number % 5 == 0 else (),
                )
                for number in range(60 if user == 7 else draw.randrange(1, 7))
            ]
            memory.add(documents, namespace=("a", f"u{user}"))
        for user in range(0, 40, 3):
            memory.mask(["0"], label="aside", namespace=("a", f"u{user}"))
        memory.mask(filter={}, namespace=("a", "u5"))
        yield memory


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """Ages are those of one moment."""
    monkeypatch.setattr("mllm_plugin.clock.micros_now", lambda: 1_900_000_000_000_000)


def hits(memory: MemoryIndex, **options) -> list[list]:
    found = memory.search_batch(QUERIES, namespace=("a",), prefix=True, **options)
    return [[*own, own.statistics.embeddings_scored, own.statistics.mode] for own in found]


OPTIONS = {
    "plain": {},
    "all": {"k": 500},
    "filter": {"filter": {"even": True}},
    "labels": {"exclude_labels": ["low"]},
    "documents": {"unique_documents": True, "k": 40},
    "masked": {"include_masked": ["aside"]},
    "recency": {"recency": 100.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_hits_are_those_of_each_namespace(memory, monkeypatch, options):
    together = hits(memory, **options)
    monkeypatch.setattr(engine, "_MANY", 1000)
    apart = hits(memory, **options)
    assert any(len(own) > 4 for own in apart)
    assert together == apart


def test_after_edits(memory, monkeypatch):
    hits(memory)
    memory.add([Document("a cat and the moon", id="new")], namespace=("a", "u3"))
    memory.remove(["1"], namespace=("a", "u7"))
    together = hits(memory)
    assert any(hit.document_id == "new" for hit in together[0][:-2])
    monkeypatch.setattr(engine, "_MANY", 1000)
    assert together == hits(memory)


def test_few_finalists_are_the_best_of_all(memory, monkeypatch):
    """Where not all chunks are finalists, the best of all are, as in one namespace."""
    where = {"namespace": ("a",), "prefix": True, "k": 5}
    searcher = memory._handle.searcher
    monkeypatch.setattr(searcher, "_search", memory.config.search.model_copy(update={"rescore": 30}))
    found = memory.search_batch(QUERIES, **where)
    whole = memory.search_batch(QUERIES, **where, mode="exact")
    same = [{*places(one)} & {*places(other)} for one, other in zip(found, whole, strict=True)]
    assert sum(map(len, same)) >= 0.9 * 5 * len(QUERIES)


def places(found: list) -> list[tuple]:
    return [(hit.namespace, hit.document_id, hit.score) for hit in found]
