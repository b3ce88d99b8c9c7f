"""Short work on one thread of torch: on a busy machine the others cost ten times what they save."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

_Result = TypeVar("_Result")
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def on_one_thread(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Calls a function where torch works with one thread; callers side by side each have one.

    The number of threads belongs to the thread that sets it, and threads to come begin with the number that
    was set last. So it is set in threads of our own, once, and never in the caller's.
    """
    if torch.get_num_threads() == 1:
        return function(*arguments)
    try:
        future = _workers().submit(function, *arguments)
    except RuntimeError:  # the interpreter is shutting down
        return function(*arguments)
    return future.result()


def _workers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = _start(min(8, os.cpu_count() or 1))
        return _pool


def _start(count: int) -> ThreadPoolExecutor:
    before, all_there = torch.get_num_threads(), threading.Barrier(count)
    pool = ThreadPoolExecutor(count, "mllm-short", initializer=_keep_to_one)
    for future in [pool.submit(all_there.wait) for _ in range(count)]:
        future.result()
    torch.set_num_threads(before)
    return pool


def _keep_to_one() -> None:
    torch.get_num_threads()  # a thread that was never asked begins anew with what was set last
    torch.set_num_threads(1)


def _forget() -> None:
    """Threads do not live on in a forked process."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
