"""What Prometheus asks for; counted over all workers, and without names or texts."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where workers put their counts; prometheus_client reads the name
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Calls by verb and status, and their seconds."""

    def __init__(self) -> None:
        self._own = CollectorRegistry()
        self._calls = Counter(
            "mllm_calls", "Calls, by verb and status.", ["verb", "status"], registry=self._own
        )
        self._seconds = Histogram(
            "mllm_call_seconds", "Seconds a call took.", ["verb"], registry=self._own, buckets=_SECONDS
        )

    def count(self, verb: str, status: int, seconds: float) -> None:
        """Counts one call."""
        self._calls.labels(verb, str(status)).inc()
        self._seconds.labels(verb).observe(seconds)

    def shown(self) -> bytes:
        """All counts in Prometheus' text format."""
        if not os.environ.get(FOLDER):
            return generate_latest(self._own)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)
