"""The compiled kernels and the plain ones, on arrays small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin import Document
from mllm_plugin.image import plain
from mllm_plugin.image.keeper import Images
from mllm_plugin.image.kernels import kernels


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


def test_both_have_every_kernel():
    pytest.importorskip("numba")
    compiled = kernels()
    for name in ("descend", "nearest", "score", "exact", "weigh", "widen", "best_windows"):
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
