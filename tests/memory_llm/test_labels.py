"""Labels of nodes in the prompt: coarse to fine, first to go, of nothing hidden."""

from __future__ import annotations

import pytest

from tests.helpers.llm_tools import WORDS

QUESTION = "Which part has the violins number 6?"


def topics_of(answer) -> str:
    return answer.prompt.partition("Topics: ")[2].partition("\n")[0]


def test_there_are_none_unless_asked_for(reader):
    assert reader.config.labels == 0
    assert "Topics" not in reader.answer(QUESTION).prompt


@pytest.mark.parametrize("mode", ["memory", "both", "text"])
def test_labels_come_first_coarse_to_fine(reader, mode):
    answer = reader.answer(QUESTION, labels=5, mode=mode)
    labels = [one for one in answer.sources if one.level > 1]
    assert len(labels) == 5
    assert answer.sources[:5] == tuple(labels)
    levels = [one.level for one in labels]
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) > 1
    assert topics_of(answer) == "; ".join(one.text for one in labels)
    assert "violins" in labels[-1].text or "violins" in topics_of(answer)
    assert answer.prompt.index("Topics: ") < answer.prompt.index(QUESTION)
    plain = reader.answer(QUESTION, mode=mode)
    assert answer.usage.text_tokens > plain.usage.text_tokens
    assert [one for one in answer.sources if one.level < 2] == list(plain.sources)


def test_they_go_before_passages_do(reader):
    plain = reader.answer(QUESTION, mode="text", k=1)
    room = reader.llm.context - plain.usage.input_tokens
    answer = reader.answer(QUESTION, mode="text", k=1, labels=3, max_new_tokens=room)
    assert answer.dropped.labels == 3
    assert answer.dropped.passages == answer.dropped.cut == 0
    assert answer.prompt == plain.prompt


def test_no_word_of_a_filtered_or_masked_document(reader):
    word = "violins"
    others = {"filter": {"word": {"$ne": word}}}
    assert word in topics_of(reader.answer(QUESTION, labels=50))
    assert word not in topics_of(reader.answer(QUESTION, labels=50, **others))
    reader.memory.mask(filter={"word": {"$eq": word}})
    try:
        masked = topics_of(reader.answer(QUESTION, labels=50))
    finally:
        reader.memory.unmask()
    assert word not in masked
    assert any(one in masked for one in WORDS)
