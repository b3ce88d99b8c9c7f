"""Windows of chunks, scored where they lie in the arrays.

Shapes: n chunks, m vectors per query, d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mllm_plugin.image.kernels import kernels
from mllm_plugin.image.space import Space
from mllm_plugin.shapes import Float32, Float64, Int64, UInt32
from mllm_plugin.store.codec import whole_numbers


@dataclass(frozen=True)
class SpaceWindows:
    """Windows of some chunks of a namespace.

    Attributes:
        space: Its arrays, which hold windows.
        chunks: Places among the chunks.
    """

    space: Space
    chunks: Int64[np.ndarray, " n"]

    @property
    def sizes(self) -> UInt32[np.ndarray, " n"]:
        """How many each chunk has."""
        return self.space.window_sizes[self.chunks]

    def best(self, probes: Float32[np.ndarray, "m d"]) -> Float64[np.ndarray, "m _"]:
        """As `Windows.best`, to the bit."""
        ends, sizes = self.space.window_ends[self.chunks], self.sizes
        if not sizes.all():
            ends, sizes = ends[sizes > 0], sizes[sizes > 0]
        starts = ends - sizes
        self.space.check_windows(starts, ends)
        scales, asked = whole_numbers(probes)
        codes = self.space.window_codes, self.space.window_scales
        return kernels().best_windows(*codes, starts, ends, asked.astype(np.int32), scales)
