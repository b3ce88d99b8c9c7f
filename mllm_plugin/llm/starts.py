"""Beginnings of prompts that need not be read again: exact keys and values, in RAM while they are used."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from torch import Tensor

from mllm_plugin.errors import MLLMError
from mllm_plugin.lru import LRU


class Start(NamedTuple):
    """The part of a prompt before the question: the system line and a chunk spelled out whole.

    Attributes:
        chunk: Which chunk.
        tokens: How many of the prompt's ids.
    """

    chunk: int
    tokens: int


class _Kept(NamedTuple):
    ids: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]


class KeptStarts:
    """Keys and values of the starts read lately, for one model and one reader.

    Threads may share it. What is told through it is the same as without, but for rounding.

    Args:
        capacity: Bytes at most.
        live: Which of some chunks may still be read; the others are forgotten.
    """

    def __init__(self, capacity: int, live: Callable[[Iterable[int]], Container[int]]) -> None:
        self._kept: LRU[tuple[int, bool], _Kept] = LRU(capacity)
        self._live = live

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def chunks(self) -> set[int]:
        """Those that something is kept of."""
        return {chunk for chunk, _ in self._kept}

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self._kept.size

    def remembered(self, ids: tuple[int, ...], start: Start, *, changed: bool) -> Any:
        """What the model remembers of a start, to go on from; None where nothing is kept.

        Args:
            ids: Of the whole prompt.
            start: Which part of it.
            changed: Whether the model has the reader's changes.
        """
        from transformers import DynamicCache

        kept = self._kept.get((start.chunk, changed))
        if kept is None or kept.ids != ids[: start.tokens]:
            return None
        cache = DynamicCache()
        for place, layer in enumerate(kept.layers):
            cache.update(*layer, place)  # copies, so that what is kept does not grow
        return cache

    def keep(self, ids: tuple[int, ...], start: Start, cache: Any, *, changed: bool) -> None:
        """Keeps a start of what the model remembers of a whole prompt; the other arguments are the same."""
        if not _is_plain(cache) or cache.get_seq_length() < start.tokens:
            return
        states = ((layer.keys, layer.values) for layer in cache.layers)
        layers = tuple(
            (keys[:, :, : start.tokens].clone(), values[:, :, : start.tokens].clone())
            for keys, values in states
        )
        size = sum(one.nbytes for layer in layers for one in layer)
        self._kept.put((start.chunk, changed), _Kept(ids[: start.tokens], layers), size)
        self.written()  # the chunk may have been removed meanwhile

    def written(self) -> None:
        """Forgets chunks that may no longer be read; to be called after every write to the memory."""
        if not (chunks := self.chunks):
            return
        live: Container[int] = ()  # where nobody knows, nothing is kept
        with suppress(MLLMError):
            live = self._live(chunks)
        for chunk in chunks:
            if chunk not in live:
                for changed in (False, True):
                    self._kept.pop((chunk, changed))


def _is_plain(cache: Any) -> bool:
    """Whether all layers remember all tokens, so that what follows can be anything."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
