from collections.abc import Iterator
from pathlib import Path

import pytest
from langgraph_mllm import HierarchicalMemoryStore

from tests.helpers.toy import ToyEncoder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HierarchicalMemoryStore]:
    with HierarchicalMemoryStore.open(tmp_path / "memory", encoder=ToyEncoder(64)) as store:
        yield store
