"""What a step minimises: the answer's tokens, and the divergence from the same LLM reading the full text.

Shapes: p answer positions, b branches, v words of the vocabulary, h width of the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.training.llm.packing import Packed


@dataclass(frozen=True)
class StepLoss:
    """Losses of one batch.

    Attributes:
        total: To be minimised.
        answers: Mean loss per answer token of each branch [b].
        divergence: Mean over the branches that have a teacher; 0 without.
    """

    total: Tensor
    answers: Tensor
    divergence: Tensor


def read(llm: LoadedLLM, adapter: Adapter, packed: Packed) -> Tensor:
    """Logits [p, v] of the answer positions; the output layer runs there only."""
    embeds = llm.embeddings(packed.tokens)
    soft = packed.places >= 0
    if bool(soft.any()):
        memory = adapter.soft_tokens(packed.vectors, packed.levels).to(embeds.dtype)
        embeds = torch.where(soft[..., None], memory[packed.places.clamp(min=0)], embeds)
    mask = torch.zeros(packed.mask.shape, dtype=embeds.dtype, device=embeds.device)
    mask = mask.masked_fill(~packed.mask, torch.finfo(embeds.dtype).min)[:, None]
    decoder = llm.model.get_decoder()

    def run(rows: slice, length: int) -> Tensor:
        return decoder(
            inputs_embeds=embeds[rows, :length],
            attention_mask=mask[rows, :, :length, :length],
            position_ids=packed.positions[rows, :length],
            use_cache=False,
        ).last_hidden_state

    if embeds.device.type != "cpu":
        states = run(slice(None), embeds.shape[1])
        return _head(llm.model, states[packed.rows, packed.columns])
    states = [run(slice(row, row + 1), length)[0] for row, length in enumerate(packed.lengths)]
    starts = torch.tensor([0, *packed.lengths]).cumsum(0)  # rows one by one: a CPU gains nothing by padding
    return _head(llm.model, torch.cat(states)[starts[packed.rows] + packed.columns])


def _head(model: Any, states: Tensor) -> Tensor:
    logits = model.get_output_embeddings()(states).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def step_loss(logits: Tensor, packed: Packed, distill: float) -> StepLoss:
    """Losses of a batch from its logits [p, v].

    Args:
        logits: Of the answer positions.
        packed: The batch.
        distill: Weight of the divergence.
    """
    count = len(packed.branches)
    tokens = cross_entropy(logits, packed.targets, reduction="none")
    answers = _branch_means(tokens, packed.owners, count)
    weights = torch.tensor([one.weight for one in packed.branches], device=logits.device)
    total = (answers * weights).sum() / weights.sum()
    pairs = _pairs(packed) if distill else []
    divergence = logits.new_zeros(())
    if pairs:
        divergence = torch.stack([_divergence(logits, packed, *pair) for pair in pairs]).mean()
        total = total + distill * divergence * len(pairs) / count
    return StepLoss(total, answers.detach(), divergence.detach())


def _branch_means(values: Tensor, owners: Tensor, count: int) -> Tensor:
    sums = values.new_zeros(count).index_add(0, owners, values)
    sizes = values.new_zeros(count).index_add(0, owners, torch.ones_like(values))
    return sums / sizes.clamp(min=1)


def _pairs(packed: Packed) -> list[tuple[int, int]]:
    """Branches that do not see the full text, each with one of the same question that does."""
    teachers: dict[int, int] = {}
    for number, branch in enumerate(packed.branches):
        if branch.teacher and (branch.mode == "text" or branch.question not in teachers):
            teachers[branch.question] = number
    return [
        (number, teachers[branch.question])
        for number, branch in enumerate(packed.branches)
        if not branch.teacher and branch.question in teachers
    ]


def _divergence(logits: Tensor, packed: Packed, student: int, teacher: int) -> Tensor:
    """Kullback-Leibler divergence per answer token; no gradient goes to the teacher."""
    taught = log_softmax(logits[packed.owners == teacher].detach(), dim=-1)
    learned = log_softmax(logits[packed.owners == student], dim=-1)
    return (taught.exp() * (taught - learned)).sum(dim=-1).mean()
