"""Settings of a `MemoryLLM`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm import DEFAULT_SYSTEM
from mllm_plugin.llm.decoding import Decoding
from mllm_plugin.types import SearchMode

ReadingMode = Literal["auto", "memory", "text", "both", "none"]


class MemoryLLMConfig(Decoding):
    """What the model reads of a memory, and how it writes."""

    mode: ReadingMode = "auto"
    """What is read: "memory" for what the reader wrote of the chunks, "text" for chunks spelled out, "both",
    "none" for the plain model without a search, or "auto": what the reader was measured to do best with,
    text without one.
    """
    k: int = Field(default=5, ge=1)
    """Chunks to find."""
    expand: int | None = Field(default=None, ge=0)
    """Of these, the best so many are spelled out; when left out, 1 beside memory tokens and all k in mode
    "text".
    """
    text_tokens: int | None = Field(default=None, ge=1)
    """Most of the model's tokens for what is spelled out; a chunk that does not fit is cut to the windows
    that answer the question best.
    """
    labels: int = Field(default=0, ge=0)
    """Nodes whose labels come before all else, as text: the best of every level, coarse to fine. A label is
    the words that tell what a node is about.
    """
    memory_budget: int = Field(default=512, ge=0)
    """Most of the model's positions for the whole memory block, one for each vector; filled with nodes, then
    chunks, then windows.
    """
    nodes: int = Field(default=0, ge=0)
    """Nodes as one vector each, the mean of what the reader writes of their most central chunks: the best of
    every level, coarse to fine. They tell what the memory is about, as labels do in words.
    """
    chunks: int = Field(default=0, ge=0)
    """Chunks as one vector each, the mean of their windows."""
    windows: int = Field(default=512, ge=0)
    """Token windows of the chunks found, those of the best chunk first."""
    repeat: bool = False
    """Read as vectors also what is spelled out."""
    lora: bool | None = None
    """Use the reader's changes to the model; when left out, with memory tokens only, so that mode "text" runs
    the untouched model.
    """
    system: str = DEFAULT_SYSTEM
    """The system line; in mode "none" there is none unless it is set."""
    min_relevance: float = Field(default=0.0, ge=0, le=1)
    """Hits of a lower relevance are not read; where none is left the model is not asked, and the answer is
    that the memory does not know.
    """
    hot_bytes: int = Field(default=64 << 20, ge=0)
    """Bytes of RAM for what the model remembers of chunks that it read as text lately, so that the next
    answer from one comes sooner; it counts when the `MemoryLLM` is opened. 0, also for one call, for none.
    """
    search: SearchMode = "auto"
    """How chunks are found, see `MemoryIndex.search`."""
    beam_width: int | None = Field(default=None, ge=1)
    """Nodes kept per level while searching; the memory's own when left out."""

    @property
    def decoding(self) -> Decoding:
        """What concerns the writing."""
        return Decoding(**{name: getattr(self, name) for name in Decoding.model_fields})

    def spelled(self, *, embeddings: bool) -> int:
        """Chunks to spell out, beside memory tokens or without."""
        if self.expand is not None:
            return self.expand
        return 1 if embeddings else self.k


def settings_of(
    reading: Mapping[str, Any], config: MemoryLLMConfig, given: Mapping[str, Any]
) -> MemoryLLMConfig:
    """One set of settings from several, later ones first to be heard.

    Args:
        reading: How the reader was trained to read.
        config: Of this `MemoryLLM`; only what was set in it counts.
        given: With one call.

    Raises:
        InvalidInputError: A setting is unknown or has no acceptable value.
    """
    own = {name: getattr(config, name) for name in config.model_fields_set}
    stop = given.get("stop")
    values = {**reading, **own, **given, **({"stop": (stop,)} if isinstance(stop, str) else {})}
    try:
        return MemoryLLMConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = sorted(MemoryLLMConfig.model_fields, key=Decoding.model_fields.__contains__)
        raise InvalidInputError(
            f"setting {name!r} of the MemoryLLM: {first['msg']}, got {first['input']!r}; settings are "
            f"{', '.join(known)}"
        ) from None
