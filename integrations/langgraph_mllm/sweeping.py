"""A thread that sweeps every so often."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mllm_plugin.errors import MLLMError

_logger = logging.getLogger(__name__)


class Sweeper:
    """Calls a function at intervals until it is stopped; an error is logged and the next turn tries again."""

    def __init__(self, sweep: Callable[[], object]) -> None:
        self._sweep, self._stopped = sweep, threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, seconds: float) -> None:
        """Begins, unless it runs already."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, args=(seconds,), name="ttl-sweeper", daemon=True)
        self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """Ends it; False when it was still at work after `timeout` seconds."""
        self._stopped.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            try:
                self._sweep()
            except MLLMError:
                _logger.warning("could not sweep what has expired; trying again later", exc_info=True)
