"""A memory that is opened in the background, so that a server answers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mllm_plugin.agent import AgentMemory


class Opening:
    """Opens a memory in a thread, then has its encoder embed a word, after which it is fast.

    Args:
        open_memory: Returns the memory.
        warm: Also load what embeds documents, before the first of them comes.
    """

    def __init__(self, open_memory: Callable[[], AgentMemory], warm: bool = True) -> None:
        self._open, self._warm = open_memory, warm
        self._opened, self._warmed = threading.Event(), threading.Event()
        self._memory: AgentMemory | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="mllm-opening", daemon=True)

    def start(self) -> Opening:
        """Begins, and returns at once."""
        self._thread.start()
        return self

    def memory(self, *, warm: bool = False) -> AgentMemory:
        """The memory, once it is open.

        Args:
            warm: Wait for the encoder of documents, too.

        Raises:
            MLLMError: It cannot be opened; every call says so.
        """
        (self._warmed if warm else self._opened).wait()
        if self._memory is None:
            assert self._error is not None
            raise self._error
        return self._memory

    @property
    def ready(self) -> bool:
        """Whether a call would not wait."""
        return self._warmed.is_set() and self._memory is not None

    def close(self) -> None:
        """Closes the memory, once the opening of it has ended."""
        self._opened.wait()
        if self._memory is not None:
            self._memory.close()

    def _run(self) -> None:
        try:
            self._memory = self._open()
            self._opened.set()
            if self._warm:
                self._memory.index.encoder.encode_documents(["warm"])
        except Exception as error:  # told to every caller; what cannot embed says so itself when it should
            self._error = error
        finally:
            self._opened.set()
            self._warmed.set()
