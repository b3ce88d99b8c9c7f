"""Fixtures of the core's tests."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from mllm_plugin import MemoryIndex
from tests.helpers.memory_fixtures import *  # noqa: F403
from tests.helpers.recall_fixtures import *  # noqa: F403
from tests.helpers.toy import ToyEncoder


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture
def memory(tmp_path, encoder):
    with MemoryIndex.open(tmp_path / "memory", encoder=encoder) as opened:
        yield opened
