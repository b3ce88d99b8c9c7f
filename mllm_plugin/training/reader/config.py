"""Settings of the training of a reader."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ReaderTrainingConfig(BaseModel):
    """How a reader is trained on a memory.

    Args:
        steps: Optimiser steps.
        chunks: Chunks per step, a multiple of 4; each is written once and read in several ways.
        rank: Of the low-rank changes of a reader that begins with nothing.
        rate: Highest learning rate; when left out, 1e-3 for a reader that begins with nothing and 2e-4 for
            one that was trained before.
        evaluate_every: Steps between measurements on held-out text; the best weights are kept.
        evaluate_questions: Most questions to measure with.
        patience: End after so many measurements without a better one.
        answer_tokens: Longest answer when answers are scored.
        seed: Of everything random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=300, ge=1)
    chunks: int = Field(default=8, ge=8, multiple_of=4)
    rank: int = Field(default=8, ge=1)
    rate: float | None = Field(default=None, gt=0)
    evaluate_every: int = Field(default=50, ge=1)
    evaluate_questions: int = Field(default=48, ge=2)
    patience: int = Field(default=4, ge=1)
    answer_tokens: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0)
