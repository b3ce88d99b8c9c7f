"""A memory that is opened in the background, so that a server answers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mllm_plugin.agent import AgentMemory
from mllm_plugin.encoders import DEFAULT_ENCODER, as_encoder
from mllm_plugin.encoders.quick import QuickEncoder, quick_encoder

if TYPE_CHECKING:
    from mllm_plugin.protocols import TextEncoder


@dataclass(frozen=True)
class Source:
    """Which memory to serve; it can be pickled, for a worker.

    Attributes:
        path: Its folder; made when there is none, unless it is only read.
        encoder: A model's name or path, or what `AgentMemory.open` takes.
        read_only: Never write.
    """

    path: Path
    encoder: Any = DEFAULT_ENCODER
    read_only: bool = False

    def open(self) -> tuple[AgentMemory, TextEncoder]:
        """Opens it; torch is loaded no sooner than a text is long, or there are many."""
        named = isinstance(self.encoder, str | Path)
        encoder = quick_encoder(self.encoder, documents=True) if named else as_encoder(self.encoder)
        return AgentMemory.open(self.path, encoder=encoder, read_only=self.read_only), encoder


class Opening:
    """Opens a memory in a thread, then has its encoder embed a word, after which it is fast.

    Args:
        open_memory: Returns the memory and its encoder.
        whole: Also load what embeds long texts, before the first of them comes.
    """

    def __init__(
        self, open_memory: Callable[[], tuple[AgentMemory, TextEncoder]], whole: bool = False
    ) -> None:
        self._open, self._whole = open_memory, whole
        self._opened, self._warmed = threading.Event(), threading.Event()
        self._memory: AgentMemory | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="mllm-opening", daemon=True)

    def start(self) -> Opening:
        """Begins, and returns at once."""
        self._thread.start()
        return self

    def memory(self) -> AgentMemory:
        """The memory, once it is open.

        Raises:
            MLLMError: It cannot be opened; every call says so.
        """
        self._opened.wait()
        if self._memory is None:
            assert self._error is not None
            raise self._error
        return self._memory

    @property
    def state(self) -> Literal["opening", "ready", "failed"]:
        """Whether a call would wait, be answered at once, or be told why it cannot be."""
        if not self._warmed.is_set():
            return "opening"
        return "failed" if self._memory is None else "ready"

    def close(self) -> None:
        """Closes the memory, once the opening of it has ended."""
        self._opened.wait()
        if self._memory is not None:
            self._memory.close()

    def _run(self) -> None:
        try:
            self._memory, encoder = self._open()
            self._opened.set()
            if self._whole and isinstance(encoder, QuickEncoder):
                _ = encoder.loaded
            encoder.encode_documents(["warm"])
        except Exception as error:  # told to every caller; an encoder that fails says so again when used
            self._error = error
        finally:
            self._opened.set()
            self._warmed.set()
