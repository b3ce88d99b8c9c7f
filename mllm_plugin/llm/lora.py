"""Low-rank changes to a language model's linear layers.

For training through peft: put on, switched on and off, taken off; several sets of changes may be on one model
under names of their own. For use added into a second set of weights, which costs memory once and no time per
token (a third of the time on a CPU, where a small model's layers are many and quick). Either way the model
without them is what it was, bit for bit.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mllm_plugin.errors import InvalidInputError, MissingDependencyError

ALL_LINEAR = "all-linear"


def put_on(
    model: Any,
    name: str,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Adds changes to a model, switched on.

    Args:
        model: A transformers model; its own weights are frozen.
        name: Tells these changes from others on the same model.
        rank: Of each change.
        alpha: Scale of the changes, relative to the rank.
        dropout: While training.
        targets: Names of the layers; all linear ones but the output layer by default.
        tensors: Trained values; without, the changes start at nothing.

    Raises:
        MissingDependencyError: peft is not installed.
        InvalidInputError: The tensors do not fit the model.
    """
    peft = _peft()
    given = targets if isinstance(targets, str) else list(targets)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=given, task_type="CAUSAL_LM"
    )
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are meant
        peft.inject_adapter_in_model(config, model, adapter_name=name)
    try:
        if tensors is not None:
            _load(model, name, tensors)
    except InvalidInputError:
        take_off(model, name)
        raise
    switch(model, name)


def untrained(model: Any, rank: int, seed: int = 0) -> dict[str, Tensor]:
    """First values of changes to all linear layers but the output layer: they change nothing yet."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, module in linear_layers(model).items():
        out, into = module.weight.shape
        found[f"{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator) / into**0.5
        found[f"{name}.lora_B.weight"] = torch.zeros(out, rank)
    return found


def linear_layers(model: Any) -> dict[str, Any]:
    """All linear layers but the output layer, by name; GPT-2's are a kind of its own."""
    from transformers.pytorch_utils import Conv1D

    places = {id(module): name for name, module in model.named_modules()}
    modules = model.get_decoder().modules()
    return {places[id(one)]: one for one in modules if isinstance(one, torch.nn.Linear | Conv1D)}


def _load(model: Any, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Copies values into the changes; peft's own loader wants a model that it has wrapped."""
    own = dict(_own(model, name))
    if own.keys() != tensors.keys() or any(own[key].shape != tensors[key].shape for key in own):
        missing, more = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise InvalidInputError(
            f"the adapter's LoRA weights do not fit the model: missing {missing[:2]}, not in it {more[:2]}; "
            f"was it trained for another model?"
        )
    for key, value in own.items():
        value.data.copy_(tensors[key])


def _own(model: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The parameters of one set of changes, by their names without the set's name."""
    part = f".{name}."
    for key, value in model.named_parameters():
        if ".lora_" in key and part in key:
            yield key.replace(part, "."), value


def tensors_of(model: Any, name: str) -> dict[str, Tensor]:
    """The values of changes that are on the model, detached."""
    return {key: value.detach() for key, value in _own(model, name)}


def switch(model: Any, name: str | None) -> None:
    """Switches to one set of changes, or all of them off."""
    for _, _, layer in _layers(model):
        if name is not None and name in layer.lora_A:
            layer.set_adapter(name)
            layer.enable_adapters(True)
        else:
            layer.enable_adapters(False)


def switched_on(model: Any) -> str | None:
    """The name of the changes that are switched on."""
    for _, _, layer in _layers(model):
        if not layer.disable_adapters:
            return str(layer.active_adapters[0])
    return None


@contextmanager
def switched(model: Any, name: str | None) -> Iterator[None]:
    """Switches to one set of changes, or all off, and afterwards back."""
    before = switched_on(model)
    switch(model, name)
    try:
        yield
    finally:
        switch(model, before)


def added(model: Any, tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The changed layers' weights with the changes in them, by the layers' names.

    Raises:
        InvalidInputError: The tensors do not fit the model.
    """
    layers = dict(model.named_modules())
    found: dict[str, Tensor] = {}
    for key in tensors:
        name, is_first, _ = key.partition(".lora_A.")
        if is_first:
            first, second = tensors[key].float(), tensors[f"{name}.lora_B.weight"].float()
            weight = layers[name].weight.detach() if name in layers else first.new_zeros(0, 0)
            if weight.shape != (second.shape[0], first.shape[1]):
                raise InvalidInputError(
                    f"the adapter's LoRA weights do not fit the model: layer {name} has shape "
                    f"{tuple(weight.shape)}, expected {(second.shape[0], first.shape[1])}; was the adapter "
                    f"trained for another model?"
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


def take_off(model: Any, name: str) -> None:
    """Removes changes; with the last of them the model has its own layers again."""
    for parent, child, layer in list(_layers(model)):
        if name in layer.lora_A:
            others = [one for one in layer.lora_A if one != name]
            if others:
                layer.set_adapter(others[0])  # peft warns of taking off what is active
                layer.delete_adapter(name)
            else:
                setattr(parent, child, layer.get_base_layer())
    configs = getattr(model, "peft_config", {})
    configs.pop(name, None)
    if not configs and hasattr(model, "peft_config"):
        del model.peft_config


def _layers(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Changed layers, each with its parent and its name there."""
    if not hasattr(model, "peft_config"):
        return
    from peft.tuners.lora import LoraLayer

    for parent in list(model.modules()):
        for child, module in list(parent.named_children()):
            if isinstance(module, LoraLayer):
                yield parent, child, module


def _peft() -> Any:
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError("LoRA needs the package peft: pip install 'mllm-plugin[llm]'")
    import peft

    return peft
