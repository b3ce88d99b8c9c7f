"""Packed rows give what each prompt gives by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.llm.prompt import PromptLayout, assemble
from mllm_plugin.training.llm.collect import collect_examples
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.draw import Drawer, Way
from mllm_plugin.training.llm.losses import read, step_loss
from mllm_plugin.training.llm.packing import Memories, pack


@pytest.fixture
def drawer(llm, memory, questions) -> Drawer:
    examples = collect_examples(memory, questions, k=3, progress=False)
    return Drawer(examples, PromptLayout(llm.tokenizer), LLMTrainingConfig(groups=3))


@pytest.mark.parametrize("per_embedding", [1, 2])
@pytest.mark.parametrize("passages", [(), ("anna was born in rome",)], ids=["no text", "text"])
def test_branches_read_what_they_would_read_alone(llm, drawer, per_embedding, passages) -> None:
    drawer.config = LLMTrainingConfig(tokens_per_embedding=per_embedding)
    adapter = Adapter.create(llm, encoder="e", dim=16, tokens_per_embedding=per_embedding, lora_rank=0)
    rng = np.random.default_rng(0)
    block = Memories(rng.normal(size=(5, 16)).astype(np.float32), np.array([2, 1, 0, 0, 0]))
    ways = [Way("memory", block, passages), Way("text", None, passages)]
    units = [drawer.unit([0, 1, 2], way) for way in ways] + [drawer.unit([3], ways[0])]
    packed = pack(units, 64, per_embedding)
    with torch.no_grad():
        losses = step_loss(read(llm, adapter, packed), packed, 0.0).answers
        for branch, loss in zip(packed.branches, losses.tolist(), strict=True):
            with_memory = branch.mode == "memory"
            question = drawer.examples.questions[branch.question]
            count = 5 * per_embedding if with_memory else 0
            prompt = drawer.layout.build(question.text, passages=passages, memory_tokens=count)
            soft = adapter.soft_tokens(block.vectors, block.levels) if with_memory else None
            batch = assemble(llm, [prompt], soft, continuations=[branch.answer])
            logits = llm.model(
                inputs_embeds=batch.inputs_embeds,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            ).logits[0, :-1]
            alone = torch.nn.functional.cross_entropy(logits, batch.labels[0, 1:], ignore_index=-100)
            assert loss == pytest.approx(alone.item(), abs=1e-4)


def test_units_are_packed_without_much_padding(drawer) -> None:
    units = drawer.step(0)
    sizes = [unit.length(1) for unit in units]
    packed = pack(units, max(sizes))
    assert packed.tokens.shape[1] == max(sizes)
    assert packed.tokens.shape[0] <= len(units)
    assert sum(len(one.answer) for one in packed.branches) == len(packed.targets)
