"""Which reader a `MemoryLLM` works with: the one asked for, checked against the model."""

from __future__ import annotations

import warnings
from pathlib import Path

from mllm_plugin.errors import AdapterMismatchError, InvalidTypeError
from mllm_plugin.llm import LoadedLLM, MemoryReader, shipped_reader
from mllm_plugin.memory_llm.config import MemoryLLMConfig, settings_of

DEFAULT = "default"


def choose_reader(given: str | Path | MemoryReader | None, llm: LoadedLLM) -> MemoryReader | None:
    """The reader that a caller names.

    Args:
        given: "default" for the one that comes with the package (none, with a warning, where there is none
            for this model), None for text only, a folder, or a `MemoryReader`.
        llm: The model.

    Raises:
        AdapterMismatchError: It was trained for another model.
        InvalidInputError: It is damaged, its tensors do not fit the model, or a setting of it is none.
        InvalidTypeError: It is none of these.
        NotFoundError: The folder holds no reader.
    """
    if given is None:
        return None
    if given == DEFAULT:
        return _shipped(llm)
    if not isinstance(given, str | Path | MemoryReader):
        raise InvalidTypeError(
            f"adapter must be 'default', None, a folder or a MemoryReader, got {type(given).__name__}"
        )
    reader = given if isinstance(given, MemoryReader) else MemoryReader.load(given)
    if not reader.config.fits(llm):
        raise AdapterMismatchError(
            f"the reader was trained for the model {reader.config.llm_name} ({reader.config.llm}), got "
            f"{llm.name} ({llm.fingerprint}); use that model, or train a reader for this one with "
            f"`mllm train-llm`"
        )
    reader.check(llm)
    for settings in (reader.config.reading, reader.config.auto):
        settings_of(settings, MemoryLLMConfig(), {})
    return reader


def _shipped(llm: LoadedLLM) -> MemoryReader | None:
    reader = shipped_reader(llm)
    if reader is None:
        warnings.warn(
            f"no reader comes with the package for the model {llm.name} ({llm.fingerprint}), so the model "
            f"reads text only; train one with `mllm train-llm`, or pass adapter=None to say that text is "
            f"meant",
            stacklevel=4,
        )
    return reader
