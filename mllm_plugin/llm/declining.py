"""How likely it is that the memory does not hold an answer: by what the model finds, and the search found.

A reader is trained to decline with its first token, but not to know how sure it is: of questions that it was
not trained on, many are unanswerable that it gives a small chance to be. A logistic regression sets that
right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import LogitsProcessor

_DIGITS = 6  # of a chance; the rest depends on what else is read at the same time
_MOST = 8.0  # log-odds; beyond that nothing is known


class Calibration(BaseModel):
    """Weights of a logistic regression on log-odds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    chance: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Of the probability with which the model begins to decline."""
    relevance: float = Field(default=0.0, le=0, allow_inf_nan=False)
    """Of the relevance of the best chunk that it reads as text."""
    offset: float = Field(default=0.0, allow_inf_nan=False)
    """What is added."""
    about: dict[str, Any] = {}
    """Data, command, figures; for people."""

    def doubt(self, relevance: float) -> float:
        """What is known before the model has read, in log-odds."""
        return self.offset + self.relevance * log_odds(relevance)

    def probability(self, chance: float, relevance: float) -> float:
        """How likely it is that the memory does not hold the answer.

        Args:
            chance: With which the model begins to decline.
            relevance: Of the best chunk that it reads.
        """
        return 1.0 / (1.0 + math.exp(-self.chance * log_odds(chance) - self.doubt(relevance)))


def log_odds(chance: float) -> float:
    """Of a probability, within bounds."""
    least = 1 / (1 + math.exp(_MOST))
    inside = min(max(chance, least), 1 - least)
    return math.log(inside / (1 - inside))


class Declining(LogitsProcessor):
    """Settles with the first token whether the model declines to answer.

    Args:
        token: First of what it says then.
        above: Decline where it is likelier than this that the memory does not hold the answer.
        calibration: How sure the model is; as sure as it says when left out.
        relevances: Of the best chunk that each row reads; None for rows that the calibration is not for.

    Attributes:
        chances: What was found likely for each row, once there was a first token.
    """

    def __init__(
        self,
        token: int,
        above: float,
        calibration: Calibration | None = None,
        relevances: Sequence[float | None] | None = None,
    ) -> None:
        self._token, self._above = token, above
        self._calibration, self._relevances = calibration, relevances
        self.chances: list[float] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [b, v] in; the same out, but at the first token declining is certain or ruled out."""
        if self.chances:
            return scores
        self.chances = self._calibrated(torch.softmax(scores.float(), dim=-1)[:, self._token])
        declined = torch.tensor([chance > self._above for chance in self.chances], device=scores.device)
        only = torch.full_like(scores, -torch.inf)
        only[:, self._token] = 0
        answers = scores.clone()
        answers[:, self._token] = -torch.inf
        return torch.where(declined[:, None], only, answers)

    def _calibrated(self, chances: Tensor) -> list[float]:
        calibration = self._calibration
        own = chances.double().cpu().numpy().round(_DIGITS).tolist()
        if calibration is None or self._relevances is None:
            return own
        pairs = zip(own, self._relevances, strict=True)
        return [p if known is None else calibration.probability(p, known) for p, known in pairs]
