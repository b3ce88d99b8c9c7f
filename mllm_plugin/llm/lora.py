"""Low-rank changes to a language model's linear layers.

Added into a second set of weights, which costs memory once and no time per token. The model without them is
what it was, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mllm_plugin.errors import InvalidInputError

FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"


def untrained(model: Any, rank: int, seed: int = 0) -> dict[str, Tensor]:
    """First values of changes to all linear layers but the output layer: they change nothing yet."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, module in linear_layers(model).items():
        out, into = module.weight.shape
        found[f"{name}{FIRST}"] = torch.randn(rank, into, generator=generator) / into**0.5
        found[f"{name}{SECOND}"] = torch.zeros(out, rank)
    return found


def linear_layers(model: Any) -> dict[str, Any]:
    """All linear layers but the output layer, by name; GPT-2's are a kind of its own."""
    from transformers.pytorch_utils import Conv1D

    places = {id(module): name for name, module in model.named_modules()}
    modules = model.get_decoder().modules()
    return {places[id(module)]: module for module in modules if isinstance(module, torch.nn.Linear | Conv1D)}


def added(model: Any, tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The changed layers' weights with the changes in them, by the layers' names.

    Raises:
        InvalidInputError: The tensors do not fit the model.
    """
    layers = dict(model.named_modules())
    found: dict[str, Tensor] = {}
    for key in tensors:
        if key.endswith(FIRST):
            name = key.removesuffix(FIRST)
            first, second = tensors[key].float(), tensors[f"{name}{SECOND}"].float()
            weight = layers[name].weight.detach() if name in layers else first.new_zeros(0, 0)
            if weight.shape != (second.shape[0], first.shape[1]):
                raise InvalidInputError(
                    f"the reader's low-rank changes do not fit the model: layer {name} has shape "
                    f"{tuple(weight.shape)}, expected {(second.shape[0], first.shape[1])}; was it trained "
                    f"for another model?"
                )
            change = (second @ first).to(weight.device) * scale
            found[name] = (weight.float() + change).to(weight.dtype)
    return found


@contextmanager
def in_place(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, layers have other weights; afterwards their own again."""
    layers = dict(model.named_modules())
    own = {name: layers[name].weight.data for name in weights}
    try:
        for name, weight in weights.items():
            layers[name].weight.data = weight
        yield
    finally:
        for name, weight in own.items():
            layers[name].weight.data = weight
