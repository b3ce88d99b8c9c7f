"""Real clients of `mllm mcp`: the example's, and the MCP Inspector where it is installed."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.serving_tools import ROOT, environment

INSPECTOR = shutil.which("mcp-inspector")


def test_the_example_session(capsys, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    runpy.run_path(str(ROOT / "examples" / "mcp_session.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "tools: remember, recall, forget, mask, unmask, update, list, overview" in printed
    assert "now: Ann lives in Rome." in printed
    assert "then: Ann lives in Oslo." in printed
    assert "refused: AccessError" in printed
    assert "erased: True\nlist()\n  left: ['Ann is allergic to peanuts.']" in printed


@pytest.mark.skipif(INSPECTOR is None, reason="needs npm install -g @modelcontextprotocol/inspector")
def test_the_inspector_lists_and_calls(tmp_path) -> None:
    tools = inspected(tmp_path, "tools/list")["tools"]
    assert {one["name"] for one in tools if one["annotations"]["readOnlyHint"]} == {
        "recall",
        "list",
        "overview",
    }
    assert [one["name"] for one in tools if one["annotations"]["destructiveHint"]] == ["forget"]
    called(tmp_path, "remember", "text=Ann lives in Oslo.", "id=home")
    found = called(tmp_path, "recall", "query=Where does Ann live?", "k=1")
    assert [one["id"] for one in json.loads(found["content"][0]["text"])["items"]] == ["home"]
    refused = called(tmp_path, "recall", "query=x", 'scope={"user": "bob"}')
    assert refused["isError"]


def called(tmp_path: Path, tool: str, *arguments: str) -> dict:
    given = [part for one in arguments for part in ("--tool-arg", one)]
    return inspected(tmp_path, "tools/call", "--tool-name", tool, *given)


def inspected(tmp_path: Path, method: str, *options: str) -> dict:
    memory = ["--memory", str(tmp_path / "memory"), "--scope", "user=ann"]
    server = [sys.executable, "-m", "mllm_plugin", "mcp", *memory]
    said = subprocess.run(
        [str(INSPECTOR), "--cli", *server, "--method", method, *options],
        env=environment(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    return json.loads(said.stdout)
