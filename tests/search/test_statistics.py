"""Results carry the statistics of their search, whatever thread or task it ran in."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from mllm_plugin import Hit, Hits, MemoryIndex, SearchStatistics
from tests.helpers.recall_tools import CONFIG, many_documents
from tests.helpers.toy import ToyEncoder

STAGES = {"encode", "walk", "score", "fetch"}
WORK = [("beam", 1), ("beam", 4), ("beam", 30), ("flat", 1), ("exact", 1)]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics")
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=CONFIG) as memory:
        memory.add(many_documents(300))
        memory.add(many_documents(20), namespace=("a", "b"))
        memory.add(many_documents(20), namespace=("a", "c"))
        yield memory


def counts(found: Hits) -> tuple[str, int, int]:
    statistics = found.statistics
    return statistics.mode, statistics.embeddings_scored, statistics.nodes_visited


def test_what_a_search_did(stocked):
    found = stocked.search("w1 w2", mode="beam", beam_width=2)
    assert found.statistics.mode == "beam"
    assert 0 < found.statistics.nodes_visited < found.statistics.embeddings_scored < 300
    assert found.statistics.timings.keys() == STAGES
    assert all(seconds > 0 for seconds in found.statistics.timings.values())
    assert counts(stocked.search("w1 w2")) == ("flat", 300, 0)
    assert counts(stocked.search("w1 w2", exact=True)) == ("exact", 300, 0)
    assert counts(stocked.search("w1 w2", namespace="a", prefix=True)) == ("flat", 40, 0)
    filtered = stocked.search("w1 w2", filter={"n": {"$lt": 9}})
    assert counts(filtered) == ("flat", 9, 0)
    assert filtered.statistics.timings.keys() == {*STAGES, "filter"}
    assert counts(stocked.search("w1 w2", namespace="never")) == ("auto", 0, 0)


def test_a_wider_beam_visits_and_scores_more(stocked):
    narrow, wide = (stocked.search("w1 w2", mode="beam", beam_width=width).statistics for width in (1, 20))
    assert narrow.nodes_visited < wide.nodes_visited
    assert narrow.embeddings_scored < wide.embeddings_scored


def test_every_query_of_a_batch_has_its_own(stocked):
    queries = ["w1 w2", "id42", "w7 " * 200]
    for mode in ("beam", "flat", "exact"):
        batch = stocked.search_batch(queries, mode=mode, beam_width=2)
        assert [counts(found) for found in batch] == [
            counts(stocked.search(query, mode=mode, beam_width=2)) for query in queries
        ]


async def test_async_calls_have_theirs(stocked):
    expected = [counts(stocked.search("w1 w2", mode=mode, beam_width=width)) for mode, width in WORK]
    calls = [stocked.asearch("w1 w2", mode=mode, beam_width=width) for mode, width in WORK]
    found = await asyncio.gather(*calls)
    assert [counts(hits) for hits in found] == expected
    assert all(hits.statistics.timings.keys() == STAGES for hits in found)
    (batched,) = await stocked.asearch_batch(["w1 w2"], mode="exact")
    assert counts(batched) == expected[-1]
    recalled = await stocked.arecall("w1 w2", mode="beam", beam_width=4)
    assert recalled.statistics.timings.keys() == {*STAGES, "recall"}
    assert recalled.statistics.nodes_visited > expected[1][2]


def test_threads_have_theirs(stocked):
    expected = [counts(stocked.search("w3 w4", mode=mode, beam_width=width)) for mode, width in WORK]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda one: stocked.search("w3 w4", mode=one[0], beam_width=one[1]), WORK * 10)
        assert [counts(hits) for hits in found] == expected * 10


def test_hits_are_a_plain_list_but_for_that(stocked):
    found = stocked.search("w1 w2", k=3)
    plain = list(found)
    assert found == plain
    assert plain == found
    assert isinstance(found, list)
    assert repr(found) == repr(plain)
    assert type(found[:2]) is list
    assert Hits() == []
    assert Hits().statistics == SearchStatistics()
    assert all(isinstance(hit, Hit) for hit in found)
    for twin in (pickle.loads(pickle.dumps(found)), copy.copy(found), copy.deepcopy(found)):
        assert type(twin) is Hits
        assert (twin, twin.statistics) == (found, found.statistics)


def test_statistics_as_a_dictionary(stocked):
    statistics = stocked.search("w1 w2").statistics
    found = json.loads(json.dumps(statistics.to_dict()))
    assert (found["mode"], found["embeddings_scored"], found["nodes_visited"]) == ("flat", 300, 0)
    assert found["timings"] == statistics.timings
