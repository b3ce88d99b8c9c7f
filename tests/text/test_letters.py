"""Text that can be stored."""

from __future__ import annotations

from mllm_plugin.text.letters import text_flaw


def test_a_text_that_cannot_be_stored_says_where():
    assert text_flaw("ü\U0001f600") == ""
    assert "at 2" in text_flaw("ab\ud800")
