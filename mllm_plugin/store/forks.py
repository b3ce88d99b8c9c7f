"""SQLite across `fork`: no connection that is not in use is inherited, and none that is inherited is touched.

A child that uses, or only closes, a connection of its parent breaks the file's locks. Even a connection of
its own would share SQLite's tables of locks with an inherited one. So whatever is idle is closed before a
fork and opened again, by each process for itself, when it is needed.

Source: sqlite.org/howtocorrupt.html, section 2.6.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class HoldsFiles(Protocol):
    """Something with connections."""

    def before_fork(self) -> None:
        """Closes what is idle and keeps others from opening more."""

    def after_fork(self, *, child: bool) -> None:
        """Goes on; a child makes its locks anew and leaves alone what it inherited."""


_owners: WeakSet[HoldsFiles] = WeakSet()
_waiting: list[HoldsFiles] = []
_one_fork = threading.Lock()


def watch_forks(owner: HoldsFiles) -> None:
    """From now on the owner is told of forks, as long as it lives."""
    _owners.add(owner)


def _before() -> None:
    _one_fork.acquire()
    for owner in list(_owners):
        owner.before_fork()
        _waiting.append(owner)


def _after(*, child: bool) -> None:
    global _one_fork
    while _waiting:
        _waiting.pop().after_fork(child=child)
    if child:
        _one_fork = threading.Lock()
    else:
        _one_fork.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after(child=False),
        after_in_child=lambda: _after(child=True),
    )
