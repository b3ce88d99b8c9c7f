"""Texts of items: what cannot be one is refused before it is put below a header."""

from __future__ import annotations

import pytest

from mllm_plugin import AgentMemory, MLLMError


@pytest.mark.parametrize("text", ["", "  ", "a \ud800", 5], ids=repr)
def test_a_text_that_cannot_be_an_items_is_refused(tmp_path, encoder, text) -> None:
    with AgentMemory.open(tmp_path / "agents", encoder=encoder) as memory:
        ann = memory.scope(user="ann")
        said = ann.remember("Hello.", speaker="Ann", session="monday")
        with pytest.raises(MLLMError):
            ann.remember(text)
        with pytest.raises(MLLMError):
            ann.update(said.id, text=text)
        assert [one.version for one in ann.history(said.id)] == [1]
