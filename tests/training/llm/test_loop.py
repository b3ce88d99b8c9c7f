"""Training is repeatable, resumes where it was, and learns."""

from __future__ import annotations

import pytest
import torch

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.llm.models import load_llm
from mllm_plugin.training.llm.collect import collect_examples
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.draw import Drawer
from mllm_plugin.training.llm.loop import fit_adapter

CONFIG = LLMTrainingConfig(
    steps=6, groups=3, evaluate_every=2, warmup=2, curriculum_steps=4, lora_rank=2, projector_width=8,
    start_steps=5, windows=(1, 4), evaluate_questions=2,
)  # fmt: skip


@pytest.fixture
def examples(memory, questions):
    return collect_examples(memory, questions, k=3, progress=False)


def trained(folder, examples, config=CONFIG, **arguments):
    """Runs on a model of its own and returns tensors and curves."""
    fitted = fit_adapter(load_llm(folder, device="cpu"), examples, config, progress=False, **arguments)
    return fitted.adapter._stored(), fitted.rows


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_same_seed_same_adapter(llm_folder, examples) -> None:
    first, rows = trained(llm_folder, examples)
    again, rows_again = trained(llm_folder, examples)
    other, _ = trained(llm_folder, examples, CONFIG.model_copy(update={"seed": 1}))
    assert same(first, again)
    assert str(rows) == str(rows_again)
    assert not same(first, other)


def test_resumed_equals_uninterrupted(llm_folder, examples, tmp_path, monkeypatch) -> None:
    whole, rows = trained(llm_folder, examples)
    step = Drawer.step

    def interrupted(self, number):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(Drawer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(llm_folder, examples, checkpoint=tmp_path)
    monkeypatch.undo()
    resumed, rows_resumed = trained(llm_folder, examples, checkpoint=tmp_path)
    assert same(whole, resumed)
    assert str(rows) == str(rows_resumed)


def test_text_only_leaves_the_projector_alone(llm_folder, examples) -> None:
    config = CONFIG.model_copy(update={"text_steps": 6, "start_steps": 0})
    tensors, rows = trained(llm_folder, examples, config)
    fresh = Adapter.create(
        load_llm(llm_folder, device="cpu"), encoder=examples.encoder, dim=16, seed=0, width=8, lora_rank=2
    )._stored()
    assert all(torch.equal(tensors[name], fresh[name]) for name in tensors if name.startswith("projector"))
    assert set(rows[0]) == {"step", "loss", "held_out", "none", "text"}


def test_it_learns(llm_folder, examples) -> None:
    config = CONFIG.model_copy(update={"steps": 40, "evaluate_every": 20, "lora_rank": 16, "lora_rate": 2e-2})
    _, rows = trained(llm_folder, examples, config)
    assert rows[2]["loss"] < rows[1]["loss"]


def test_the_model_is_untouched_without_the_adapter(llm, examples) -> None:
    before = {name: value.clone() for name, value in llm.model.state_dict().items()}
    fitted = fit_adapter(llm, examples, CONFIG, progress=False)
    fitted.adapter.detach(llm.model)
    after = llm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_too_little_to_train_on(llm, memory, questions) -> None:
    few = collect_examples(memory, questions[:3], k=3, progress=False)
    with pytest.raises(InvalidInputError, match="too few to train on"):
        fit_adapter(llm, few, CONFIG, progress=False)
