from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mllm_plugin import Document, MemoryIndex
from mllm_plugin.config import LeafConfig
from mllm_plugin.encoders.base import unit
from mllm_plugin.errors import InvalidInputError
from mllm_plugin.hierarchy import LeafRanker
from mllm_plugin.search.query import Query, make_queries
from mllm_plugin.search.rank import best_windows
from mllm_plugin.store.codec import Windows, pack_windows, unpack_all
from mllm_plugin.training.leaf import (
    LeafEvidence,
    LeafModule,
    LeafTraining,
    best_chunks,
    calibrate_relevance,
    collect_evidence,
    train_leaf,
)
from tests.helpers.toy import ToyEncoder

TRAINED = {"weights": np.array([0.8, 0.9, 1.8], np.float32), "relevance": np.array([1.5, -2.0], np.float32)}
RANKERS = [pytest.param(None, id="untrained"), pytest.param(TRAINED, id="trained")]
_EVIDENCE = arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(-1, 1))


class WindowEncoder(ToyEncoder):
    """Gives the windows of queries too."""

    def encode_query_windows(self, texts):
        return self.encode_queries(texts), [self._windows(text) for text in texts]


def synthetic(queries: int, seed: int, *, noise: float = 0.15) -> list[LeafEvidence]:
    """Queries whose answer shows in the words; cosine and window say little."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(queries):
        features = rng.normal(0.4, 0.3, size=(20, 3))
        answer = int(rng.integers(20))
        features[answer, 2] += 0.5
        features += rng.normal(0, noise, size=features.shape)
        names = tuple(f"d{row // 2}" for row in range(20))
        rows.append(LeafEvidence(features.astype(np.float32), names, frozenset({names[answer]})))
    return rows


def first_right(rows: list[LeafEvidence], ranker: LeafRanker) -> float:
    found = [one.ranking(ranker.score(*one.features.T), 1)[0] in one.relevant for one in rows]
    return float(np.mean(found))


@given(evidence=_EVIDENCE)
def test_untrained_is_the_formula(evidence):
    cosine, window, lexical = evidence.T
    ranker = LeafRanker()
    assert ranker.tensors == {}
    assert np.array_equal(ranker.score(cosine, window, lexical), 1.0 * cosine + 1.0 * window + 1.5 * lexical)
    assert np.array_equal(ranker.partial(cosine, lexical), 2.0 * cosine + 1.5 * lexical)
    assert ranker.relevance(1.87) == pytest.approx(1 / (1 + np.exp(-(2.87 * 1.87 - 5.37))))


@pytest.mark.parametrize("tensors", RANKERS)
@given(evidence=_EVIDENCE)
def test_every_row_is_scored_by_itself(tensors, evidence):
    ranker = LeafRanker(tensors=tensors)
    together = ranker.score(*evidence.T)
    assert together.dtype == np.float64
    assert np.isfinite(together).all()
    for row in range(len(evidence)):
        assert ranker.score(*evidence[row : row + 1].T)[0] == together[row]


@pytest.mark.parametrize("tensors", RANKERS)
@given(evidence=_EVIDENCE, column=st.integers(0, 2), more=st.floats(0, 1))
def test_more_evidence_never_scores_lower(tensors, evidence, column, more):
    ranker = LeafRanker(tensors=tensors)
    raised = evidence.copy()
    raised[:, column] += more
    assert (ranker.score(*raised.T) >= ranker.score(*evidence.T)).all()
    relevances = [ranker.relevance(score) for score in np.linspace(-3, 4, 20)]
    assert relevances == sorted(relevances)
    assert all(0 <= one <= 1 for one in relevances)


def test_tensors_give_the_ranker_back():
    ranker = LeafRanker(tensors=TRAINED)
    again = LeafRanker(LeafConfig(lexical=9.0), ranker.tensors)
    features = synthetic(1, 0)[0].features.astype(np.float64)
    assert np.array_equal(again.score(*features.T), ranker.score(*features.T))
    assert again.relevance(1.0) == ranker.relevance(1.0)
    assert {name: value.dtype for name, value in ranker.tensors.items()} == dict.fromkeys(
        ("weights", "relevance"), np.dtype(np.float32)
    )


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights": np.ones(3)},
        {**TRAINED, "bias": np.ones(1)},
        {**TRAINED, "weights": np.ones(4)},
        {**TRAINED, "weights": np.array([1.0, -1.0, 1.0])},
        {**TRAINED, "relevance": np.array([np.nan, 0.0])},
    ],
    ids=["missing", "unknown", "shape", "negative", "nan"],
)
def test_refuses_other_tensors(tensors):
    with pytest.raises(InvalidInputError, match="leaf ranker: tensor"):
        LeafRanker(tensors=tensors)


def test_numpy_scores_as_torch_does():
    module = LeafModule()
    with torch.no_grad():
        module.weights.copy_(torch.tensor([0.5, 1.4, 2.0]))
    features = synthetic(1, 3)[0].features
    tensors = {**TRAINED, "weights": module.numbers()}
    ours = LeafRanker(tensors=tensors).score(*features.T.astype(np.float64))
    assert np.allclose(ours, module(torch.from_numpy(features)).detach().numpy(), atol=1e-6)
    assert module.numbers().sum() == pytest.approx(3.5)


def test_a_document_counts_with_its_best_chunk():
    scores, groups = torch.tensor([[1.0, 3.0, 2.0, 9.0]]), torch.tensor([[1, 1, 2, 0]])
    assert best_chunks(scores, groups)[0].tolist() == [-1e4, 3.0, 2.0, -1e4, -1e4]


def test_training_beats_the_formula_and_repeats():
    sets = {"one": synthetic(150, 1), "two": synthetic(150, 2)}
    loose = LeafTraining(hold=0.01, steps=60, batch=32, learning_rate=0.05)
    tensors = train_leaf(sets, training=loose)
    held_out = synthetic(300, 7)
    assert first_right(held_out, LeafRanker(tensors=tensors)) > first_right(held_out, LeafRanker()) + 0.03
    again = train_leaf(sets, training=loose)
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)
    held = train_leaf(sets, training=LeafTraining(hold=100.0, steps=20, batch=16))
    assert np.allclose(held["weights"], [1.0, 1.0, 1.5], atol=0.05)


def test_relevance_is_calibrated():
    rows = synthetic(400, 4)
    fitted = calibrate_relevance({"one": rows}, TRAINED["weights"])
    ranker = LeafRanker(tensors={**TRAINED, **fitted})
    says, is_so = [], []
    for one in synthetic(400, 5):
        scores = ranker.score(*one.features.T)
        best = np.argsort(-scores)[:10]
        says += [ranker.relevance(scores[row]) for row in best]
        is_so += [one.documents[row] in one.relevant for row in best]
    says, is_so = np.array(says), np.array(is_so)
    assert says[is_so].mean() > says[~is_so].mean() + 0.05
    # at even odds: relevant and other chunks together are as often right as the ranker says
    assert says[is_so].mean() / 2 + says[~is_so].mean() / 2 == pytest.approx(0.5, abs=0.05)


def test_training_needs_judged_documents():
    nothing = [LeafEvidence(one.features, one.documents, frozenset()) for one in synthetic(3, 0)]
    with pytest.raises(InvalidInputError, match="no query has both"):
        train_leaf({"none": nothing})


def test_windows_of_a_query_count_alike_in_every_batch():
    rng = np.random.default_rng(0)
    stored = [rng.normal(size=(size, 8)).astype(np.float32) for size in (3, 0, 1, 5)]
    stored = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in stored]
    windows = unpack_all([pack_windows(rows) if len(rows) else b"" for rows in stored], 8)
    probes = rng.normal(size=(9, 8)).astype(np.float32)
    fallback = np.array([0.1, 0.2, 0.3, 0.4])
    query = Query("", probes[:1], probes)
    together = best_windows(query, windows, fallback)
    assert together[1] == 0.2
    for row in (0, 2, 3):
        span = slice(windows.starts[row], windows.starts[row] + windows.sizes[row])
        rows = windows.vectors[span]
        assert together[row] == pytest.approx((rows @ probes.T).max(axis=0).mean())
        alone = Windows(windows.codes[span], windows.scales[span], windows.sizes[row : row + 1])
        assert best_windows(query, alone, fallback[row : row + 1])[0] == together[row]


@pytest.mark.parametrize("dim", [8, 384, 1536], ids=str)
def test_cosines_of_windows_have_the_same_bits_in_any_company(dim):
    rng = np.random.default_rng(dim)
    stored = [unit(rng.normal(size=(5, dim))) for _ in range(20)]
    probes = unit(rng.normal(size=(7, dim)))
    packed = [pack_windows(rows) for rows in stored]
    windows = unpack_all(packed, dim)
    together = windows.cosines(probes)
    expected = windows.codes.astype(np.float64) * windows.scales[:, None] @ probes.T.astype(np.float64)
    assert np.abs(together - expected).max() < 1e-6
    for row in (0, 13):
        alone = unpack_all(packed[row : row + 1], dim)
        assert np.array_equal(alone.cosines(probes), together[5 * row : 5 * row + 5])
        assert np.array_equal(alone.cosines(probes[3:4])[:, 0], together[5 * row : 5 * row + 5, 3])


def test_long_queries_keep_few_windows():
    (query,) = make_queries([" ".join(f"w{n}" for n in range(90))], None, WindowEncoder(), 40)
    assert query.vectors.shape == (3, 16)
    assert query.windows is not None
    assert query.windows.shape == (8, 16)
    (plain,) = make_queries(["w1 w2"], None, ToyEncoder(), 40)
    assert plain.windows is None


@pytest.mark.parametrize("encoder", [ToyEncoder(), WindowEncoder()], ids=["vectors", "windows"])
def test_modes_agree_and_evidence_is_what_search_scores(tmp_path, encoder):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder, hierarchy="identity") as memory:
        texts = [f"harbour {n} keeps boat{n % 7} and lamp{n % 5} by the {n % 3} pier" for n in range(60)]
        memory.add([Document(text, id=f"d{n}") for n, text in enumerate(texts)])
        queries = {"q": "which harbour keeps boat3 and lamp2 by the first pier of the town", "r": "lamp4"}
        evidence = collect_evidence(memory, queries, {"q": {"d17": 1, "d3": 0}}, most=60, vectors=True)
        assert [one.relevant for one in evidence] == [{"d17"}, set()]
        assert evidence[0].vectors.shape == (60, 16)
        for text, one in zip(queries.values(), evidence, strict=True):
            scores = LeafRanker().score(*one.features.T.astype(np.float64))
            found = {mode: memory.search(text, k=60, mode=mode) for mode in ("beam", "flat", "exact")}
            expected = dict(zip(one.documents, scores, strict=True))
            for hits in found.values():
                assert [(hit.document_id, hit.score) for hit in hits] == [
                    (hit.document_id, hit.score) for hit in found["exact"]
                ]
            assert all(hit.score == pytest.approx(expected[hit.document_id], abs=1e-6) for hit in hits)


def test_untrained_weights_are_the_configured_ones():
    ranker = LeafRanker(LeafConfig(cosine=0.0, window=2.0, lexical=0.0))
    assert ranker.score(np.ones(1), np.full(1, 0.5), np.ones(1))[0] == 1.0
