"""Pictures are drawn from the tables that are shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = """## Many

|  | setting | recall@10 | scored | p50 ms |
|---|---|---|---|---|
| one | narrow | 0.5000 | 7 | 0.100 |
| one | wide | 0.9000 | 70 | 0.300 |
| other | all | 1.0000 |  | 9.000 |

| built | seconds |
|---|---|
| one | 3.0 |

## More

|  | setting | recall@10 | p50 ms |
|---|---|---|---|
| third | all | 1.0000 | 9.000 |
"""


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import curves

    return curves


def test_each_table_of_a_section_is_a_panel(curves):
    (panel,) = curves.curves(TEXT, "Many")
    assert panel == {"one": [(0.5, 0.1), (0.9, 0.3)], "other": [(1.0, 9.0)]}


def test_a_picture_is_made(curves, tmp_path):
    pytest.importorskip("matplotlib")
    curves.draw(list(curves.curves(TEXT, "Many")), tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
