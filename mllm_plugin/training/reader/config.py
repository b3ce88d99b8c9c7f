"""Settings of the training of a reader."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ReaderTrainingConfig(BaseModel):
    """How a reader is trained on a memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=300, ge=1)
    """Optimiser steps."""
    chunks: int = Field(default=8, ge=8, multiple_of=4)
    """Chunks per step, a multiple of 4; each is written once and read in several ways."""
    rank: int = Field(default=8, ge=1)
    """Rank of the changes to the model, where nothing is gone on from."""
    rate: float | None = Field(default=None, gt=0)
    """Highest learning rate; when left out, 1e-3 for a reader that begins with nothing, else 2e-4."""
    evaluate_every: int = Field(default=50, ge=1)
    """Steps between measurements on held-out text; the best weights are kept."""
    evaluate_questions: int = Field(default=48, ge=2)
    """Most questions to measure with."""
    patience: int = Field(default=4, ge=1)
    """End after so many measurements without a better one."""
    answer_tokens: int = Field(default=16, ge=1)
    """Longest answer when answers are scored."""
    seed: int = Field(default=0, ge=0)
    """Of everything random."""
