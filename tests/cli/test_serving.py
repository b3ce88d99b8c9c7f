"""`mllm token`, and what `mllm serve` and `mllm mcp` refuse before they start."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from mllm_plugin.cli import main
from mllm_plugin.errors import NotFoundError
from mllm_plugin.serving import Tokens, add_token


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_a_token_is_shown_once_and_its_hash_kept(tmp_path) -> None:
    file = tmp_path / "tokens.json"
    where = ("--tokens", str(file), "--scope", "user=ann")
    code, said = run("token", "ann", *where, "--scope", "session=s=1", "--max-k", "7", "--json")
    assert code == 0
    secret = json.loads(said)["token"]
    assert secret not in file.read_text()
    entry = Tokens(file).of(secret)
    assert entry is not None
    assert (entry.name, dict(entry.scope), entry.most) == ("ann", {"user": "ann", "session": "s=1"}, 7)
    code, other = run("token", "admin", "--tokens", str(file), "--all", "--read-only")
    admin = Tokens(file).of(other.strip())
    assert admin is not None
    assert (dict(admin.scope), admin.read_only) == ({}, True)
    assert Tokens(file).of(secret) is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["token", "x", "--tokens", "t.json"], "--scope KEY=NAME, or --all"),
        (["token", "x", "--tokens", "t.json", "--all", "--scope", "user=x"], "--scope KEY=NAME, or --all"),
        (["token", "x", "--tokens", "t.json", "--scope", "team=x"], "KEY one of app, user, agent, session"),
        (["token", "x", "--tokens", "t.json", "--scope", "user="], "expected KEY=NAME"),
        (["token", "x", "--tokens", "t.json", "--scope", "user=a", "--scope", "user=b"], "twice"),
        (["token", "x", "--tokens", "damaged.json", "--all"], "no tokens file"),
        (["mcp", "--http", "8766"], "expected HOST:PORT"),
        (["mcp", "--http", "0.0.0.0:8766"], "an address of this machine"),
        (["mcp", "--read-only"], "no memory at"),
        (["serve", "--host", "0.0.0.0"], "an address of this machine"),
        (["serve", "--tokens", "none.json"], "make one with `mllm token`"),
        (["serve", "--read-only"], "no memory at"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_is_refused_says_why(tmp_path, monkeypatch, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.json").write_text("[]")
    code, output = run(*arguments)
    assert code != 0
    assert said in " ".join(output.split())
    assert not Path("t.json").exists()


@pytest.mark.parametrize(("name", "package"), [("serve", "fastapi"), ("serve_mcp", "mcp")])
def test_a_missing_package_names_the_extra(tmp_path, name, package) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from mllm_plugin.serving import {name}; {name}('m')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert f"pip install 'mllm-plugin[{name.removeprefix('serve_')}]'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_tokens_that_are_made_at_once_are_all_kept(tmp_path) -> None:
    file = tmp_path / "tokens.json"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: add_token(file, f"t{n}", {"user": f"u{n}"}), range(24)))
    known = Tokens(file)
    assert [known.of(secret).name for secret in made] == [f"t{n}" for n in range(24)]
    assert [one.name for one in tmp_path.iterdir()] == ["tokens.json"]
    with pytest.raises(NotFoundError, match="folder"):
        add_token(tmp_path / "nowhere" / "tokens.json", "t", {})
