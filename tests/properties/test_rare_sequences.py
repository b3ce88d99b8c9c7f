"""Sequences that a random history seldom meets, each once found to go wrong."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from mllm_plugin import Document, MemoryConfig, MemoryIndex, SearchConfig, TreeConfig
from mllm_plugin.store.cache import EmbeddingCache, hash_text
from tests.helpers.toy import ToyEncoder


@pytest.mark.parametrize("fan_out", [2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_tiny_groups_are_settled_in_the_end(tmp_path, fan_out, seed):
    """Merging a small group may make a large one, and splitting that small ones again."""
    rng = np.random.default_rng(seed)
    config = MemoryConfig(tree=TreeConfig(fan_out=fan_out, cap_factor=2))
    live: list[str] = []
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(4), config=config) as memory:
        for step in range(12):
            names = [f"{step}-{number}" for number in range(int(rng.integers(1, 40)))]
            vectors = rng.normal(size=(len(names), 4)).round(int(rng.integers(0, 2)))
            memory.add([Document("word", id=name) for name in names], embeddings=vectors)
            live += names
            gone = set(rng.choice(live, size=int(rng.integers(0, len(live))), replace=False).tolist())
            memory.remove(sorted(gone))
            live = [name for name in live if name not in gone]
            assert memory.verify().problems == ()
        assert memory.stats().chunks == len(live)


def test_a_cache_that_is_not_used_is_erased_too(tmp_path):
    folder, text = tmp_path / "memory", "canary in a cage"
    with MemoryIndex.open(folder, encoder=ToyEncoder()) as memory:
        memory._handle.ingest.prepare([Document(text, id="a")], (), True)  # and killed before the write
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=MemoryConfig(embedding_cache=False)) as memory:
        memory.add([Document(text, id="a")])
        assert memory.remove(["a"]).erased
    cache = EmbeddingCache(folder, ToyEncoder().fingerprint, 16)
    assert cache.get(hash_text((), text)) is None
    cache.close()


def test_a_removal_that_is_committed_is_reported_whoever_writes_next(tmp_path):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), timeout=0.3) as memory:
        memory.add([Document("one", id="a"), Document("two", id="b")])
        holding, done = threading.Event(), threading.Event()
        original = memory._handle.database.truncate_log

        def hold() -> None:
            with memory._handle.database.write():
                holding.set()
                done.wait(5)

        def truncate(wait: float) -> bool:
            thread.start()
            holding.wait(5)
            return original(wait)

        thread = threading.Thread(target=hold)
        memory._handle.database.truncate_log = truncate
        report = memory.remove(["a"], wait=0.05)
        done.set()
        thread.join()
        memory._handle.database.truncate_log = original
        assert (report.documents, report.erased) == (1, False)
        assert memory.remove(["b"]).erased


def test_an_import_that_another_writer_overtakes_is_repeated(tmp_path):
    with (
        MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as other,
        MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as memory,
    ):
        memory.add([Document("the text", id="a")])
        records = list(memory.export())
        states = memory._handle.ingest.states
        calls = []

        def overtaken(documents, namespace):
            found = states(documents, namespace)
            if not calls:
                other.add([Document("another text", id="a")])
            calls.append(1)
            return found

        memory._handle.ingest.states = overtaken
        memory.import_records(records)
        assert len(calls) == 2
        assert memory.get(["a"])[0].text == "the text"


@pytest.mark.parametrize("mode", ["beam", "flat"])
def test_unique_documents_in_a_batch_are_those_of_single_searches(tmp_path, mode):
    config = MemoryConfig(tree=TreeConfig(fan_out=4), search=SearchConfig(rescore=4, beam_width=1))
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), config=config) as memory:
        long = " ".join(f"w1 filler{number}." for number in range(600))
        memory.add([Document(long, id="long")])
        memory.add([Document(f"w{n % 40} w{n % 17} w{n % 5}", id=str(n)) for n in range(300)])
        queries = [f"w{number} w{number % 7}" for number in range(12)] + ["w1 filler3"]
        batch = memory.search_batch(queries, k=4, mode=mode, unique_documents=True)
        single = [memory.search(query, k=4, mode=mode, unique_documents=True) for query in queries]
        assert batch == single


def test_large_batches_are_searched_in_groups(memory):
    memory.add([Document(f"w{n} w{n % 9}", id=str(n)) for n in range(200)])
    queries = [f"w{n}" for n in range(150)]
    batch = memory.search_batch(queries, k=2)
    assert batch == [memory.search(query, k=2) for query in queries]
    assert [found.statistics.embeddings_scored for found in batch] == [200] * 150


def test_adding_nothing_makes_no_namespace(memory):
    memory.add([], namespace="ghost")
    memory.add([], embeddings=[], namespace="ghost")
    assert memory.namespaces() == []


def test_a_vector_from_the_caller_stays_the_callers_after_a_move(tmp_path, memory):
    memory.add([Document("hello world", id="a")], embeddings=[np.eye(16)[0]])
    with MemoryIndex.open(tmp_path / "moved", encoder=ToyEncoder()) as moved:
        moved.import_records(list(memory.export()))
        assert list(moved.export()) == list(memory.export())
        assert moved.add([Document("hello world", id="b")]).encoded == 1


def test_scans_follow_many_small_edits(memory):
    for number in range(40):
        memory.add([Document(f"w{number} w{number % 3}", id=str(number))])
        memory.mask([str(number // 2)])
        found = {hit.document_id for hit in memory.search("w1", k=100, mode="flat")}
        assert found == {str(n) for n in range(number // 2 + 1, number + 1)}
