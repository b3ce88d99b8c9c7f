"""Fixtures of the core's tests."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import asyncio
import warnings
from collections.abc import Iterator

import pytest

from mllm_plugin import MemoryIndex
from tests.helpers.memory_fixtures import *  # noqa: F403
from tests.helpers.recall_fixtures import *  # noqa: F403
from tests.helpers.toy import ToyEncoder


@pytest.fixture(autouse=True)
def no_open_event_loop() -> Iterator[None]:
    """Closes the event loop that a framework's synchronous calls made and left for the thread's next ones.

    Otherwise it is found open when memory is collected, by chance in another test (`ResourceWarning`).
    """
    yield
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            loop = asyncio.get_event_loop()
    except RuntimeError:  # none is set
        return
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture
def memory(tmp_path, encoder):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as opened:
        yield opened
