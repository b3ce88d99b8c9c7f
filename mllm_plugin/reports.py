"""Reports of several calls as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mllm_plugin.types import AddReport

_COUNTS = ("added", "updated", "unchanged", "chunks", "encoded")


def totals(reports: Iterable[AddReport]) -> dict[str, Any]:
    """The counts of an `AddReport` or a `BuildReport`, added up over calls."""
    reports = list(reports)
    return {name: sum(getattr(report, name) for report in reports) for name in _COUNTS}
