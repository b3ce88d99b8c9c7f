"""One query passes few modules, with the search image and without: ceilings that only go down."""

from __future__ import annotations

import pytest

from mllm_plugin import MemoryConfig, MemoryIndex, SearchConfig
from mllm_plugin.image import keeper
from tests.helpers.image_tools import documents
from tests.helpers.passed_modules_tools import modules_passed

CEILINGS = {"file": 27, "image": 32}
ENDS = {
    "file": {"mllm_plugin.search.scan"},
    "image": {"mllm_plugin.search.imaged", "mllm_plugin.image.descent"},
}


@pytest.fixture(params=CEILINGS)
def way(request) -> str:
    return request.param


@pytest.fixture
def searched(way, tmp_path, encoder, monkeypatch):
    """A memory that has been searched before, and has a search image where that is the way."""
    monkeypatch.setattr(keeper, "_PAYS", 1)
    monkeypatch.setattr(keeper, "_REST", 0.0)
    search = SearchConfig(image_from=0 if way == "image" else None)
    with MemoryIndex.open(tmp_path / "m", encoder=encoder, config=MemoryConfig(search=search)) as memory:
        memory.add(documents(60))
        memory.search("word3")
        memory._handle.images.settle(60)
        memory.search("word5")
        yield memory


def test_modules_of_a_query(searched, way):
    passed = modules_passed(lambda: searched.search("word7 word9"))
    assert {"mllm_plugin.memory.index", "mllm_plugin.search.engine"} | ENDS[way] <= set(passed)
    assert len(passed) <= CEILINGS[way], f"{len(passed)} modules: {', '.join(passed)}"
    writing = ("mllm_plugin.documents", "mllm_plugin.tree", "mllm_plugin.store.edit")
    assert not [name for name in passed if name.startswith(writing)]
