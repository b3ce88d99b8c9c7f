"""A command line with a toy encoder and a memory in a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mllm_plugin.cli import main
from mllm_plugin.cli.settings import Settings
from tests.helpers.toy import ToyEncoder

TEXTS = {
    "herons.md": "# Herons\n\nHerons eat fish. They stand still for hours.\n",
    "quokkas.rst": "Quokkas\n=======\n\nQuokkas smile. They live on Rottnest Island.\n",
    "deep/compilers.txt": "Compilers turn source code into machine code.\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The memory's folder."""
    return tmp_path / "memory"


@pytest.fixture
def mllm(folder: Path, encoder: ToyEncoder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `mllm ARGUMENTS…`, as if with `--encoder` when one is `named`; checks the exit code."""
    monkeypatch.delenv("MLLM_MEMORY", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(
        *arguments: object,
        code: int = 0,
        input: str | None = None,
        memory: Path | None = None,
        named: ToyEncoder | None = None,
    ) -> Result:
        settings = Settings(
            memory=memory or folder, encoder=named or encoder, encoder_named=named is not None
        )
        result = CliRunner().invoke(main, [str(one) for one in arguments], obj=settings, input=input)
        assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
        assert "Traceback" not in result.stderr
        return result

    return run


@pytest.fixture
def mllm_json(mllm: Callable[..., Result]) -> Callable[..., object]:
    """Runs `mllm … --json` and reads the one value that it prints."""
    return lambda *arguments, **options: json.loads(mllm(*arguments, "--json", **options).stdout)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one file of each plain kind."""
    root = tmp_path / "files"
    for name, text in TEXTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def indexed(mllm: Callable[..., Result], files: Path) -> Path:
    """The files, indexed."""
    mllm("index", files)
    return files
