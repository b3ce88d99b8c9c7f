"""`mllm index --watch`: a pass for every change on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mllm_plugin.cli.indexing import Wishes
from mllm_plugin.cli.output import note
from mllm_plugin.extras import needs


def changes(wishes: Wishes, memory: Path) -> Iterator[Wishes]:
    """Waits for changes and says each time what to index; ends when interrupted.

    A file that is removed is removed from the memory. A folder that is gone as a whole may be a drive that
    was taken away: its documents stay.

    Raises:
        MissingDependencyError: watchfiles is not installed.
    """
    with needs("watch", "--watch"):
        from watchfiles import watch
    note(f"watching {', '.join(map(str, wishes.paths))}; Ctrl-C ends")
    folders = [path for path in wishes.paths if path.is_dir()]
    files = [path for path in wishes.paths if path not in folders]
    watched = {*folders, *(path.resolve().parent for path in files)}
    outside = _outside(memory.resolve())
    caught_up = False  # what changed before the watch began shows in one pass without a change
    events = watch(*watched, watch_filter=outside, yield_on_timeout=True)
    while (changed := _next(events)) is not None:
        if changed or not caught_up:
            caught_up = True
            there = [path for path in folders if path.is_dir()]
            yield replace(wishes, paths=(*there, *files), force=False)


def _next(events: Iterator[set[Any]]) -> set[Any] | None:
    """The next changes; None when the user interrupts the waiting."""
    try:
        return next(events, None)
    except KeyboardInterrupt:
        return None


def _outside(memory: Path) -> Callable[[object, str], bool]:
    """Passes over what the memory itself writes."""

    def is_outside(change: object, path: str) -> bool:
        return memory not in (Path(path), *Path(path).parents)

    return is_outside
