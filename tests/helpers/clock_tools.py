"""A clock that is set by hand, a memory that goes by it, and what the tests of times store and look for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from mllm_plugin import Document, MemoryIndex, clock
from tests.helpers.toy import ToyEncoder

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture
def hands(monkeypatch) -> Hands:
    found = Hands()
    monkeypatch.setattr(clock, "now", found)
    return found


@pytest.fixture
def timed_memory(tmp_path, hands):
    with MemoryIndex.open(tmp_path / "memory", encoder=ToyEncoder()) as opened:
        yield opened


def ids(found) -> set[str]:
    return {getattr(one, "document_id", None) or one.id for one in found}


def found_in(memory: MemoryIndex, **options) -> set[str]:
    return ids(memory.search("cat", k=50, **options))


def cats(count: int, **fields) -> list[Document]:
    return [Document(f"cat number {n}", id=f"c{n}", **fields) for n in range(count)]


def nodes(memory: MemoryIndex) -> list:
    """The embeddings of all levels, as a language model would read them."""
    recalled = memory.recall("cat", k=3, nodes=50, exact=True)
    return [
        (level, one.vectors.tobytes()) for level, many in recalled.levels.items() if level > 1 for one in many
    ]
