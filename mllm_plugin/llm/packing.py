"""A reader's tensors: what they are called, their shapes, and how they are packed for a file.

Low-rank changes are kept as int8 rows with a scale each, the rest as fp16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_plugin.folder import Shape, check_numbers, check_tensors
from mllm_plugin.llm.lora import FIRST, SECOND

WRITER, READER, SPACE = "writer.", "reader.", "space."
_SCALE = ".scale"


def shapes_of(
    hidden: int, ratios: int, layers: Mapping[str, tuple[int | str, int | str]]
) -> dict[str, Shape]:
    """What a reader's tensors should be.

    Args:
        hidden: Width of the model.
        ratios: How many window sizes there are.
        layers: Outputs and inputs of each layer that is changed; writer and reader change the same ones.
    """
    shapes: dict[str, Shape] = {
        f"{SPACE}idf": ("words",),
        f"{SPACE}map.weight": (hidden, hidden),
        f"{SPACE}kinds.weight": (ratios + 2, hidden),
    }
    for layer, (outputs, inputs) in layers.items():
        for which in (WRITER, READER):
            rank = f"rank of {which}{layer}"
            shapes |= {f"{which}{layer}{FIRST}": (rank, inputs), f"{which}{layer}{SECOND}": (outputs, rank)}
    return shapes


def changed_layers(names: Iterable[str]) -> dict[str, tuple[int | str, int | str]]:
    """Layers that have a change, with names in place of sizes."""
    ends = [one for one in names if one.startswith((WRITER, READER)) and one.endswith((FIRST, SECOND))]
    layers = {one.split(".", 1)[1].removesuffix(FIRST).removesuffix(SECOND) for one in ends}
    return {layer: (f"outputs of {layer}", f"inputs of {layer}") for layer in layers}


def packed_rows(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Low-rank changes as int8 rows with a scale each, the rest as fp16 where it can be."""
    found = {}
    for name in sorted(tensors):
        value = tensors[name].detach().float().cpu()
        if not name.endswith((FIRST, SECOND)):
            small = float(value.abs().max()) <= torch.finfo(torch.float16).max
            found[name] = value.half() if small else value
            continue
        scale = (value.abs().amax(dim=1) / 127).clamp(min=1e-8)
        found[name] = (value / scale[:, None]).round().to(torch.int8)
        found[f"{name}{_SCALE}"] = scale
    return found


def unpacked_rows(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """What `packed_rows` was given, up to rounding."""
    scales = {f"{name}{_SCALE}" for name, value in tensors.items() if value.dtype == np.int8}
    found = {}
    for name in sorted(tensors.keys() - scales):
        value = tensors[name]
        if value.dtype == np.int8:
            check_tensors(
                {_SCALE: tensors[f"{name}{_SCALE}"]} if f"{name}{_SCALE}" in tensors else {},
                {_SCALE: value.shape[:1]},
                f"tensor {name!r} of whole numbers",
            )
            scale = tensors[f"{name}{_SCALE}"].astype(np.float32)
            value = value * scale.reshape(-1, *[1] * (value.ndim - 1))
        check_numbers(value, f"tensor {name!r}")
        found[name] = torch.from_numpy(value.astype(np.float32))
    return found
