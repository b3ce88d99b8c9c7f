"""Settings of a `MemoryLLM`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm import DEFAULT_SYSTEM
from mllm_plugin.llm.decoding import Decoding
from mllm_plugin.types import Mode

ReadingMode = Literal["auto", "memory", "text", "both", "none"]


class MemoryLLMConfig(BaseModel):
    """What the model reads of a memory, and how it writes.

    Args:
        mode: "memory" for what the reader wrote of the chunks only, "text" for chunks spelled out only,
            "both", "none" for the plain model without a search, or "auto": what the reader was measured to do
            best with, text without one.
        k: Chunks to find.
        expand: Of these, the best so many are spelled out; when left out, 1 beside memory tokens and all k
            in mode "text".
        text_tokens: Most of the model's tokens for what is spelled out; a chunk that does not fit is cut to
            the windows that answer the question best.
        memory_budget: Most of the model's positions for the whole memory block, one for each vector; filled
            with chunks, then windows.
        chunks: Chunks as one vector each, the mean of their windows.
        windows: Token windows of the chunks found, those of the best chunk first.
        repeat: Read as vectors also what is spelled out.
        lora: Use the reader's changes to the model; when left out, with memory tokens only, so that mode
            "text" runs the untouched model.
        system: The system line; in mode "none" there is none unless it is set.
        max_new_tokens: Longest answer.
        temperature: 0 takes the likeliest token, the same at every run.
        top_p: Sample among the likeliest tokens that together have this probability.
        seed: Makes sampling repeatable.
        stop: Texts before which the answer ends.
        decline_above: Decline when the model finds it likelier than this, in [0, 1], that the memory does not
            hold the answer; 1 for never. Only a reader that was trained to decline does so.
        search: How chunks are found, see `MemoryIndex.search`.
        beam_width: Nodes kept per level while searching; the memory's own when left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: ReadingMode = "auto"
    k: int = Field(default=5, ge=1)
    expand: int | None = Field(default=None, ge=0)
    text_tokens: int | None = Field(default=None, ge=1)
    memory_budget: int = Field(default=512, ge=0)
    chunks: int = Field(default=0, ge=0)
    windows: int = Field(default=512, ge=0)
    repeat: bool = False
    lora: bool | None = None
    system: str = DEFAULT_SYSTEM
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    decline_above: float = Field(default=0.5, ge=0, le=1)
    search: Mode = "auto"
    beam_width: int | None = Field(default=None, ge=1)

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
        raise InvalidInputError(
            f"setting {name!r} of the MemoryLLM: {first['msg']}, got {first['input']!r}; settings are "
            f"{', '.join(MemoryLLMConfig.model_fields)}"
        ) from None
