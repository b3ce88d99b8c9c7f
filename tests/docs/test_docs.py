"""The documentation is true: its code runs and prints what it shows, its links, commands and names exist.

`MLLM_UPDATE_DOCS=1 python -m pytest tests/docs` writes what the blocks printed into the pages instead of
comparing it; read the difference before you commit it.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import mllm_plugin
import mllm_plugin.training
from mllm_plugin import MemoryIndex
from mllm_plugin.cli import main
from mllm_plugin.cli.settings import Settings
from mllm_plugin.encoders import DEFAULT_ENCODER, as_encoder
from tests.helpers.docs_pages import (
    PAGES,
    ROOT,
    Block,
    anchors_of,
    blocks_of,
    commands_of,
    lines_of,
    links_of,
    same_output,
    sections,
)

API = ROOT / "docs" / "api.md"
CLI = ROOT / "docs" / "cli.md"
_UPDATE = bool(os.environ.get("MLLM_UPDATE_DOCS"))
_WRITTEN = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.language == language for block in blocks_of(page))]


@pytest.fixture(scope="module")
def encoder() -> Any:
    return as_encoder(DEFAULT_ENCODER)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any) -> Path:
    """An empty current folder, no hub, and the default encoder loaded once for all pages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLLM_MEMORY", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)

    def loaded(given: Any, device: str | None = None) -> Any:
        return encoder if given == DEFAULT_ENCODER else as_encoder(given, device)

    monkeypatch.setattr("mllm_plugin.memory.index.as_encoder", loaded)
    monkeypatch.setattr("mllm_plugin.cli.settings.quick_encoder", loaded)
    return tmp_path


# -- code runs and prints what is shown


@pytest.mark.parametrize("page", _pages_with("python"), ids=_name)
def test_python_blocks_run_and_print_what_is_shown(page: Path, workplace: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        _run_blocks(page, "python", lambda block: _run_python(page, block, names))
    finally:
        for value in names.values():
            if isinstance(value, MemoryIndex):
                value.close()


@pytest.mark.parametrize("page", [CLI], ids=_name)
def test_command_lines_run_and_print_what_is_shown(page: Path, workplace: Path) -> None:
    _run_blocks(page, "bash", lambda block: "".join(map(_run_line, lines_of(block))))


def _run_blocks(page: Path, language: str, run: Callable[[Block], str]) -> None:
    printed: dict[Block, str] = {}
    for block in blocks_of(page):
        if block.language == language and not block.not_run:
            printed[block] = run(block)
        elif block.output_of in printed and not block.not_run:
            _check_output(page, block, printed[block.output_of])


def _check_output(page: Path, block: Block, printed: str) -> None:
    if same_output(block.text, printed):
        return
    if not _UPDATE:
        pytest.fail(f"{_name(page)}:{block.line} shows\n{block.text}\nbut what is printed is\n{printed}")
    _replace(page, block, printed)


def _replace(page: Path, block: Block, printed: str) -> None:
    """Writes what was printed below the block that printed it."""
    source = block.output_of
    assert source is not None
    old, new = (
        f"```{source.language}\n{source.text}```\n\n```text\n{text}```"
        for text in (block.text, f"{printed.rstrip()}\n")
    )
    page.write_text(page.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")


def _run_python(page: Path, block: Block, names: dict[str, Any]) -> str:
    code = "\n" * (block.line - 1) + block.text
    with redirect_stdout(io.StringIO()) as output:
        exec(compile(code, _name(page), "exec"), names)
    return output.getvalue()


def _run_line(line: str) -> str:
    if not line.startswith("mllm ") or re.search(r"[|>]", line):
        return subprocess.run(["bash", "-ec", line], check=True, capture_output=True, text=True).stdout
    result = CliRunner().invoke(main, shlex.split(line)[1:], obj=Settings())
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    return result.stdout


# -- what is named exists


@pytest.mark.parametrize("page", _WRITTEN, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{_name(page)} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors_of(target), f"{_name(page)} links to {link}; no such heading"


@pytest.mark.parametrize("page", _WRITTEN, ids=_name)
def test_commands_and_options_exist(page: Path) -> None:
    for line in commands_of(page):
        for problem in _problems(shlex.split(line, comments=True)):
            pytest.fail(f"{_name(page)}: `{line}`: {problem}")


def _problems(words: list[str]) -> Iterator[str]:
    if words[0] == "mllm":
        yield from _mllm_problems(words[1:])
    elif words[0] == "make":
        known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        yield from (f"no target {word}" for word in words[1:] if "=" not in word and word not in known)
    elif words[0] == "python":
        files = [word for word in words[1:] if word.endswith(".py")]
        yield from (f"no file {file}" for file in files if not (ROOT / file).is_file())
        options = {word for word in words if word.startswith("--")}
        sources = "".join((ROOT / file).read_text() for file in [*files, "benchmarks/common.py"])
        yield from (f"no option {one}" for one in options if f'"{one}"' not in sources)
    elif words[0] == "pip":
        project = (ROOT / "pyproject.toml").read_text()
        extras = [one for word in words if "[" in word for one in re.split(r"[\[\],]", word)[1:-1]]
        yield from (f"no extra {one}" for one in extras if not re.search(rf"^{one} = \[", project, re.M))


def _mllm_problems(words: list[str]) -> Iterator[str]:
    command = next((main.commands[word] for word in words if word in main.commands), None)
    if command is None and not (words[0].startswith("-") or words[0].isupper()):
        yield f"no command {words[0]}"
    known = _options(main) | (_options(command) if command else set())
    used = {re.split("=", word)[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    yield from (f"no option {option}" for option in sorted(used - known))


def _options(command: click.Command) -> set[str]:
    declared = {name for one in command.params if isinstance(one, click.Option) for name in one.opts}
    return {*declared, "--help", "-h"}


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_is_in_cli_md(name: str) -> None:
    section = sections(CLI.read_text(encoding="utf-8"), 3)[f"{name}"]
    shared = _options(main)
    for option in _options(main.commands[name]) - shared:
        assert f"`{option}" in section, f"docs/cli.md does not describe {option} of `mllm {name}`"
    for option in shared - {"--help"}:
        assert f"`{option}" in CLI.read_text(encoding="utf-8"), f"docs/cli.md does not describe {option}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_defaults_named_in_running_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for config, name, shown in re.findall(r"`(\w+Config)\.(\w+)` \(([\d,.]+)\)", text):
        module = mllm_plugin if hasattr(mllm_plugin, config) else mllm_plugin.training
        default = getattr(getattr(module, config)(), name)
        assert shown.replace(",", "") == str(default), f"{_name(page)}: {config}.{name} is {default}"


# -- docs/api.md is made of docstrings that say all


def test_api_md_is_what_the_docstrings_say() -> None:
    command = [sys.executable, "docs/build_api.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_field_is_explained() -> None:
    blank = re.findall(
        r"^(?:\|.*\|  \||\| `\w+` \|(?: `[^|]*`| required)* \|)$", API.read_text("utf-8"), re.MULTILINE
    )
    assert not blank, "fields without a meaning: say it under Args or Attributes of their class"
