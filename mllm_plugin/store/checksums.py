"""The checksum of SQLite's write-ahead log and of its checksum VFS, which is the same sum.

Over pairs of 32-bit words x, y: `a += x + b; b += y + a`. It is linear, so its end is a fixed combination of
its start and the words, which numpy computes at once.

Source: SQLite file format, section 4.2 (checksum algorithm); ext/misc/cksumvfs.c.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mllm_plugin.store.schema import CHECKSUM_BYTES, PAGE_SIZE

_MASK = 0xFFFFFFFF


def checksum(data: bytes, start: tuple[int, int] = (0, 0), order: str = "<") -> tuple[int, int]:
    """The sum over bytes, eight at a time.

    Args:
        data: A multiple of eight bytes.
        start: The sum of what came before.
        order: "<" or ">", of the words' bytes.
    """
    words = np.frombuffer(data, dtype=f"{order}u4").astype(np.uint32)
    of_start, of_words = _weights(len(words) // 2)
    a, b = (of_words * words).sum(axis=1, dtype=np.uint32).tolist()
    (aa, ab), (ba, bb) = of_start
    return (a + aa * start[0] + ab * start[1]) & _MASK, (b + ba * start[0] + bb * start[1]) & _MASK


@lru_cache(maxsize=8)
def _weights(pairs: int) -> tuple[list[list[int]], NDArray[np.uint32]]:
    """What the start [2, 2] and each word [2, 2 * pairs] count for in the end, modulo 2^32."""
    weights = np.empty((2, 2 * pairs), dtype=np.uint32)
    (aa, ab), (ba, bb) = (1, 0), (0, 1)  # the end as a combination of the sums before the last steps
    for place in range(pairs - 1, -1, -1):
        weights[:, 2 * place] = (aa + ab) & _MASK, (ba + bb) & _MASK
        weights[:, 2 * place + 1] = ab, bb
        aa, ab, ba, bb = (aa + ab) & _MASK, (aa + 2 * ab) & _MASK, (ba + bb) & _MASK, (ba + 2 * bb) & _MASK
    return [[aa, ab], [ba, bb]], weights


def page_is_sound(page: bytes) -> bool:
    """Whether a page of the file is one that was written; zeros, whose sum is zero too, never are."""
    if not any(page):
        return False
    a, b = checksum(page[: PAGE_SIZE - CHECKSUM_BYTES])
    return page[-CHECKSUM_BYTES:] == a.to_bytes(4, "little") + b.to_bytes(4, "little")
