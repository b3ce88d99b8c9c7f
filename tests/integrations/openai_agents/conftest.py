"""An agent memory, and the SDK's tracing switched off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import set_tracing_disabled

from mllm_plugin.agent import AgentMemory, AgentScope
from tests.helpers.toy import ToyEncoder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    set_tracing_disabled(True)


@pytest.fixture
def agents_memory(tmp_path: Path) -> Iterator[AgentMemory]:
    with AgentMemory.open(tmp_path / "m", encoder=ToyEncoder(64)) as memory:
        yield memory
        report = memory.index.verify()
        assert report.ok, report.problems


@pytest.fixture
def ann(agents_memory: AgentMemory) -> AgentScope:
    return agents_memory.scope(user="ann")
