"""Settings of the training of level encoders and rankers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """How level encoders and rankers are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    top_level: int = Field(default=3, ge=2)
    """Highest level with weights of its own; levels above reuse them."""
    parts: tuple[Literal["encoders", "rankers"], ...] = ("encoders", "rankers")
    """What is trained; without "encoders" the nodes stay means, and nothing needs to be folded anew."""
    steps: int = Field(default=500, ge=1)
    """Optimiser steps per pair of levels."""
    batch: int = Field(default=256, ge=1)
    """Questions per batch and process."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per step."""
    chunks: int = Field(default=16_384, ge=64)
    """Chunks per grouping."""
    redraw: int = Field(default=50, ge=1)
    """Steps after which a new grouping is drawn."""
    beam: int = Field(default=24, ge=1)
    """Parents that a query visits; their children are its negatives."""
    seeds: int = Field(default=4, ge=1)
    """Attention seeds per block of a level encoder."""
    hidden: int = Field(default=64, ge=1)
    """Units of a level encoder's feed-forward layer."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak of the schedule, for level encoders; rankers take a third of it."""
    evaluate_every: int = Field(default=100, ge=1)
    """Steps between measurements on held-out questions."""
    patience: int = Field(default=4, ge=1)
    """Measurements without progress after which a pair of levels ends."""
    beam_width: int = Field(default=128, ge=1)
    """Width that the slacks are measured for."""
    recall_loss: float = Field(default=0.003, ge=0)
    """Recall that a slack may cost on held-out questions."""
    seed: int = Field(default=0, ge=0)
    """Of everything random."""

    def layers(self, level: int) -> int:
        """Blocks of the encoder of a level: higher levels have one more."""
        return 1 if level == 2 else 2
