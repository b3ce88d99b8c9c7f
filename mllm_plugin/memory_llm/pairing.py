"""Which adapter a `MemoryLLM` works with: the one asked for, checked against model and encoder."""

from __future__ import annotations

import warnings
from pathlib import Path

from mllm_plugin.errors import AdapterMismatchError, InvalidTypeError
from mllm_plugin.llm import Adapter, AdapterConfig, LoadedLLM, MemoryReader, shipped_adapter, shipped_reader
from mllm_plugin.llm.reader import CONFIG_NAME as READER_NAME
from mllm_plugin.protocols import TextEncoder

DEFAULT = "default"


def choose_adapter(
    given: str | Path | Adapter | MemoryReader | None, llm: LoadedLLM, encoder: TextEncoder
) -> Adapter | MemoryReader | None:
    """The adapter that a caller names.

    Args:
        given: "default" for the one that comes with the package (none, with a warning, where there is none
            for this model and encoder), None for text only, a folder, a `MemoryReader` or an `Adapter`.
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
    if not isinstance(given, str | Path | Adapter | MemoryReader):
        raise InvalidTypeError(
            f"adapter must be 'default', None, a folder, a MemoryReader or an Adapter, got "
            f"{type(given).__name__}"
        )
    adapter = _loaded(given) if isinstance(given, str | Path) else given
    _check(adapter, llm, encoder)
    return adapter


def _loaded(folder: str | Path) -> Adapter | MemoryReader:
    return (MemoryReader if (Path(folder) / READER_NAME).is_file() else Adapter).load(folder)


def _shipped(llm: LoadedLLM, encoder: TextEncoder) -> Adapter | MemoryReader | None:
    adapter = shipped_reader(llm) or shipped_adapter(llm, encoder.fingerprint)
    if adapter is None:
        warnings.warn(
            f"no adapter comes with the package for the model {llm.name} ({llm.fingerprint}) and the encoder "
            f"{encoder.fingerprint}, so the model reads text only; train one with `mllm train-llm`, or pass "
            f"adapter=None to say that text is meant",
            stacklevel=4,
        )
    return adapter


def _check(adapter: Adapter | MemoryReader, llm: LoadedLLM, encoder: TextEncoder) -> None:
    config = adapter.config
    if config.llm != llm.fingerprint:
        raise AdapterMismatchError(
            f"the adapter was trained for the model {config.llm_name} ({config.llm}), got {llm.name} "
            f"({llm.fingerprint}); use that model, or train an adapter for this one with `mllm train-llm`"
        )
    if not config.fits(llm, encoder.fingerprint) and isinstance(config, AdapterConfig):
        raise AdapterMismatchError(
            f"the adapter was trained for the encoder {config.encoder!r}, the memory has "
            f"{encoder.fingerprint!r}; train one for it with `mllm train-llm`"
        )
