"""The public surface is kept on purpose."""

from __future__ import annotations

import inspect

import mllm_plugin
from mllm_plugin import MemoryIndex, errors


def test_exported_names():
    assert list(mllm_plugin.__all__) == sorted(mllm_plugin.__all__)
    assert all(hasattr(mllm_plugin, name) for name in mllm_plugin.__all__)


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
