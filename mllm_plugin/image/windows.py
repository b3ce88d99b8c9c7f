"""Windows of chunks, scored where they lie in the arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.image.kernels import kernels
from mllm_plugin.image.space import Space
from mllm_plugin.store.codec import whole_numbers


@dataclass(frozen=True)
class SpaceWindows:
    """Windows of some chunks of a namespace.

    Attributes:
        space: Its arrays, which hold windows.
        chunks: Places among the chunks [n].
    """

    space: Space
    chunks: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.uint32]:
        """How many each chunk has [n]."""
        return self.space.window_sizes[self.chunks]

    def best(self, probes: NDArray[np.float32]) -> NDArray[np.float64]:
        """As `Windows.best`, to the bit."""
        ends, sizes = self.space.window_ends[self.chunks], self.sizes
        if not sizes.all():
            ends, sizes = ends[sizes > 0], sizes[sizes > 0]
        starts = ends - sizes
        self.space.check_windows(starts, ends)
        scales, asked = whole_numbers(probes)
        codes = self.space.window_codes, self.space.window_scales
        return kernels().best_windows(*codes, starts, ends, asked.astype(np.int32), scales)
