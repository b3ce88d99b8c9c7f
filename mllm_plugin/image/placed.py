"""A namespace's arrays on a device as well, so that walks go there.

The embeddings of the nodes lie there, and of the chunks as many as have room; those of others are read from
the image, once for all queries of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_plugin.image import tensors
from mllm_plugin.image.space import Space

_SHARE = 0.8  # of a device's free memory that one namespace may take


class Placed(Space):
    """A space that is walked on a device.

    Args:
        host: The arrays; all of them are checked first.
        device: Where to.
        room: Bytes that codes and embeddings may take there.

    Raises:
        DamagedImageError: The arrays are not what was written.
    """

    _host: Space
    _there: dict[str, Any]
    _counted: tuple[NDArray[np.uint32], Tensor]

    def __init__(self, host: Space, device: torch.device, room: int) -> None:
        super().__init__(**{field.name: getattr(host, field.name) for field in fields(Space)})
        host.check(np.zeros(1, np.int64), np.array([len(host.ids)]))
        host.check_vectors(np.arange(len(host.chunk_ids)))
        there: dict[str, Any] = {name: _moved(getattr(host, name), device) for name in ("scales", "first")}
        there["codes"] = _as_room(host.codes, device, room, least=host.nodes)
        there["halves"] = _as_room(host.halves, device, room - host.codes.nbytes)
        counted = host.live, _moved(host.live.astype(np.int64), device)
        self.__dict__.update(_host=host, _there=there, _counted=counted)

    @property
    def kernels(self) -> ModuleType:
        """Those that read the device."""
        return tensors

    @property
    def children(self) -> Any:
        """`first` on the device."""
        return self._there["first"]

    def tree(self, live: NDArray[np.uint32]) -> tuple[Any, Any, Any]:
        """Codes, scales and counts below each row [R] on the device; the counts last used are kept there."""
        known, counts = self._counted
        if known is not live:
            counts = _moved(live.astype(np.int64), self._there["codes"].device)
            self.__dict__["_counted"] = live, counts
        return self._there["codes"], self._there["scales"], counts

    def exact(
        self, chunks: Sequence[NDArray[np.int64]], queries: NDArray[np.float32]
    ) -> list[NDArray[np.float64]]:
        """As `Space.exact`, of all queries at once."""
        halves, sizes = self._there["halves"], [len(own) for own in chunks]
        filled = np.zeros((len(chunks), max(sizes, default=0)), np.int64)
        for row, own in zip(filled, chunks, strict=True):
            row[: len(own)] = own
        asked = (_moved(array, halves.device) for array in (filled, np.ascontiguousarray(queries)))
        found = tensors.exact(halves, *asked).cpu().numpy()
        return [row[:size] for row, size in zip(found, sizes, strict=True)]

    @property
    def checked(self) -> bool:
        """Whether all was compared: what lies on the device was."""
        return True

    def check_rare(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """As the arrays' own."""
        self._host.check_rare(starts, ends)

    def check_windows(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """As the arrays' own."""
        self._host.check_windows(starts, ends)


def placed(space: Space, device: torch.device) -> Space:
    """The arrays for walks on a device; as they are where not even the nodes have room there."""
    room = _room(device) - space.scales.nbytes - space.first.nbytes - 2 * space.live.nbytes
    return Placed(space, device, room) if space.codes[: space.nodes].nbytes <= room else space


def _room(device: torch.device) -> int:
    """Bytes that may be taken; any number where they are not counted."""
    if device.type != "cuda":
        return 1 << 62
    return int(_SHARE * torch.cuda.mem_get_info(device)[0])


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.tensor(array, device=device)


def _as_room(
    array: NDArray[Any], device: torch.device, room: int, least: int = 1
) -> Tensor | tensors.Streamed:
    """Rows on a device, or as many as there is room for and at least so many."""
    many = max(least, room // max(1, array[:1].nbytes))
    return _moved(array, device) if many >= len(array) else tensors.Streamed(array, device, many)
