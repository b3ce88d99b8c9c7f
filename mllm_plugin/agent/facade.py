"""`AgentMemory`: the whole of an agent memory, which is also the widest scope."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from mllm_plugin.agent.likeness import Likeness
from mllm_plugin.agent.scope import AgentScope
from mllm_plugin.agent.shared import Duplicates, Shared
from mllm_plugin.calls.twins import class_twin, twin
from mllm_plugin.encoders import DEFAULT_ENCODER, EncoderLike
from mllm_plugin.errors import InvalidInputError, InvalidTypeError
from mllm_plugin.memory import MemoryIndex
from mllm_plugin.memory.checks import share
from mllm_plugin.store.audit import Audit


class AgentMemory(AgentScope):
    """A memory that agents live in: many users, small writes, versions, and forgetting that forgets.

    It is the widest scope: what it remembers itself, no user sees; it sees everything.

    Attributes:
        index: The `MemoryIndex` below it.
    """

    def __init__(
        self,
        index: MemoryIndex,
        *,
        duplicates: Duplicates = "report",
        similar: float = 0.95,
        audit: bool = True,
    ) -> None:
        _check(duplicates, similar)
        if not isinstance(index, MemoryIndex):
            raise InvalidTypeError(f"an agent memory stands on a MemoryIndex, got {type(index).__name__}")
        log = Audit(index.path, audit and not index.read_only)
        super().__init__(Shared(index, duplicates, Likeness(index, similar), log), {})
        self.index = index

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: EncoderLike | None = DEFAULT_ENCODER,
        memory: MemoryIndex | None = None,
        duplicates: Duplicates = "report",
        similar: float = 0.95,
        audit: bool = True,
        **options: Any,
    ) -> AgentMemory:
        """Creates an agent memory, or opens the one that is there.

        Args:
            path: Its folder.
            encoder: As for `MemoryIndex.open`.
            memory: One that is open already, in place of the one in `path`.
            duplicates: What happens to a fact that is there already: "report" writes it and says so, "merge"
                writes nothing, "keep" does not look.
            similar: Least cosine of near-duplicates.
            audit: Whether a log is kept.
            options: Further ones of `MemoryIndex.open`.
        """
        _check(duplicates, similar)  # before a folder is made
        index = MemoryIndex.open(path, encoder=encoder, **options) if memory is None else memory
        return cls(index, duplicates=duplicates, similar=similar, audit=audit)

    aopen = class_twin(open)

    def close(self) -> None:
        """Closes the files; further calls raise `ClosedError`."""
        self.index.close()
        self._shared.audit.close()

    aclose = twin(close)

    def __enter__(self) -> AgentMemory:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> AgentMemory:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


def _check(duplicates: Any, similar: Any) -> None:
    if duplicates not in get_args(Duplicates):
        raise InvalidInputError(f"duplicates must be one of {get_args(Duplicates)}, got {duplicates!r}")
    if share("similar", similar) == 0:
        raise InvalidInputError("similar must be above 0: else everything is like everything")
