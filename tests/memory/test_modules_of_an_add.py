"""One added document passes few modules: a ceiling that only goes down."""

from __future__ import annotations

from mllm_plugin import Document
from tests.helpers.passed_modules_tools import modules_passed

CEILING = 28


def test_modules_of_an_add(memory):
    memory.add([Document("an old text", id="a")])
    passed = modules_passed(lambda: memory.add([Document("a new text", id="b")]))
    assert {"mllm_plugin.memory.index", "mllm_plugin.documents.ingest", "mllm_plugin.store.edit"} <= set(
        passed
    )
    assert len(passed) <= CEILING, f"{len(passed)} modules: {', '.join(passed)}"
    assert not [name for name in passed if name.startswith("mllm_plugin.search")]
