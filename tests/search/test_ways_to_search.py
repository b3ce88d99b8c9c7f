"""The ways to candidates, each by itself: what is allowed, scan, oracle, walk, many namespaces together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mllm_plugin import MemoryConfig, MemoryIndex
from mllm_plugin.hierarchy import Hierarchy
from mllm_plugin.image import read_delta, read_space
from mllm_plugin.search.allowed import Allowed, AllowedCache
from mllm_plugin.search.hits import Told, choose, read_hits, stored_chunks, trace_paths
from mllm_plugin.search.imaged import candidates_of
from mllm_plugin.search.labels import Below, Labeller
from mllm_plugin.search.query import Recency, View, make_queries, recency_of
from mllm_plugin.search.rank import best_rows, rank
from mllm_plugin.search.refold import Refolder
from mllm_plugin.search.scan import Scan, exact_candidates, scan
from mllm_plugin.search.together import Together, Union
from mllm_plugin.search.walk import Beam, beam_at, descend, likely, promising, walk
from mllm_plugin.store.decoded import EmbeddingChunkCache, build_image
from tests.helpers.recall_tools import CONFIG, chunk_ids, many_documents
from tests.helpers.toy import ToyEncoder

ALL = Beam(1000, 10)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    with MemoryIndex.open(folder, encoder=ToyEncoder(), config=CONFIG, hierarchy="identity") as memory:
        memory.add(many_documents(120))
        for number in range(3):
            memory.add(many_documents(15, seed=number + 5, first=200), namespace=("small", str(number)))
        memory.mask(["d7"])
        yield memory


@pytest.fixture
def snapshot(library):
    with library.snapshot() as opened:
        yield opened


def view_of(snapshot, name=()):
    chunks = EmbeddingChunkCache(1 << 24)
    return View(snapshot, snapshot.namespace(name), chunks, Hierarchy(), MemoryConfig().lexical)


@pytest.fixture
def view(snapshot):
    return view_of(snapshot)


@pytest.fixture(scope="module")
def queries():
    return make_queries(["w3 w17 w80", "id44", np.arange(1.0, 17.0)], None, ToyEncoder(), 128)


def evidence(candidates):
    order = np.argsort(candidates.ids)
    return candidates.ids[order].tolist(), candidates.lexical[order].tolist()


def test_all_ways_lead_to_the_same_scores(view, queries):
    image = build_image(view.snapshot, view.row)
    space = read_space(view.snapshot, view.row)
    delta = read_delta(view.snapshot, view.row, space)
    ways = [
        exact_candidates(view, image, queries, most=500),
        scan(view, image, queries, most=500),
        walk(view, queries, ALL, most=500),
        candidates_of(view, queries, ALL, 500, space, delta),
    ]
    for query, *found in zip(queries, *ways, strict=True):
        assert all(one.complete for one in found)
        ranked = [rank(view, query, one)[:] for one in found]
        assert len(ranked[0]) == 119
        assert ranked[0] == ranked[1] == ranked[2] == ranked[3]


def test_the_oracle_keeps_the_best_by_all_evidence(view, queries):
    image = build_image(view.snapshot, view.row)
    for query, every, few in zip(
        queries,
        exact_candidates(view, image, queries, most=500),
        exact_candidates(view, image, queries, most=5),
        strict=True,
    ):
        assert rank(view, query, few)[:] == rank(view, query, every)[:5]
        assert not few.complete


def test_a_scan_compares_what_may_be_returned(view, queries):
    found = Scan.of(view, build_image(view.snapshot, view.row), queries)
    (d7,) = view.snapshot.select(view.row, ids=["d7"]).rowids
    masked = {c for c, p in view.snapshot.places(range(1, 200)).items() if p.document_rowid == d7}
    assert len(masked) == 1
    assert not masked & set(found.evidence[0].ids.tolist())
    chosen = found.candidates(0, np.array([4, 2]))
    assert chosen.ids.tolist() == found.evidence[0].ids[[4, 2]].tolist()
    assert (chosen.vectors @ queries[0].vectors[0]).tolist() == pytest.approx(
        found.evidence[0].cosine[[4, 2]].tolist(), abs=1e-3
    )


def test_what_a_filter_lets_through_is_counted_up_to_the_root(library, view):
    cache = AllowedCache()
    found = cache.get(view.snapshot, view.row, {"n": {"$lt": 40}}, ())
    assert set(found.chunk_ids.tolist()) == chunk_ids(library, "CAST(substr(id, 2) AS INT) < 40") - chunk_ids(
        library, "id = 'd7'"
    )
    assert found.below(np.array([view.row.root_id, 10**6])).tolist() == [39, 0]
    assert found.chunks(np.array([found.chunk_ids[0], 10**6])).tolist() == [1, 0]
    assert cache.get(view.snapshot, view.row, {"n": {"$lt": 40}}, ()) is found
    odd = cache.get(view.snapshot, view.row, None, ["odd"])
    assert len(odd.chunk_ids) == 60
    none = np.zeros(0, np.int64)
    assert Allowed(none, none, none).below(np.array([1])).tolist() == [0]


def test_a_node_under_a_filter_is_the_fold_of_what_matches(view, queries):
    condition = {"n": {"$lt": 40}}
    filtered = replace(view, allowed=AllowedCache().get(view.snapshot, view.row, condition, ()))
    frontiers = [one[0] for one in descend(filtered, queries[:1], ALL)][1:]
    levels = Refolder(filtered).nodes(frontiers)
    lowest = levels[0]
    for node, vector in zip(lowest.ids.tolist(), lowest.vectors, strict=True):
        stored = view.snapshot.children(node)
        matching = filtered.admitted(stored.live > 0, stored.ids)
        assert matching.any()
        folded = view.hierarchy.fold(2, np.where(matching[:, None, None], stored.vectors, 0), matching)
        assert vector.tobytes() == folded.astype(np.float32).tobytes()
    plain = [one[0] for one in descend(view, queries[:1], ALL)][1:]
    assert Refolder(view).nodes(plain)[0].vectors.tobytes() == plain[-1].vectors.tobytes()


def test_namespaces_together_score_as_each_by_itself(snapshot, queries):
    views = [view_of(snapshot, ("small", str(number))) for number in range(3)]
    images = [build_image(snapshot, view.row) for view in views]
    together = Together(views, Union.of(images))
    apart = [scan(view, image, queries, most=500) for view, image in zip(views, images, strict=True)]
    for place, found in enumerate(together.candidates(queries, most=500)):
        alone = sorted(pair for own in apart for pair in zip(*evidence(own[place]), strict=True))
        assert list(zip(*evidence(found), strict=True)) == alone
    for chunk in found.ids.tolist():
        name = together.namespace_of(chunk)
        assert chunk in dict(zip(apart[int(name[1])][0].ids.tolist(), range(99), strict=False))


def test_hits_are_read_with_text_path_and_neighbours(view, queries):
    ranked = rank(view, queries[1], walk(view, queries[1:2], ALL, most=500)[0])
    (chosen,) = choose(view, [ranked], 3)
    assert [one.found for one in chosen] == ranked[:3] == [ranked[row] for row in range(3)]
    (hits,) = read_hits(view, [Told(queries[1], chosen, [0.5, 0.25, 0.125])])
    assert [hit.relevance for hit in hits] == [0.5, 0.25, 0.125]
    assert hits[0].document_id == "d44"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    (home,) = {place.node_id for place in view.snapshot.places([hits[0].chunk_id]).values()}
    path = trace_paths(view, [(queries[1], [home])])[0][home]
    assert hits[0].path[:-1] == path
    assert [step.level for step in hits[0].path] == list(range(len(path) + 1, 0, -1))
    assert [one.text for one in stored_chunks(view, [hits[0].chunk_id])] == [hits[0].text]


def test_what_is_below_a_node_is_what_may_be_shown(view):
    whole = Below.of(view, view.root())
    assert len(whole.ids) == 119
    middle = whole.vectors.mean(axis=0)
    assert whole.central(1) == [whole.ids[np.argmax(whole.vectors @ middle)]]
    filtered = replace(view, allowed=AllowedCache().get(view.snapshot, view.row, {"n": {"$lt": 40}}, ()))
    below = Below.of(filtered, view.root())
    assert set(below.ids.tolist()) == set(filtered.allowed.chunk_ids.tolist())
    (word,) = Labeller().label(filtered, view.root(), 1, below)
    assert any(word in one.text for one in stored_chunks(filtered, below.ids.tolist()))


def test_ties_go_to_lower_ids():
    scores, ids = np.array([1.0, 3.0, 3.0, 2.0, 3.0]), np.array([5, 9, 2, 4, 7])
    assert best_rows(scores, ids, 2).tolist() == [2, 4]
    assert best_rows(scores, ids, 9).tolist() == [2, 4, 1, 3, 0]


def test_how_much_of_a_level_a_walk_goes_into():
    assert beam_at(2, 64) == 64
    assert beam_at(3, 64) < 64
    scores = np.array([0.9, 0.8, 0.5])
    assert likely(scores, 3, None) == likely(scores, 2, 0.0) == 3
    assert likely(scores, 3, 0.15) == 2
    assert promising(scores, np.array([0.7]), 1, 2, 0.0) == 3  # too few found to judge by
    assert promising(scores, np.array([0.9, 0.85]), 1, 2, 0.1) == 2


def test_newness_halves_with_age(view):
    ids = np.array([1, 10**6])
    row, day = view.snapshot.begins([1])[1], 86_400
    view.snapshot.now = row + day * 1_000_000
    assert Recency(day, weight=0.4).added(view.snapshot, ids).tolist() == pytest.approx([0.2, 0.0])
    assert recency_of(day) == Recency(day)
    assert recency_of(None) is None
