"""What training of a reader minimises.

Shapes: p predicted positions, h width of the model.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from mllm_plugin.shapes import Float
from mllm_plugin.training.reader.steps import TensorStep


def answer_loss(
    states: Float[Tensor, "p h"], logits: Callable[[Tensor], Tensor], step: TensorStep
) -> tuple[Float[Tensor, ""], Float[Tensor, " p"], Float[Tensor, ""]]:
    """Cross-entropy of what is to be said, and what teachers say of it; no gradient goes to the teachers.

    Args:
        states: Of predicted positions.
        logits: Of the next token, from states.
        step: What is to be said there.

    Returns:
        What to minimise, the loss of each token, the divergence from the teachers.
    """
    tokens = cross_entropy(logits(states).float(), step.targets, reduction="none")
    known = log_softmax(logits(states[step.teacher].detach()).float(), dim=-1)
    said = log_softmax(logits(states[step.taught]).float(), dim=-1)
    apart = ((known.exp() * (known - said)).sum(dim=-1) * step.counted).sum()
    apart = apart / step.counted.sum().clamp(min=1)
    whole = step.weights.sum().clamp(min=1e-6)  # a step may ask nothing
    share = (step.weights[step.taught] * step.counted).sum() / whole
    total = (tokens * step.weights).sum() / whole + share * apart
    return total, tokens.detach(), apart.detach()
