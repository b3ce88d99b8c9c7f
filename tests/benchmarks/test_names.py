"""A script's folder is first on the path: its name must not be that of a package that others look for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers", reason="pip install 'mllm-plugin[local]'")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def looked_for() -> set[str]:
    """Packages that transformers asks for by name before it loads a model."""
    source = Path(transformers.utils.import_utils.__file__).read_text(encoding="utf-8")
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    }


def test_no_script_stands_in_for_a_package():
    assert "kernels" in looked_for()
    assert not {path.stem for path in BENCHMARKS.rglob("*.py")} & looked_for()
