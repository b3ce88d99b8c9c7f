from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mllm_plugin.cli import main
from mllm_plugin.errors import DiskFullError

COMMANDS = sorted(main.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_the_commands_that_are_promised_are_there() -> None:
    expected = (
        "ask backup compact demo export import index install list mask mcp read-index reembed remove repair "
        "restore search serve show stats token train train-llm unmask verify"
    )
    assert expected.split() == COMMANDS


NEEDING_A_MEMORY = [
    ["search", "x"],
    ["list"],
    ["show", "x"],
    ["remove", "x"],
    ["mask", "x"],
    ["unmask", "x"],
    ["stats"],
    ["train", "--out", "weights"],
    ["train-llm", "--into", "adapter"],
    ["ask", "x"],
    ["read-index"],
    ["install", "identity"],
    ["verify"],
    ["compact"],
    ["backup", "b.db"],
    ["export", "e.jsonl"],
]


@pytest.mark.parametrize("command", NEEDING_A_MEMORY, ids=lambda command: command[0])
def test_without_a_memory_the_error_says_how_to_make_one(
    mllm, folder: Path, tmp_path: Path, monkeypatch, command
) -> None:
    monkeypatch.chdir(tmp_path)
    result = mllm(*command, code=1)
    assert "no memory at" in result.stderr
    assert "mllm index" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_errors_as_json(mllm, folder: Path) -> None:
    error = json.loads(mllm("stats", "--json", code=1).stdout)["error"]
    assert error["type"] == "NotFoundError"
    assert "no memory at" in error["message"]


def test_options_may_stand_before_the_command(mllm, indexed: Path, folder: Path, tmp_path: Path) -> None:
    result = mllm("--json", "--memory", folder, "stats", memory=tmp_path / "other")
    assert json.loads(result.stdout)["documents"] == 3


def test_the_environment_names_the_memory(indexed: Path, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLLM_MEMORY", str(folder))
    result = CliRunner().invoke(main, ["list", "--json"])
    assert len(json.loads(result.stdout)) == 3


def test_verbose_shows_stages(mllm, indexed: Path) -> None:
    result = mllm("search", "herons", "-v", "--json")
    assert json.loads(result.stdout)["hits"]
    for stage in ("load encoder", "open", "encode", "score", "search"):
        assert stage in result.stderr


def test_another_encoder_is_refused(mllm, indexed: Path, encoder) -> None:
    encoder.fingerprint = "another"
    assert "was written with encoder" in mllm("search", "x", code=1).stderr


def test_a_full_disk_is_one_line(mllm, files: Path, monkeypatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise DiskFullError("no space left;\nnothing was kept")

    monkeypatch.setattr("mllm_plugin.memory.MemoryIndex.add_provisionally", full)
    error = mllm("index", files, code=1).stderr.splitlines()[-1]
    assert error.startswith("Error: no space left; nothing was kept. 0 documents before it are kept")


def test_a_memory_that_is_a_file_is_refused(mllm, files: Path, tmp_path: Path) -> None:
    assert "is a file" in mllm("index", files, memory=files / "herons.md", code=1).stderr


def test_the_module_runs(indexed: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "mllm_plugin", "--memory", str(folder), "list"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "3 documents" in result.stdout
