"""Settings of a training run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """How level encoders and rankers are trained.

    Args:
        top_level: Highest level with weights of its own; levels above reuse them.
        parts: What is trained; without "encoders" the nodes stay means, and only margins, maps of the query
            and path weights are learned.
        steps: Optimiser steps per stage.
        batch: Queries per step and process.
        accumulate: Batches per optimiser step.
        chunks: Chunks per grouping.
        redraw: Steps after which a new grouping is drawn.
        beam: Parents that a query visits; their children are its negatives.
        seeds: Attention seeds per block of a level encoder.
        hidden: Units of a level encoder's feed-forward layer.
        learning_rate: Peak of the schedule, for level encoders; the query maps take a third of it.
        weight_decay: AdamW's.
        evaluate_every: Steps between measurements on held-out queries.
        patience: Measurements without progress after which a stage ends.
        beam_width: Width that the margins are calibrated for.
        recall_loss: Recall that a margin may cost on held-out queries.
        seed: Of everything random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_level: int = Field(default=3, ge=2)
    parts: tuple[Literal["encoders", "rankers"], ...] = ("encoders", "rankers")
    steps: int = Field(default=500, ge=1)
    batch: int = Field(default=256, ge=1)
    accumulate: int = Field(default=1, ge=1)
    chunks: int = Field(default=16_384, ge=64)
    redraw: int = Field(default=50, ge=1)
    beam: int = Field(default=24, ge=1)
    seeds: int = Field(default=4, ge=1)
    hidden: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    evaluate_every: int = Field(default=100, ge=1)
    patience: int = Field(default=4, ge=1)
    beam_width: int = Field(default=128, ge=1)
    recall_loss: float = Field(default=0.003, ge=0)
    seed: int = 0

    def layers(self, level: int) -> int:
        """Blocks of the encoder of a level: higher levels have one more."""
        return 1 if level == 2 else 2
