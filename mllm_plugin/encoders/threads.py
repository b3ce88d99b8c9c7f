"""Threads of the CPU, each with torch to itself: for short work, and for the parts of a long forward pass.

Short work waits on a busy machine ten times as long for several threads of torch as they save. Of a forward
pass over many texts the threads of torch share every product, and wait for one another after it; a thread
that has texts of its own waits once, and pads them less.

The number of torch's threads belongs to the thread that sets it, and threads to come begin with the number
that was set last. So it is set in threads of our own, once, and never in the caller's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mllm_plugin.extras import needs

with needs("local", "a Hugging Face encoder", "open the memory with VectorsOnly(dim) or None as encoder"):
    import torch

MOST_PARTS = 8  # of a forward pass; with more threads than that each part has several
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")
_lock = threading.Lock()
_pools: dict[tuple[str, int], ThreadPoolExecutor] = {}


def on_one_thread(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Calls a function where torch works with one thread; callers side by side each have one."""
    if torch.get_num_threads() == 1:
        return function(*arguments)
    try:
        future = _pool("short", min(MOST_PARTS, os.cpu_count() or 1), 1).submit(function, *arguments)
    except RuntimeError:  # the interpreter is shutting down
        return function(*arguments)
    return future.result()


def side_by_side(function: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
    """Calls a function with each of at most `MOST_PARTS` parts, and divides torch's threads among them."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) < 2:
        return [function(part) for part in parts]
    try:
        pool = _pool("parts", min(MOST_PARTS, threads), threads)
        futures = [pool.submit(function, part) for part in parts]
    except RuntimeError:  # the interpreter is shutting down
        return [function(part) for part in parts]
    return [future.result() for future in futures]


def _pool(name: str, count: int, threads: int) -> ThreadPoolExecutor:
    with _lock:
        if (name, threads) not in _pools:
            _pools[name, threads] = _start(name, count, max(1, threads // count))
        return _pools[name, threads]


def _start(name: str, count: int, each: int) -> ThreadPoolExecutor:
    before, all_there = torch.get_num_threads(), threading.Barrier(count)
    pool = ThreadPoolExecutor(count, f"mllm-{name}", initializer=_keep_to, initargs=(each,))
    for future in [pool.submit(all_there.wait) for _ in range(count)]:
        future.result()
    torch.set_num_threads(before)
    return pool


def _keep_to(threads: int) -> None:
    torch.get_num_threads()  # a thread that was never asked begins anew with what was set last
    torch.set_num_threads(threads)


def _forget() -> None:
    """Threads do not live on in a forked process."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
