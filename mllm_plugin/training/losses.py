"""Training objectives over the scores of embedding chunks.

Shapes: b queries, g embeddings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mllm_plugin.shapes import Float

Loss = Callable[[Tensor, Tensor], Tensor]
_LEAST = -1e4  # in place of -inf, whose gradient is no number where every embedding shown is wanted


def listwise_loss(scores: Float[Tensor, "b g"], targets: Float[Tensor, "b g"]) -> Float[Tensor, ""]:
    """Cross-entropy of each wanted embedding against the unwanted ones, weighed by its share.

    Wanted embeddings do not compete with each other, so none is pushed down for another's sake.

    Args:
        scores: [b, g], -inf for embeddings that are not shown.
        targets: Share of the wanted results at or below each embedding [b, g]; rows sum to 1, or to 0 for
            queries that count for nothing.

    Returns:
        The mean over queries.
    """
    wanted, scores = targets > 0, scores.clamp(min=_LEAST)
    rest = scores.masked_fill(wanted, float("-inf")).logsumexp(dim=1, keepdim=True)
    each = torch.logaddexp(scores, rest) - scores
    return (each.masked_fill(~wanted, 0.0) * targets).sum(dim=1).mean()


def softmax_loss(scores: Float[Tensor, "b g"], targets: Float[Tensor, "b g"]) -> Float[Tensor, ""]:
    """Cross-entropy with the whole distribution of targets; for arguments see `listwise_loss`."""
    logs = scores.log_softmax(dim=1).masked_fill(targets == 0, 0.0)
    return -(targets * logs).sum(dim=1).mean()
