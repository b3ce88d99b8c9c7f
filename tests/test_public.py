"""The public surface is kept on purpose."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import mllm_plugin
from mllm_plugin import MemoryIndex, errors


def test_exported_names():
    assert list(mllm_plugin.__all__) == sorted(mllm_plugin.__all__)
    assert all(hasattr(mllm_plugin, name) for name in mllm_plugin.__all__)


def test_what_type_checkers_are_told_is_what_is_there():
    tree = ast.parse(inspect.getsource(mllm_plugin))
    told = {
        alias.name: f"{node.module}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(told) == mllm_plugin.__all__
    assert all(
        getattr(mllm_plugin, name) is getattr(import_module(home), name) for name, home in told.items()
    )


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mllm_plugin.nothing


def test_little_is_loaded_before_it_is_needed():
    shown = "from mllm_plugin.cli import main; main(['--help'], standalone_mode=False)"
    code = f"import sys; {shown}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Look after:" in loaded.stdout
    assert not {"numpy", "pydantic", "apsw", "asyncio", "torch"} & set(loaded.stdout.split())


def test_every_error_is_an_mllm_error_and_a_builtin():
    for name, error in inspect.getmembers(errors, inspect.isclass):
        assert issubclass(error, errors.MLLMError), name
        builtins = {base for base in error.__mro__ if base.__module__ == "builtins"} - {
            Exception,
            BaseException,
            object,
        }
        assert builtins or error is errors.MLLMError, name
        assert name in errors.__doc__


def test_methods_of_the_facade():
    public = {name for name, _ in inspect.getmembers(MemoryIndex) if not name.startswith("_")}
    assert public >= {
        "open",
        "add",
        "search",
        "search_batch",
        "recall",
        "recall_batch",
        "mask",
        "unmask",
        "remove",
        "stats",
        "verify",
        "compact",
    }
    twins = {"add", "search", "search_batch", "recall", "recall_batch", "mask", "unmask", "remove", "get"}
    for name in public & twins:
        assert inspect.iscoroutinefunction(getattr(MemoryIndex, f"a{name}"))
    for name in public:
        assert getattr(MemoryIndex, name).__doc__, name
