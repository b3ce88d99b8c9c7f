"""When a model declines: how likely it finds it, and what is made of that."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mllm_plugin import InvalidInputError
from mllm_plugin.llm import MemoryReader
from mllm_plugin.llm.declining import Calibration, Declining
from mllm_plugin.memory_llm import MemoryLLM, MemoryLLMConfig
from tests.helpers.tiny_memory_llm import random_reader

TOKEN = 3
CALIBRATION = Calibration(chance=0.5, relevance=-0.4, offset=2.0)
QUESTION = "What part has the kettles number 1?"
CHANCES = st.floats(0, 1)


def scores_of(*chances: float) -> torch.Tensor:
    """Scores [b, 5] with which the token has these probabilities."""
    return torch.log(torch.tensor([[(1 - p) / 4] * TOKEN + [p] + [(1 - p) / 4] for p in chances]))


def declined(declining: Declining, *chances: float) -> list[bool]:
    after = declining(None, scores_of(*chances))
    only = torch.isinf(after[:, [n for n in range(5) if n != TOKEN]]).all(dim=1)
    assert torch.equal(only, ~torch.isinf(after[:, TOKEN]))
    return only.tolist()


def test_without_a_calibration_the_models_own_chance_counts():
    declining = Declining(TOKEN, 0.5)
    assert declined(declining, 0.4, 0.6) == [False, True]
    assert declining.chances == pytest.approx([0.4, 0.6], abs=1e-5)
    later = scores_of(0.9, 0.9)
    assert declining(None, later) is later


def test_with_one_what_the_search_found_counts_too():
    declining = Declining(TOKEN, 0.5, CALIBRATION, [0.05, 0.999, None])
    assert declined(declining, 0.1, 0.1, 0.1) == [True, False, False]
    expected = [CALIBRATION.probability(0.1, one) for one in (0.05, 0.999)]
    assert declining.chances == pytest.approx([*expected, 0.1], abs=1e-5)


@pytest.mark.parametrize(("above", "expected"), [(0.0, True), (1.0, False)])
@pytest.mark.parametrize("chance", [1e-9, 0.999])
def test_never_and_always(above, expected, chance):
    assert declined(Declining(TOKEN, above, CALIBRATION, [0.5]), chance) == [expected]


@given(CHANCES, CHANCES, CHANCES)
def test_it_grows_with_the_chance_and_falls_with_the_relevance(first, second, other):
    low, high = sorted((first, second))
    assert 0 < CALIBRATION.probability(low, other) <= CALIBRATION.probability(high, other) < 1
    assert CALIBRATION.probability(other, high) <= CALIBRATION.probability(other, low)


def test_it_comes_with_the_reader(tiny, tmp_path):
    random_reader(tiny).save(tmp_path / "none")
    assert "declining" not in json.loads((tmp_path / "none" / "reader.json").read_text())
    assert MemoryReader.load(tmp_path / "none").config.declining is None
    random_reader(tiny).save(tmp_path / "own", declining=CALIBRATION)
    assert MemoryReader.load(tmp_path / "own").config.declining == CALIBRATION


@pytest.mark.parametrize("damage", [{"chance": -1}, {"relevance": 1}, {"offset": "much"}, {"other": 1}])
def test_a_damaged_one_is_refused(tiny, tmp_path, damage):
    random_reader(tiny).save(tmp_path, declining=CALIBRATION)
    path = tmp_path / "reader.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "declining": {**config["declining"], **damage}}))
    with pytest.raises(InvalidInputError, match="declining"):
        MemoryReader.load(tmp_path)


def test_an_answer_from_text_is_as_sure_as_that(tiny, stocked):
    bare = random_reader(tiny, auto={"mode": "text", "lora": True})
    sure = random_reader(tiny, auto={"mode": "text", "lora": True}, declining=CALIBRATION)
    config = MemoryLLMConfig(k=2, max_new_tokens=4, decline_above=0.9)
    before, after = (MemoryLLM(stocked, tiny, one, config) for one in (bare, sure))
    plain, answer = before.answer(QUESTION), after.answer(QUESTION)
    relevance = stocked.search(QUESTION, k=1)[0].relevance
    assert answer.unknown == pytest.approx(CALIBRATION.probability(plain.unknown, relevance))
    assert answer.unknown != plain.unknown
    assert answer.known == (answer.unknown <= 0.9)
    assert after.stream(QUESTION).answer == answer
    assert after.answer_batch([QUESTION, "Of foxes?"])[0].unknown == pytest.approx(answer.unknown, abs=1e-4)
    for mode in ("memory", "both"):
        assert after.answer(QUESTION, mode=mode).unknown == before.answer(QUESTION, mode=mode).unknown
