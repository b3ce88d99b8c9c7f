from __future__ import annotations

import itertools
import json

import pytest

from mllm_plugin import Document, InvalidInputError, MemoryConfig, MemoryIndex, SearchConfig, TreeConfig
from tests.helpers.recall_tools import CONFIG, many_documents


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    from tests.helpers.toy import ToyEncoder

    folder = tmp_path_factory.mktemp("search")
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=CONFIG) as memory:
        memory.add(many_documents(500))
        yield memory


def _key(hits):
    return [(hit.document_id, hit.start, hit.score) for hit in hits]


@pytest.mark.parametrize("query", ["w1 w2 w3", "w5", "nothing here is known", "w9 id77"])
def test_beam_over_everything_equals_flat_equals_exact(library, query):
    exact = library.search(query, k=20, exact=True)
    assert _key(library.search(query, k=20, mode="beam", beam_width=10_000)) == _key(exact)
    assert _key(library.search(query, k=20, mode="flat")) == _key(exact)


@pytest.mark.parametrize("mode", ["beam", "flat", "exact"])
def test_batch_equals_single(library, mode):
    queries = ["w1 w2 w3", "w7 w8", "w1 " * 300, "id42"]
    batch = library.search_batch(queries, k=7, mode=mode)
    assert [_key(hits) for hits in batch] == [
        _key(library.search(query, k=7, mode=mode)) for query in queries
    ]


@pytest.mark.parametrize("mode", ["beam", "flat", "exact", "auto"])
@pytest.mark.parametrize("last", [3, 40, 499])
def test_filters_return_k_whenever_k_match(library, mode, last):
    hits = library.search("w1 w2", k=4, mode=mode, beam_width=1, filter={"n": {"$lte": last}})
    assert len(hits) == 4
    assert all(hit.metadata["n"] <= last for hit in hits)


def test_narrow_beam_returns_k_without_a_filter(library):
    assert len(library.search("w1", k=200, mode="beam", beam_width=1)) == 200


def test_a_rare_word_routes_past_a_narrow_beam(library):
    for number in range(0, 500, 50):
        hits = library.search(f"w1 w2 w3 w4 id{number}", k=500, mode="beam", beam_width=1)
        assert f"d{number}" in [hit.document_id for hit in hits]


def test_excluded_labels_are_left_out_for_one_search(library):
    hits = library.search("w1", k=500, exclude_labels=["odd"])
    assert len(hits) == 250
    assert all(int(hit.document_id[1:]) % 2 == 0 for hit in hits)
    assert len(library.search("w1", k=500)) == 500


def test_paths_lead_from_the_top_level_down(library):
    (stats,) = library.stats().namespaces
    for hit in library.search("w1 w2 w3", k=5):
        assert [step.level for step in hit.path] == list(range(len(stats.levels), 0, -1))
        assert hit.path[-1] == (1, hit.chunk_id, hit.score)


def test_vector_queries_and_given_embeddings(library):
    text = "w1 w2 w3"
    vector = library.encoder.encode_queries([text])[0]
    assert _key(library.search(text, k=5, embedding=vector)) == _key(library.search(text, k=5))
    dense = library.search(vector, k=5)
    assert [hit.score for hit in dense] == [hit.score for hit in library.search(7 * vector, k=5)]
    assert dense[0].score < 2.0 + 1e-6


def test_equal_texts_come_in_order_of_document_id(tmp_path, encoder):
    names = ["b", "d", "a", "c", "e"]
    for mode, order in itertools.product(["beam", "flat", "exact"], [names, names[::-1]]):
        with MemoryIndex.open(tmp_path / f"{mode}{order[0]}", encoder=encoder) as memory:
            memory.add([Document("same text", id=name) for name in order])
            assert [hit.document_id for hit in memory.search("same", k=3, mode=mode)] == ["a", "b", "c"]


def test_unique_documents_overfetches_until_k_are_found(tmp_path, encoder):
    config = MemoryConfig(tree=TreeConfig(fan_out=4), search=SearchConfig(rescore=5, beam_width=1))
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, config=config) as memory:
        long = " ".join(f"apple sentence{n} apple." for n in range(600))
        memory.add([Document(long, id="long"), *(Document(f"pear {n}", id=f"p{n}") for n in range(9))])
        for mode in ("beam", "flat", "exact"):
            hits = memory.search("apple", k=10, mode=mode, unique_documents=True)
            assert len(hits) == 10
            assert len({hit.document_id for hit in hits}) == 10
            assert hits[0].document_id == "long"


def test_prefix_walks_each_namespace_by_itself_and_merges(tmp_path, encoder):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as memory:
        memory.add([Document("apple pie", id="x")], namespace=("users", "1"))
        memory.add([Document("apple tart", id="x")], namespace=("users", "2"))
        memory.add([Document("apple cake", id="x")], namespace=("usersother",))
        hits = memory.search("apple", k=9, namespace="users", prefix=True)
        assert sorted(hit.namespace for hit in hits) == [("users", "1"), ("users", "2")]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len(memory.search("apple", k=9, prefix=True)) == 3
        assert memory.search("apple", k=9) == []


def test_score_is_independent_of_the_other_chunks_found(library):
    one = library.search("w1 w2 w3", k=1)[0]
    among_many = next(hit for hit in library.search("w1 w2 w3", k=300) if hit.chunk_id == one.chunk_id)
    narrow = library.search("w1 w2 w3", k=1, filter={"n": one.metadata["n"]})[0]
    assert one.score == among_many.score == narrow.score


def test_relevance_rises_with_the_score(library):
    hits = library.search("w1 w2 w3", k=100)
    relevance = [hit.relevance for hit in hits]
    assert relevance == sorted(relevance, reverse=True)
    assert all(0 <= value <= 1 for value in relevance)


async def test_async_twins_return_the_same(library):
    assert _key(await library.asearch("w1 w2", k=3)) == _key(library.search("w1 w2", k=3))
    (batch,) = await library.asearch_batch(["w1 w2"], k=3)
    assert _key(batch) == _key(library.search("w1 w2", k=3))


def test_embeddings_scored_counts_the_walk(library):
    walked = library.search("w1", mode="beam", beam_width=2).statistics
    everything = library.search("w1", exact=True).statistics
    assert 0 < walked.embeddings_scored < everything.embeddings_scored == 500
    assert 0 == everything.nodes_visited < walked.nodes_visited < 500
    assert (walked.mode, everything.mode) == ("beam", "exact")


def test_misuse_is_refused(library):
    with pytest.raises(InvalidInputError, match="k must be at least 1"):
        library.search("w1", k=0)
    with pytest.raises(InvalidInputError, match="unknown mode"):
        library.search("w1", mode="fuzzy")


def test_results_as_dictionaries_name_every_field(memory):
    memory.add([Document(f"herons eat fish {n}", id=f"{n}") for n in range(3)])
    hit = memory.search("herons", k=1)[0]
    step = hit.path[-1]
    assert hit.to_dict()["path"][-1] == {"level": 1, "node_id": step.node_id, "score": step.score}
    recalled = memory.recall("herons", k=1)
    found = json.loads(json.dumps(recalled.to_dict()))
    assert found["hits"] == [json.loads(json.dumps(hit.to_dict()))]
    assert len(found["levels"]["1"][0]["vectors"][0]) == memory.dim


def test_a_recall_prints_what_it_is(memory):
    memory.add([Document("herons eat fish", id="a")])
    recalled = memory.recall("herons", k=1)
    assert repr(recalled) == "<Recall for 'herons': 1 hits; embeddings: 1 of level 0, 1 of level 1>"
    chunk = recalled.levels[1][0]
    assert repr(chunk) == f"<level 1, chunk {chunk.node_id}, 'a'[0:15], score {chunk.score:.3f}>"
    assert "array" not in str((recalled, *recalled.levels.values()))
