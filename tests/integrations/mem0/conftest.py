"""A `Memory` of mem0's kind over a toy encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mem0_mllm import Memory

from tests.helpers.toy import ToyEncoder


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Memory]:
    with Memory({"path": tmp_path / "m", "encoder": ToyEncoder(64)}) as memory:
        yield memory
        report = memory.memory.index.verify()
        assert report.ok, report.problems
