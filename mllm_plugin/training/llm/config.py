"""Settings of the training of a memory adapter."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ModeShares(BaseModel):
    """How often a question is put in each way, per visit; several ways may be drawn at once.

    Args:
        memory: With memory tokens only.
        both: With memory tokens and text.
        text: With text only; where it is drawn beside one of the others, it is their teacher.
        recite: A passage is to be repeated from its memory tokens; per group of questions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: float = Field(default=0.5, ge=0, le=1)
    both: float = Field(default=0.6, ge=0, le=1)
    text: float = Field(default=0.35, ge=0, le=1)
    recite: float = Field(default=0.3, ge=0, le=1)


class LLMTrainingConfig(BaseModel):
    """How a projector and LoRA weights are trained, everything else frozen.

    Args:
        steps: Optimiser steps.
        text_steps: Of these, the first ones read text only, so that the LLM learns the task before it learns
            to read memory tokens.
        curriculum_steps: Steps over which the memory block grows from the right chunk to all recalled ones.
        groups: Groups of questions per step; a group's questions share a text.
        share: Most questions per group.
        accumulate: Batches per optimiser step.
        shares: How the questions are put.
        cut: How often the text of a group is cut to a part of the chunk, so that the rest must be read from
            memory tokens.
        windows: Fewest and most windows in a memory block.
        own_windows: How often windows are of the memory's own kind, where examples have others too.
        upper: How often a block has the embeddings of chunks and nodes.
        answer_tokens: Longest answer.
        row_tokens: Tokens per packed row, more where one group needs them.
        tokens_per_embedding: Memory tokens per embedding.
        start_steps: Steps of the projector's own start, see `start_projector`; 0 for none.
        projector_width: Units of the projector's hidden layer.
        lora_rank: Rank of the LoRA weights; 0 for none.
        lora_alpha: Their scale is alpha / rank.
        projector_rate: Peak learning rate of the projector.
        lora_rate: Peak learning rate of the LoRA weights.
        warmup: Steps of linear warm-up.
        weight_decay: AdamW's.
        clip: Largest norm of the gradient.
        distill: Weight of the divergence from the text mode.
        evaluate_every: Steps between measurements on held-out questions.
        evaluate_questions: Held-out questions per measurement.
        patience: Measurements without progress after which the run ends.
        seed: Of everything random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=600, ge=1)
    text_steps: int = Field(default=0, ge=0)
    curriculum_steps: int = Field(default=150, ge=0)
    groups: int = Field(default=2, ge=1)
    share: int = Field(default=5, ge=1)
    accumulate: int = Field(default=1, ge=1)
    shares: ModeShares = ModeShares()
    cut: float = Field(default=0.5, ge=0, le=1)
    windows: tuple[int, int] = (6, 24)
    own_windows: float = Field(default=0.5, ge=0, le=1)
    upper: float = Field(default=0.5, ge=0, le=1)
    answer_tokens: int = Field(default=32, ge=1)
    row_tokens: int = Field(default=512, ge=32)
    tokens_per_embedding: int = Field(default=1, ge=1)
    start_steps: int = Field(default=400, ge=0)
    projector_width: int = Field(default=1024, ge=1)
    lora_rank: int = Field(default=16, ge=0)
    lora_alpha: float = Field(default=32.0, gt=0)
    projector_rate: float = Field(default=1e-3, gt=0)
    lora_rate: float = Field(default=3e-4, gt=0)
    warmup: int = Field(default=20, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    distill: float = Field(default=0.5, ge=0)
    evaluate_every: int = Field(default=100, ge=1)
    evaluate_questions: int = Field(default=100, ge=1)
    patience: int = Field(default=4, ge=1)
    seed: int = 0
