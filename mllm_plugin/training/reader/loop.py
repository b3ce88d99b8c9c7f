"""The training loop: resumable after every measurement, bit for bit what an uninterrupted run gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mllm_plugin.llm import LoadedLLM
from mllm_plugin.training.checkpoints import Checkpoint, Rows
from mllm_plugin.training.reader.config import ReaderTrainingConfig
from mllm_plugin.training.reader.evaluate import WAYS, Held, credit
from mllm_plugin.training.reader.modules import Reader
from mllm_plugin.training.reader.steps import TensorStep, compact
from mllm_plugin.training.reader.tasks import Sampler

_WARM_UP, _LAST_RATE = 0.04, 0.03


class Trained(nn.Module):
    """What training changes, without the model's own weights."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.space, self.writer, self.reader = reader.reading, reader.writer, reader.reader


def optimizer_of(reader: Reader, rate: float) -> torch.optim.Optimizer:
    """For everything that is trained.

    Args:
        reader: What is trained.
        rate: Highest learning rate.
    """
    changes = [*reader.writer.parameters(), *reader.reader.parameters(), *reader.reading.parameters()]
    groups = [{"params": changes, "lr": rate, "top": rate}]
    fused = reader.stack.embeddings.device.type == "cuda"
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)


def one_step(
    reader: Reader, optimizer: torch.optim.Optimizer, step: TensorStep, part: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Trains on a step, at the rate for a part of the way in [0, 1]; returns what `Reader.loss` does."""
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * rate_of(part)
    found = reader.loss(step)
    found[0].backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return found


def rate_of(part: float) -> float:
    """Share of the learning rate after a part of the time: up, then a falling cosine."""
    if part < _WARM_UP:
        return max(part / _WARM_UP, 0.02)
    fall = (part - _WARM_UP) / (1 - _WARM_UP)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fall))


@dataclass
class Loop:
    """One run.

    Attributes:
        llm: The model; held while a step is taken.
        reader: What is trained.
        sampler: Draws steps.
        held: Measures.
        config: Settings.
        rate: Highest learning rate.
        ratio: Tokens per memory token to measure with.
        folder: For the state after each measurement.
        rows: Curves: a row per measurement.
    """

    llm: LoadedLLM
    reader: Reader
    sampler: Sampler
    held: Held
    config: ReaderTrainingConfig
    rate: float
    ratio: int
    folder: Path
    rows: Rows = field(default_factory=list)

    def __post_init__(self) -> None:
        self._module, self._optimizer = Trained(self.reader), optimizer_of(self.reader, self.rate)
        self._numbers = self.held.questions(self.config.evaluate_questions)

    def run(self, *, progress: bool) -> int:
        """Trains, puts the best weights in place and returns their step."""
        config, rows = self.config, self.rows
        checkpoint = Checkpoint(self.folder, self._module, self._optimizer, rows)
        state = checkpoint.load()
        if not rows:
            rows.append(self.measure(0, math.nan))
            state.measured(rows[-1]["own"], self._module)
        bar = tqdm(total=config.steps, initial=state.step, desc="training", disable=not progress)
        seen: list[float] = []
        while state.step < config.steps and state.stale < config.patience:
            seen.append(self.step(state.step))
            state.step += 1
            bar.update()
            if state.step % config.evaluate_every == 0 or state.step == config.steps:
                rows.append(self.measure(state.step, sum(seen) / len(seen)))
                state.measured(rows[-1]["own"], self._module)
                checkpoint.save(state)
                seen.clear()
                bar.set_postfix({name: f"{rows[-1][name]:.3f}" for name in ("loss", "own", "credit")})
        bar.close()
        self._module.load_state_dict(state.best or {})
        return int(min(rows, key=lambda row: row["own"])["step"])

    def step(self, number: int) -> float:
        """Takes a step; the same for the same number."""
        drawn = self.sampler.step(np.random.default_rng([self.config.seed, number]))
        given = TensorStep.of(compact(drawn), self.reader.stack.embeddings.device)
        with self.llm.lock:
            total, _, _ = one_step(self.reader, self._optimizer, given, number / self.config.steps)
        return float(total.detach())

    def measure(self, step: int, loss: float) -> dict[str, float]:
        """Held-out losses by what is read, and what one's own memory gives over another's."""
        with self.llm.lock:
            found = {way: self.held.losses(self._numbers, self.ratio, way) for way in WAYS}
        means = {way: float(values.mean()) for way, values in found.items()}
        return {"step": step, "loss": loss, **means, "credit": credit(found)}
