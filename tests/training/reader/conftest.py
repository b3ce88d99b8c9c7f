"""A small memory of invented facts, and tiny models to read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_plugin import Document, MemoryIndex
from tests.helpers.reader_facts import NAMES, TOWNS
from tests.helpers.tiny import write_tiny
from tests.helpers.toy import ToyEncoder


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def llm_folder(request, tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp(request.param), kind=request.param)


@pytest.fixture
def memory(tmp_path) -> Iterator[MemoryIndex]:
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as opened:
        opened.add(
            Document(
                id=name.lower(), text=f"The baker {name} was born in {town} in {1900 + place}, they say."
            )
            for place, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True))
        )
        yield opened


@pytest.fixture
def asked() -> tuple[dict, dict]:
    """Questions with answers, and the documents that hold them, by id."""
    pairs = list(zip(NAMES, TOWNS, strict=True))
    rows = {name: {"text": f"Where was {name} born?", "answers": ["nowhere", town]} for name, town in pairs}
    return rows, {name: {name.lower(): 1} for name in NAMES}
