"""Which modules of the package a call passes; run as a script it prints those of an `add` and of a search."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

PACKAGE = "mllm_plugin"


def modules_passed(call: Callable[[], Any]) -> list[str]:
    """Names of the package's modules of which a function runs during a call, in this thread."""
    passed: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.split(".")[0] == PACKAGE:
            passed.add(name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return sorted(passed)


if __name__ == "__main__":
    from mllm_plugin import Document, MemoryIndex
    from tests.helpers.toy import ToyEncoder

    with MemoryIndex.open(tempfile.mkdtemp(), encoder=ToyEncoder()) as memory:
        memory.add([Document("an old text", id="a")])
        memory.search("old")
        calls = {
            "add": lambda: memory.add([Document("a new text", id="b")]),
            "search": lambda: memory.search("a text"),
        }
        for name, call in calls.items():
            found = modules_passed(call)
            print(f"{name} passes {len(found)} modules: {', '.join(found)}")
