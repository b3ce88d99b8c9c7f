"""Copies share what is open; a pickle holds what opens it again in another process, or is refused."""

from __future__ import annotations

import pickle
from typing import Any

from pydantic import BaseModel

from mllm_plugin.errors import InvalidTypeError


def sharing(memo: dict[int, Any] | None, *held: Any) -> dict[int, Any]:
    """The memo of a deep copy in which these stand for themselves."""
    memo = {} if memo is None else memo
    memo.update({id(part): part for part in held})
    return memo


def check_picklable(encoder: Any) -> None:
    """Says clearly what pickle says obscurely, and not at all where LlamaIndex drops what does not pickle."""
    try:
        pickle.dumps(encoder)
    except Exception as error:
        raise InvalidTypeError(
            f"the encoder {type(encoder).__name__} cannot be pickled ({error}), and so what holds it cannot; "
            f"give it a __reduce__ that names what loads it, or load it in the other process"
        ) from error


def state_of(component: BaseModel) -> dict[str, Any]:
    """The state of a component of LlamaIndex, which its own way would cut; handlers stay in their process."""
    state = BaseModel.__getstate__(component)
    fields = {name: value for name, value in state["__dict__"].items() if name != "callback_manager"}
    return {**state, "__dict__": fields}


def restore(component: BaseModel, state: dict[Any, Any]) -> None:
    """Sets what `state_of` returned."""
    fields = dict(state["__dict__"])
    for name, field in type(component).model_fields.items():
        if name not in fields:
            fields[name] = field.get_default(call_default_factory=True)
    BaseModel.__setstate__(component, {**state, "__dict__": fields})
