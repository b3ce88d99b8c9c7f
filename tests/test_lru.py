"""What is kept while it is used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mllm_plugin.lru import LRU


def test_the_least_recently_used_go_first():
    kept: LRU[str, int] = LRU(30)
    for number, name in enumerate("abc"):
        kept.put(name, number, 10)
    assert kept.get("a") == 0
    kept.put("d", 3, 10)
    assert [kept.get(name) for name in "abcd"] == [0, None, 2, 3]
    assert (len(kept), kept.size) == (3, 30)


def test_a_value_replaces_that_of_its_key():
    kept: LRU[str, str] = LRU(30)
    kept.put("a", "old", 30)
    kept.put("a", "new", 5)
    kept.put("b", "other", 25)
    assert (kept.get("a"), kept.get("b"), kept.size) == ("new", "other", 30)


def test_what_is_too_large_takes_no_place():
    kept: LRU[str, str] = LRU(30)
    kept.put("a", "small", 30)
    kept.put("b", "large", 31)
    assert (kept.get("a"), kept.get("b"), kept.size) == ("small", None, 30)
    kept.put("a", "has grown", 31)
    assert (kept.get("a"), kept.size) == (None, 0)


def test_forgetting():
    kept: LRU[str, int] = LRU(30)
    kept.put("a", 1, 10)
    kept.put("b", 2, 10)
    kept.pop("a")
    kept.pop("unknown")
    assert (kept.get("a"), kept.get("b"), kept.size) == (None, 2, 10)
    kept.clear()
    assert (len(kept), kept.size) == (0, 0)


def test_threads_share_it():
    kept: LRU[int, int] = LRU(500)
    draws = np.random.default_rng(0).integers(0, 100, size=(8, 2000)).tolist()

    def work(numbers: list[int]) -> bool:
        for number in numbers:
            kept.put(number, number, 1 + number)
            if kept.get(number) not in (number, None):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, draws))
    assert kept.size == sum(1 + number for number in range(100) if kept.get(number) is not None) <= 500
