"""Which adapter a `MemoryLLM` works with: the one asked for, checked against model and encoder."""

from __future__ import annotations

import warnings
from pathlib import Path

from mllm_plugin.errors import AdapterMismatchError, InvalidTypeError
from mllm_plugin.llm import Adapter, LoadedLLM, shipped_adapter
from mllm_plugin.protocols import TextEncoder

DEFAULT = "default"


def choose_adapter(
    given: str | Path | Adapter | None, llm: LoadedLLM, encoder: TextEncoder
) -> Adapter | None:
    """The adapter that a caller names.

    Args:
        given: "default" for the one that comes with the package (none, with a warning, where there is none
            for this model and encoder), None for text only, a folder, or an `Adapter`.
        llm: The model.
        encoder: The memory's.

    Raises:
        AdapterMismatchError: It was trained for another model or encoder.
        InvalidTypeError: It is none of these.
        NotFoundError: The folder holds no adapter.
    """
    if given is None:
        return None
    if given == DEFAULT:
        return _shipped(llm, encoder)
    if not isinstance(given, str | Path | Adapter):
        raise InvalidTypeError(
            f"adapter must be 'default', None, a folder or an Adapter, got {type(given).__name__}"
        )
    adapter = given if isinstance(given, Adapter) else Adapter.load(given)
    _check(adapter, llm, encoder)
    return adapter


def _shipped(llm: LoadedLLM, encoder: TextEncoder) -> Adapter | None:
    adapter = shipped_adapter(llm, encoder.fingerprint)
    if adapter is None:
        warnings.warn(
            f"no adapter comes with the package for the model {llm.name} ({llm.fingerprint}) and the encoder "
            f"{encoder.fingerprint}, so the model reads text only; train one with `mllm train-llm`, or pass "
            f"adapter=None to say that text is meant",
            stacklevel=4,
        )
    return adapter


def _check(adapter: Adapter, llm: LoadedLLM, encoder: TextEncoder) -> None:
    config = adapter.config
    if config.llm != llm.fingerprint:
        raise AdapterMismatchError(
            f"the adapter was trained for the model {config.llm_name} ({config.llm}), got {llm.name} "
            f"({llm.fingerprint}); use that model, or train an adapter for this one with `mllm train-llm`"
        )
    if not config.fits(llm, encoder.fingerprint):
        raise AdapterMismatchError(
            f"the adapter was trained for the encoder {config.encoder!r}, the memory has "
            f"{encoder.fingerprint!r}; train one for it with `mllm train-llm`"
        )
