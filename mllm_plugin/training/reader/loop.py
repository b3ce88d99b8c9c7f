"""The training loop: resumable after every measurement, bit for bit what an uninterrupted run gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from mllm_plugin.llm import LoadedLLM
from mllm_plugin.training import checkpoints
from mllm_plugin.training.checkpoints import StageState
from mllm_plugin.training.hierarchy import History
from mllm_plugin.training.reader.compact import compact
from mllm_plugin.training.reader.config import ReaderTrainingConfig
from mllm_plugin.training.reader.fit import Reader, TensorStep, one_step, optimizer_of
from mllm_plugin.training.reader.measure import WAYS, Held, credit
from mllm_plugin.training.reader.tasks import Sampler


class Trained(nn.Module):
    """What training changes, without the model's own weights."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.space, self.writer, self.reader = reader.reading, reader.writer, reader.reader


@dataclass
class Loop:
    """One run.

    Attributes:
        llm: The model; held while a step is taken.
        reader: What is trained.
        sampler: Draws steps.
        held: Measures.
        config: Settings.
        ratio: Tokens per memory token to measure with.
        checkpoint: Folder for the state after each measurement.
        rows: Curves: a row per measurement.
    """

    llm: LoadedLLM
    reader: Reader
    sampler: Sampler
    held: Held
    config: ReaderTrainingConfig
    ratio: int
    checkpoint: Path
    rows: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._module, self._optimizer = Trained(self.reader), optimizer_of(self.reader)
        self._history = History(self.rows)
        self._numbers = self.held.questions(self.config.evaluate_questions)

    def run(self, *, progress: bool) -> int:
        """Trains, puts the best weights in place and returns their step."""
        config, rows = self.config, self.rows
        state = checkpoints.load(self.checkpoint, 1, self._module, self._optimizer, self._history)
        if not rows:
            rows.append(self.measure(0, math.nan))
            self._keep(state)
        bar = tqdm(total=config.steps, initial=state.step, desc="training", disable=not progress)
        seen: list[float] = []
        while state.step < config.steps and state.stale < config.patience:
            seen.append(self.step(state.step))
            state.step += 1
            bar.update()
            if state.step % config.evaluate_every == 0 or state.step == config.steps:
                rows.append(self.measure(state.step, sum(seen) / len(seen)))
                self._keep(state)
                checkpoints.save(self.checkpoint, 1, self._module, self._optimizer, self._history, state)
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

    def _keep(self, state: StageState) -> None:
        """Notes whether the last measurement is the best."""
        state.stale += 1
        if state.best is None or -self.rows[-1]["own"] > state.best_recall:
            state.best_recall, state.stale = -self.rows[-1]["own"], 0
            state.best = {name: value.clone() for name, value in self._module.state_dict().items()}
