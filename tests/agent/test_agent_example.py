"""The example of an agent's memory, as a user runs it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_it_tells_asks_changes_and_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "agent_memory.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "Where does Ann work? -> Ann works at Acme." in printed
    assert "And now? -> Ann works at Initech." in printed
    assert "In June? -> Ann works at Acme." in printed
    assert "Forgotten, erased: True" in printed
    assert "his own: ['Bob works at Initech.']" in printed
