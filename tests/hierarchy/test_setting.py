"""Relevance knows the search that a score is from: in [0, 1], in order of scores, learned from evidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import Hierarchy, LeafRanker
from mllm_plugin.hierarchy.leaf import FEATURES, Setting
from mllm_plugin.training.leaf import LeafEvidence, calibrate_relevance, collect_evidence
from tests.helpers.toy import ToyEncoder

WEIGHTS = np.array([1.0, 1.0, 1.5], np.float32)
OLD = {"weights": WEIGHTS, "relevance": np.array([1.5, -2.0], np.float32)}
NEW = {**OLD, "setting": np.linspace(-1, 1, FEATURES).astype(np.float32)}


def setting_of(evidence) -> Setting:
    return Setting.of(np.asarray(evidence, dtype=np.float64) @ WEIGHTS, 100)


@given(lead=st.floats(-1e6, 1e6), chunks=st.integers(0, 10**9))
def test_any_setting_gives_a_relevance_in_order_of_the_scores(lead, chunks):
    ranker = LeafRanker(tensors=NEW)
    found = [ranker.relevance(score, Setting(lead, chunks)) for score in np.linspace(-3, 5, 30)]
    assert found == sorted(found)
    assert all(0 <= one <= 1 for one in found)


def test_weights_without_a_setting_say_what_they_said(tmp_path):
    rng = np.random.default_rng(0)
    setting = setting_of(rng.random((20, 3)))
    assert LeafRanker(tensors=OLD).relevance(1.0, setting) == LeafRanker(tensors=OLD).relevance(1.0)
    assert LeafRanker(tensors=NEW).relevance(1.0, setting) != LeafRanker(tensors=NEW).relevance(1.0)
    for number, tensors in enumerate((OLD, NEW)):
        folder = tmp_path / str(number)
        Hierarchy(leaf_ranker=LeafRanker(tensors=tensors)).save(folder, encoder="toy")
        again = Hierarchy.load(folder).leaf_ranker
        assert set(again.tensors) == set(tensors)
        assert again.relevance(1.0, setting) == pytest.approx(
            LeafRanker(tensors=tensors).relevance(1.0, setting)
        )


def test_a_setting_of_another_shape_is_refused():
    with pytest.raises(InvalidInputError, match="the leaf ranker"):
        LeafRanker(tensors={**OLD, "setting": np.ones(FEATURES + 1, np.float32)})


def test_a_first_hit_alone_leads():
    alone = setting_of([[0.8, 0.8, 0.8], *[[0.2, 0.2, 0.0]] * 12])
    among = setting_of([[0.8, 0.8, 0.8], *[[0.75, 0.75, 0.75]] * 12])
    assert alone.lead > among.lead > 0
    assert setting_of([[0.8, 0.8, 0.8]]).lead > 0


def evidence_of(rng: np.random.Generator, middle: float) -> LeafEvidence:
    """In some memories all scores are lower, those of answers too."""
    features = rng.normal(middle, 0.02, size=(20, 3))
    features[3] += 0.3
    names = tuple(f"d{row}" for row in range(20))
    return LeafEvidence(features.astype(np.float32), names, frozenset({"d3"}), chunks=100)


def test_what_is_learned_tells_low_scores_that_lead_from_high_ones_that_do_not():
    rng = np.random.default_rng(1)
    sets = {str(middle): [evidence_of(rng, middle) for _ in range(60)] for middle in (0.0, 0.4)}
    fitted = calibrate_relevance(sets, WEIGHTS)
    new = LeafRanker(tensors={"weights": WEIGHTS, **fitted})
    plain = LeafRanker(tensors={"weights": WEIGHTS, "relevance": fitted["relevance"]})

    def told(ranker: LeafRanker, one: LeafEvidence) -> float:
        scores = ranker.score(*one.features.T.astype(np.float64))
        return ranker.relevance(float(scores.max()), one.setting(scores))

    for ranker, right in ((new, True), (plain, False)):
        answers = np.mean([told(ranker, one) for one in sets["0.0"]])
        none = np.mean([told(ranker, one.without_answers()) for one in sets["0.4"]])
        assert (answers > none) == right


def test_evidence_has_the_setting_that_a_search_has(tmp_path):
    with MemoryIndex.open(tmp_path / "plain", encoder=ToyEncoder(), hierarchy="identity") as memory:
        texts = [f"harbour {n} keeps boat{n % 7} and lamp{n % 5} by the {n % 3} pier" for n in range(60)]
        memory.add([Document(text, id=f"d{n}") for n, text in enumerate(texts)])
        query = "which harbour keeps boat3 and lamp2"
        (one,) = collect_evidence(memory, {"q": query}, {}, most=60)
    leaf = LeafRanker(tensors=NEW)
    hierarchy = Hierarchy(leaf_ranker=leaf, fingerprint="leaf")
    with MemoryIndex.open(tmp_path / "new", encoder=ToyEncoder(), hierarchy=hierarchy) as memory:
        memory.add([Document(text, id=f"d{n}") for n, text in enumerate(texts)])
        scores = leaf.score(*one.features.T.astype(np.float64))
        setting = one.setting(scores)
        found = {mode: memory.search(query, k=9, mode=mode) for mode in ("beam", "flat", "exact")}
        for hits in found.values():
            for hit in hits:
                assert hit.relevance == pytest.approx(leaf.relevance(hit.score, setting), abs=1e-5)
            assert [hit.relevance for hit in hits] == [hit.relevance for hit in found["exact"]]
            assert memory.search(query, k=1)[0].relevance == hits[0].relevance
        vector = memory.encoder.encode_queries([query])[0]
        first = memory.search(vector, k=1)[0]
        assert first.relevance == leaf.relevance(first.score)


def test_hits_of_several_namespaces_are_in_one_order(tmp_path):
    hierarchy = Hierarchy(leaf_ranker=LeafRanker(tensors=NEW), fingerprint="leaf")
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder(), hierarchy=hierarchy) as memory:
        for name, size in (("short", 3), ("long", 60)):
            texts = [" ".join(f"w{(n + k) % 50}" for k in range(size)) for n in range(50)]
            memory.add([Document(text) for text in texts], namespace=("all", name))
        hits = memory.search("w1 w2 w3", k=40, namespace="all", prefix=True)
        assert len({hit.namespace for hit in hits}) == 2
        assert [hit.relevance for hit in hits] == sorted((hit.relevance for hit in hits), reverse=True)
        nothing = memory.search("w1", namespace="nowhere")
        assert list(nothing) == []
