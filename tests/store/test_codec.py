"""Windows of many chunks at once, as they were packed."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_plugin.errors import DamagedStoreError
from mllm_plugin.store.codec import pack_windows, unpack_all, unpack_windows

DIM = 16


def packed(*counts: int) -> list[bytes]:
    draw = np.random.default_rng(0)
    return [pack_windows(draw.normal(size=(count, DIM)).astype(np.float32)) for count in counts]


@pytest.mark.parametrize("counts", [(), (0,), (3,), (2, 0, 5, 2, 1)])
def test_windows_of_many_chunks_are_those_of_each(counts):
    parts = packed(*counts)
    found = unpack_all(parts, DIM)
    assert found.sizes.tolist() == list(counts)
    assert found.vectors.shape == (sum(counts), DIM)
    for first, count, data in zip(found.starts, counts, parts, strict=True):
        assert np.array_equal(found.vectors[first : first + count], unpack_windows(data, DIM))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_windows_that_are_no_numbers_are_damage(scale):
    whole, other = packed(2, 1)
    with pytest.raises(DamagedStoreError, match="repair"):
        unpack_all([other, np.array([scale], "<f4").tobytes() + whole[4:]], DIM)


def test_windows_that_are_cut_are_damage():
    [whole] = packed(2)
    with pytest.raises(DamagedStoreError, match="expected a multiple"):
        unpack_all([whole[:-1]], DIM)
