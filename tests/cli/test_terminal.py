"""The command line on a terminal, in a pipe and in a log; wrong arguments, pipes that close, Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
import pytest

from mllm_plugin.cli import main
from mllm_plugin.cli.output import excerpt, table
from mllm_plugin.cli.settings import UserPath
from mllm_plugin.cli.terminal import cells, shortened

_STYLE = re.compile(r"\x1b\[[\d;]*m")
_MLLM = [sys.executable, "-m", "mllm_plugin"]


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM")}
    return {**kept, "TERM": "xterm", **changes}


def on_terminal(*arguments: object, columns: int = 80, **changes: str) -> str:
    """What a person sees who runs `mllm ARGUMENTS…` in a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [*_MLLM, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**changes)
    )
    os.close(theirs)
    seen = bytearray()
    try:
        while part := os.read(ours, 1 << 16):
            seen += part
    except OSError:  # the other side has closed it: that is how a terminal ends on Linux
        pass
    os.close(ours)
    assert process.wait() == 0, seen.decode()
    return seen.decode()


def in_pipe(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [*_MLLM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment(**changes))


@pytest.mark.parametrize("columns", [72, 80])
def test_lists_are_as_wide_as_the_terminal(indexed: Path, folder: Path, columns: int) -> None:
    lines = _STYLE.sub("", on_terminal("list", "--memory", folder, columns=columns)).splitlines()
    assert max(map(len, lines)) == columns
    assert any(line.endswith("…") for line in lines)
    assert max(map(len, in_pipe("list", "--memory", folder).stdout.splitlines())) > 80


def test_colours_are_for_terminals(indexed: Path, folder: Path) -> None:
    memory = ("list", "--memory", folder)
    assert "\x1b[1m" in on_terminal(*memory)
    assert "\x1b" not in on_terminal(*memory, NO_COLOR="1")
    assert "\x1b" not in on_terminal(*memory, TERM="dumb")
    assert "\x1b" not in in_pipe(*memory).stdout
    assert "\x1b[1m" in in_pipe(*memory, FORCE_COLOR="1").stdout
    assert "\x1b" not in in_pipe(*memory, "--json", FORCE_COLOR="1").stdout


def test_bars_are_for_terminals(indexed: Path, folder: Path, tmp_path: Path) -> None:
    export = ("export", tmp_path / "all.jsonl", "--memory", folder)
    assert "documents/s" in on_terminal(*export)
    assert "documents/s" not in on_terminal(*export, "--json")
    assert in_pipe(*export).stderr == ""


def test_a_pipe_that_closes_is_no_error(indexed: Path, folder: Path) -> None:
    shell = f"{' '.join(_MLLM)} list --memory {folder} | head -n 1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.startswith("id ")
    assert done.stderr == ""


def _listen() -> None:
    """Has a process hear of Ctrl-C, though the tests run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_control_c_is_one_line(tmp_path: Path) -> None:
    fifo = tmp_path / "never.jsonl"
    os.mkfifo(fifo)
    command = [*_MLLM, "import", str(fifo), "--memory", str(tmp_path / "memory")]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=_listen
    )
    with fifo.open("wb"):  # returns when it is read from; nothing ever comes
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().startswith("Interrupted. What was written is kept")
    assert len(errors.split("\n")) == 3


_STARTS = {
    "mllm": "from mllm_start import start; start()",
    "python-m": "import runpy; sys.argv[0] = '-m'; runpy._run_module_as_main('mllm_plugin')",
}


@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8])
@pytest.mark.parametrize("start", _STARTS.values(), ids=_STARTS)
def test_control_c_while_it_is_loaded_is_no_traceback(tmp_path: Path, start: str, delay: float) -> None:
    code = f"import sys; print('ready', flush=True); {start}"
    command = [sys.executable, "-c", code, "list", "--memory", str(tmp_path / "memory")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=Path(__file__).parents[2],
        preexec_fn=_listen,
    )
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode in (1, 130, -signal.SIGINT)


def test_control_c_of_a_search_does_not_speak_of_what_was_written(
    mllm, indexed: Path, encoder, monkeypatch
) -> None:
    def interrupted(texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder, "encode_queries", interrupted)
    assert mllm("search", "herons", code=130).stderr.strip() == "Interrupted."


def test_wide_characters_are_counted_as_a_terminal_shows_them() -> None:
    assert [cells(text) for text in ("abc", "日本語", "한글", "e\u0301", "a\u200bb")] == [3, 6, 4, 1, 2]
    assert shortened("日本語のメモ", 7) == "日本語…"
    assert shortened("日本語", 6) == "日本語"
    head, first, second = map(
        click.unstyle, table(["id", "chunks", "begins"], [("日本", 1, "x"), ("abcd", 2, "y")])
    )
    assert head.index("chunks") == first.index("1") - 5 + 2 == second.index("2") - 5
    assert cells(excerpt("語" * 500, 20)) <= 20


def test_every_path_knows_the_home_folder(
    mllm, indexed: Path, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = {"memory": tmp_path / "nowhere"}
    assert "3 documents" in mllm("list", "--memory=~/memory", **home).stdout
    monkeypatch.setenv("MLLM_MEMORY", "~/memory")
    for command in (
        ["list"],
        ["search", "herons"],
        ["show", "herons.md"],
        ["stats"],
        ["verify"],
        ["mask", "herons.md"],
        ["unmask", "herons.md"],
        ["export", "~/all.jsonl"],
        ["import", "~/all.jsonl"],
        ["backup", "~/copy.db"],
        ["restore", "~/copy.db", "--memory=~/restored"],
        ["reembed", "~/other"],
        ["index", "~/files", "--memory=~/indexed"],
        ["install", "identity"],
        ["remove", "herons.md", "--yes"],
        ["compact"],
    ):
        mllm(*command, **home)
    assert {"all.jsonl", "copy.db", "restored", "other", "indexed"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert not Path("~").exists()


def test_no_path_option_is_left_out() -> None:
    kinds = {
        type(param.type)
        for command in main.commands.values()
        for param in command.params
        if "Path" in repr(param.type)
    }
    assert kinds == {UserPath}


@pytest.mark.parametrize("json_too", [False, True], ids=["text", "json"])
def test_what_nobody_foresaw_is_one_line_too(mllm, indexed: Path, monkeypatch, json_too: bool) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("a strange\nthing")

    monkeypatch.setattr("mllm_plugin.memory.MemoryIndex.stats", broken)
    result = mllm("stats", *(["--json"] if json_too else []), code=1)
    assert result.stderr == "Error: RuntimeError: a strange thing (-v shows where)\n"
    if json_too:
        assert json.loads(result.stdout)["error"]["type"] == "RuntimeError"


def test_verbose_shows_where(indexed: Path, folder: Path, tmp_path: Path) -> None:
    command = [*_MLLM, "search", "--vector", str(tmp_path), "--memory", str(folder), "-v"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert f"Error: {tmp_path}: is a directory" in result.stderr


@pytest.mark.parametrize("command", [["ask", "x"], ["train", "--out", "w"], ["train-llm", "--into", "a"]])
def test_a_device_that_is_not_there(mllm, indexed: Path, command: list[str]) -> None:
    errors = mllm(*command, "--device", "xpu:77", code=1).stderr
    assert "device 'xpu:77' cannot be used here: " in errors
    assert len(errors.splitlines()) == 1


def test_wrong_usage_as_json(mllm) -> None:
    error = json.loads(mllm("search", "--json", code=2).stdout)["error"]
    assert error == {"type": "UsageError", "message": "say what to search for: a QUERY, or --vector FILE"}
    assert (
        json.loads(mllm("search", "x", "-k", "0", "--json", code=2).stdout)["error"]["type"] == "BadParameter"
    )
    assert json.loads(mllm("serach", "--json", code=2).stdout)["error"]["message"].endswith(
        "Did you mean 'search'?"
    )


def test_make_demo_installs_no_tools_of_developers(tmp_path: Path) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make")
    root = Path(__file__).parents[2]

    def plan(target: str) -> str:
        command = [make, "--dry-run", "--directory", root, f"VENV={tmp_path / 'none'}", target]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert ".[offline,llm]" in plan("demo")
    assert "[dev]" not in plan("demo")
    assert plan("test").count("-m venv") == 1
    assert plan("test").index(".[offline,llm]") < plan("test").index(".[dev]")


def test_an_unknown_namespace_is_named(mllm, indexed: Path) -> None:
    for command in (["search", "herons"], ["list"]):
        assert "no namespace nosuch" in mllm(*command, "--namespace", "nosuch").stderr
        assert mllm(*command).stderr == ""


def test_removing_nothing_asks_nothing(mllm, indexed: Path) -> None:
    assert mllm("remove", "nosuch", code=1).stderr.startswith("Error: no document 'nosuch'")
    assert "0 documents" in mllm("remove", "--filter", '{"type": "nosuch"}').stdout
    refused = mllm("remove", "herons.md", "--json", code=1)
    assert json.loads(refused.stdout)["error"]["message"].startswith("nothing was removed")


def test_the_help_lists_every_command_once(mllm) -> None:
    lines = mllm("--help").stdout.partition("\nUse:\n")[2].splitlines()
    listed = [line.split()[0] for line in lines if re.match(r"  [a-z-]+  +[A-Z]", line)]
    assert sorted(listed) == sorted(main.commands)
    assert not any(line.endswith("...") for line in lines)


def test_a_number_that_json_does_not_know_is_found_by_its_line(mllm, tmp_path: Path) -> None:
    lines = tmp_path / "notes.jsonl"
    lines.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "y", "metadata": {"v": NaN}}\n')
    assert "notes.jsonl, line 2: not JSON (NaN is no JSON value" in mllm("import", lines, code=1).stderr
