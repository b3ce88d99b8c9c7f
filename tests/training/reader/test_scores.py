"""Answers compared as SQuAD does, and what a step minimises."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mllm_plugin.training.reader.answers import exact_match, f1, normal
from mllm_plugin.training.reader.losses import answer_loss


def test_answers_are_compared_without_articles_and_punctuation():
    assert normal("The  Old-Mill, an inn!") == "oldmill inn"
    assert exact_match("the mill.", ["river", "Mill"]) == 1.0
    assert exact_match("mills", ["mill"]) == 0.0
    assert f1("the old mill", ["mill by river"]) == pytest.approx(2 / 5)
    assert f1("", [""]) == 1.0
    assert f1("mill", []) == 0.0


def test_a_step_is_the_weighted_cross_entropy_and_the_divergence_from_teachers():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [2.0, 0.0]], requires_grad=True)
    chosen = {
        "targets": torch.tensor([0, 0, 1]),
        "weights": torch.tensor([1.0, 0.0, 0.0]),
        "teacher": torch.tensor([2]),
        "taught": torch.tensor([0]),
        "counted": torch.tensor([1.0]),
    }
    total, tokens, apart = answer_loss(logits, lambda states: states, SimpleNamespace(**chosen))
    first = -torch.log_softmax(logits, -1)[0, 0]
    assert tokens[0].item() == pytest.approx(first.item())
    assert apart.item() == pytest.approx(0.0, abs=1e-6)  # the teacher says the same
    assert total.item() == pytest.approx(first.item())
    total.backward()
    assert logits.grad[2].abs().sum() == 0.0  # no gradient goes to the teacher
