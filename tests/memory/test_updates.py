"""Updates embed new text alone, and change the version alone that was seen."""

from __future__ import annotations

import threading

import pytest

from mllm_plugin import (
    Document,
    InvalidDocumentError,
    MemoryIndex,
    NotFoundError,
    VersionConflictError,
)
from tests.helpers.clock_tools import SECOND, START


@pytest.fixture
def memory(timed_memory) -> MemoryIndex:
    return timed_memory


def test_an_update_asks_the_encoder_only_for_new_text(memory, hands):
    memory.add([Document("cat one", id="c", metadata={"a": 1, "b": 2}, labels=("x",))])
    memory.mask("c", label="m")
    memory.encoder.encoded = []
    hands.moment += SECOND
    report = memory.update("c", metadata={"b": 3}, merge=True, labels=["y"], valid_to="2030-01-01")
    assert report.document == memory.get("c")[0]
    assert (report.changed, report.encoded) == (True, 0)
    assert report.document.metadata == {"a": 1, "b": 3}
    assert (report.document.labels, report.document.masks) == (("y",), ("m",))
    assert report.document.updated_at == START + SECOND
    assert memory.count({"b": 3}) == 1
    again = memory.update("c", labels=("y",))
    assert not again.changed
    assert again.document.version == report.document.version
    assert memory.update("c", text="dog now").encoded == 1
    memory.unmask()
    assert memory.search("dog now", k=1)[0].text == "dog now"
    assert memory.get("c")[0].metadata == {"a": 1, "b": 3}
    with pytest.raises(NotFoundError, match="no document 'nobody'"):
        memory.update("nobody", text="x")
    with pytest.raises(InvalidDocumentError, match="empty"):
        memory.update("c", text=" ")
    assert memory.verify().problems == ()


def test_only_the_version_that_was_seen_is_changed(memory):
    memory.add([Document("cat", id="c")])
    seen = memory.get("c")[0].version
    memory.update("c", metadata={"n": 1}, if_version=seen)
    for change in ({"metadata": {"n": 2}}, {"text": "dog"}, {"expires_at": None}):
        with pytest.raises(VersionConflictError, match=f"expected {seen}"):
            memory.update("c", if_version=seen, **change)
    assert memory.get("c")[0].metadata == {"n": 1}
    memory.remove("c")
    memory.add([Document("cat", id="c")])
    with pytest.raises(VersionConflictError):
        memory.update("c", text="dog", if_version=seen)


def test_writers_who_compare_and_set_lose_nothing(memory):
    memory.add([Document("cat", id="c", metadata={"n": 0})])

    def count_up() -> None:
        done = 0
        while done < 10:
            stored = memory.get("c")[0]
            try:
                memory.update("c", metadata={"n": stored.metadata["n"] + 1}, if_version=stored.version)
                done += 1
            except VersionConflictError:
                continue

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert memory.get("c")[0].metadata == {"n": 40}
