"""The example, run with the real encoder."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "agent_langgraph.py"


def test_agent_example(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    output = capsys.readouterr().out
    assert [line[5:] for line in output.splitlines() if line.startswith("  -> ")] == [
        "Noted as food.",
        "Ann is allergic to peanuts.",
        "Forgotten: food.",
        "There is no note.",
    ]
