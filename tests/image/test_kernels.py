"""The compiled kernels and the plain ones, on arrays small enough to work out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mllm_plugin import Document
from mllm_plugin.config import LexicalConfig
from mllm_plugin.image import plain
from mllm_plugin.image.keeper import Images
from mllm_plugin.image.kernels import kernels
from mllm_plugin.text.lexical import QueryTerms, TermCounts, score_terms, term_hash


@pytest.fixture(params=["plain", "jitted"])
def module(request):
    if request.param == "plain":
        return plain
    pytest.importorskip("numba")
    from mllm_plugin.image import jitted

    return jitted


def test_the_best_window_of_each_chunk(module):
    codes = np.array([[1, 0], [0, 2], [3, 3]], np.int8)
    scales = np.array([1.0, 0.5, 0.25], np.float32)
    asked, worth = np.array([[1, 0], [0, 1]], np.int32), np.array([1.0, 2.0])
    found = module.best_windows(codes, scales, np.array([0, 2]), np.array([2, 3]), asked, worth)
    assert np.asarray(found).tolist() == [[1.0, 0.75], [2.0, 1.5]]


def test_words_and_their_forms_count_alike_by_chunk_and_by_term(module):
    draw = random.Random(3)
    words = ["lamp", "lamps", "lamped", "runs", "run", "running", "x17", "sea"]
    texts = [" ".join(draw.choices(words, k=draw.randrange(9))) for _ in range(200)]
    counts = TermCounts.of(texts)
    query = QueryTerms.of("the lamp runs to sea, x17 lamps", {term_hash(one): 70 for one in words}, 200, 800)
    given = (query.terms, query.weights, (1.2, 0.75, query.mean_length))
    chunks, ends = np.array(draw.sample(range(200), 90)), np.cumsum(counts.sizes, dtype=np.int64)
    some = module.weigh(counts.hashes, counts.counts, ends, counts.lengths, chunks, query.hashes, *given)
    bounds = counts.lists.bounds(query.hashes)
    every = module.weigh_lists(counts.lists.rows, counts.lists.counts, *bounds, counts.lengths, *given)
    assert some.tolist() == every[chunks].tolist()
    assert some.tolist() == score_terms(counts, [query], LexicalConfig(k1=1.2, b=0.75))[0][chunks].tolist()
    assert len(set(some.tolist())) > 20


def test_stored_halves_widen_to_what_they_are_worth(module):
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 64)
    table = bits.reshape(-1).view(np.float16).astype(np.float32)
    rows = np.flatnonzero(np.isfinite(table.reshape(bits.shape)).all(axis=1))[::-1]
    found = module.widen(bits, table, rows)
    assert found.view(np.uint32).tolist() == table[bits[rows]].view(np.uint32).tolist()


def test_both_have_every_kernel():
    pytest.importorskip("numba")
    compiled = kernels()
    names = ("descend", "nearest", "score", "exact", "weigh", "weigh_lists", "widen", "best_windows")
    for name in names:
        assert callable(getattr(plain, name))
        assert callable(getattr(compiled, name))


def test_images_that_are_not_there_are_asked_for_and_forgotten(memory):
    """A reader notes nothing: it makes no image, and the walk over the file goes on."""
    memory.add([Document("one text")])
    images = Images(memory.path, memory.snapshot, None)
    with memory.snapshot() as snapshot:
        assert images.walked(snapshot, snapshot.namespace(()), lambda space, delta: 1 / 0) is None
    assert images.nbytes() == 0
    assert images.forget(0.0)
    images.close()
