"""The training loop: resumable after every measurement, bit for bit what an uninterrupted run gives."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.llm.adapter import Adapter
from mllm_plugin.llm.models import LoadedLLM
from mllm_plugin.llm.prompt import PromptLayout
from mllm_plugin.training import checkpoints
from mllm_plugin.training.checkpoints import StageState
from mllm_plugin.training.hierarchy import History
from mllm_plugin.training.llm import evaluate
from mllm_plugin.training.llm.config import LLMTrainingConfig
from mllm_plugin.training.llm.draw import Drawer
from mllm_plugin.training.llm.examples import Examples
from mllm_plugin.training.llm.losses import read, step_loss
from mllm_plugin.training.llm.packing import pack
from mllm_plugin.training.llm.start import Offsets, Spoken, spoken_examples, start_projector

_LEAST = 8  # questions


class Trained(nn.Module):
    """Everything of an adapter that training changes, under names that a checkpoint keeps."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.projector = adapter.projector
        own = {id(value) for value in adapter.projector.parameters()}
        self.lora = nn.ParameterList([one for one in adapter.parameters() if id(one) not in own])


@dataclass(frozen=True)
class Fitted:
    """The outcome of a run.

    Attributes:
        adapter: Attached to the LLM, with the weights of the best measurement.
        layout: Of the prompts that it was trained with.
        rows: Curves: a row per measurement.
        best: The best mean held-out loss, and the step it was at.
        seconds: It took, this call.
    """

    adapter: Adapter
    layout: PromptLayout
    rows: list[dict[str, float]]
    best: tuple[float, int]
    seconds: float


def fit_adapter(
    llm: LoadedLLM,
    examples: Examples,
    config: LLMTrainingConfig = LLMTrainingConfig(),
    *,
    adapter: Adapter | None = None,
    layout: PromptLayout | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Fitted:
    """Trains an adapter on examples; with a checkpoint folder an interrupted run goes on where it was.

    Args:
        llm: The model; its own weights stay as they are.
        examples: What there is to learn.
        config: Settings.
        adapter: Where to start; an untrained one when left out.
        layout: Of the prompts; the one that answering uses when left out.
        checkpoint: Folder for the state after each measurement.
        progress: Show a progress bar.

    Raises:
        InvalidInputError: There is too little to train on, or nothing to measure on.
    """
    started = time.perf_counter()
    drawer = Drawer(examples, layout or PromptLayout(llm.tokenizer), config)
    _check(drawer)
    adapter = adapter or new_adapter(llm, examples, config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)  # peft draws LoRA's first factor
        adapter.attach(llm.model)
    run = _Run(llm, adapter, drawer, config, checkpoint)
    rows, best = run.train(progress=progress)
    return Fitted(adapter, drawer.layout, rows, best, time.perf_counter() - started)


def new_adapter(
    llm: LoadedLLM,
    examples: Examples,
    config: LLMTrainingConfig,
    *,
    offsets: Offsets | None = None,
    more: Spoken | None = None,
    progress: bool = False,
) -> Adapter:
    """An untrained adapter whose projector begins with what is known of the words behind a vector.

    Args:
        llm: The model that will read.
        examples: What will be trained on; held-out text is left out.
        config: Settings.
        offsets: Character spans of the encoder's tokens, for exact windows.
        more: Further vectors with their words.
        progress: Show a progress bar.
    """
    adapter = Adapter.create(
        llm,
        encoder=examples.encoder,
        dim=examples.dim,
        seed=config.seed,
        width=config.projector_width,
        tokens_per_embedding=config.tokens_per_embedding,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
    )
    adapter.projector.to(llm.device)
    if config.start_steps:
        given = spoken_examples(examples, llm, offsets)
        given = given if more is None else given.joined(more)
        start_projector(
            adapter.projector, given, llm, steps=config.start_steps, seed=config.seed, progress=progress
        )
    return adapter


def _check(drawer: Drawer) -> None:
    measured = sum(one.held_out for one in drawer.examples.questions)
    if drawer.questions < _LEAST or not measured:
        raise InvalidInputError(
            f"{drawer.questions} questions whose answer the memory recalls and {measured} held-out ones are "
            f"too few to train on; expected {_LEAST} and 1 at least. Pass more questions, or none at all to "
            f"train on passages of the documents"
        )


class _Run:
    def __init__(
        self,
        llm: LoadedLLM,
        adapter: Adapter,
        drawer: Drawer,
        config: LLMTrainingConfig,
        checkpoint: Path | None,
    ) -> None:
        self.llm, self.adapter, self.drawer, self.config = llm, adapter, drawer, config
        self.checkpoint, self.history = checkpoint, History()
        self.module = Trained(adapter)
        groups = [
            {"params": list(self.module.projector.parameters()), "lr": config.projector_rate},
            {"params": list(self.module.lora.parameters()), "lr": config.lora_rate},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=config.weight_decay
        )
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        modes = ("none", "text") if self._text_only else evaluate.modes_of(drawer.examples)
        self._units = evaluate.held_out_units(drawer, config.evaluate_questions, modes)

    @property
    def _text_only(self) -> bool:
        return self.config.text_steps >= self.config.steps

    def train(self, *, progress: bool) -> tuple[list[dict[str, float]], tuple[float, int]]:
        state, config, rows = StageState(), self.config, self.history.rows
        if self.checkpoint is not None:
            state = checkpoints.load(self.checkpoint, 1, self.module, self.optimizer, self.history)
        if not rows:
            rows.append(self.measure(0, math.nan))
            state.best_recall = -math.inf
        bar = tqdm(total=config.steps, initial=state.step, desc="training", disable=not progress)
        seen: list[float] = []
        while state.step < config.steps and state.stale < config.patience:
            seen.append(self.step(state.step))
            state.step += 1
            bar.update()
            if state.step % config.evaluate_every == 0 or state.step == config.steps:
                self.checkpointed(state, sum(seen) / len(seen))
                seen.clear()
                bar.set_postfix({name: f"{value:.3f}" for name, value in rows[-1].items() if name != "step"})
        bar.close()
        if state.best:
            self.module.load_state_dict(state.best)
        first = 1 if self._text_only else max(1, config.text_steps)
        scored = [(row["held_out"], int(row["step"])) for row in rows if row["step"] >= first]
        return rows, min(scored, default=(math.nan, 0))

    def step(self, number: int) -> float:
        config = self.config
        self._set_rates(number)
        self.optimizer.zero_grad()
        total = 0.0
        for part in range(config.accumulate):
            units = self.drawer.step(number * config.accumulate + part)
            packed = pack(units, config.row_tokens, config.tokens_per_embedding).to(self.llm.device)
            loss = step_loss(read(self.llm, self.adapter, packed), packed, config.distill)
            (loss.total / config.accumulate).backward()
            total += loss.total.item() / config.accumulate
        nn.utils.clip_grad_norm_(self.module.parameters(), config.clip)
        self.optimizer.step()
        return total

    def _set_rates(self, step: int) -> None:
        config = self.config
        warm = min(1.0, (step + 1) / max(1, config.warmup))
        share = warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share

    def checkpointed(self, state: StageState, loss: float) -> None:
        row = self.measure(state.step, loss)
        self.history.rows.append(row)
        if self._text_only or state.step >= self.config.text_steps:
            state.stale += 1
            if -row["held_out"] > state.best_recall:
                state.best_recall, state.stale = -row["held_out"], 0
                state.best = {name: value.clone() for name, value in self.module.state_dict().items()}
        if self.checkpoint is not None:
            checkpoints.save(self.checkpoint, 1, self.module, self.optimizer, self.history, state)

    def measure(self, step: int, loss: float) -> dict[str, float]:
        """Held-out loss of every mode; `held_out`, of the modes that are trained, decides what is best."""
        found = {
            mode: evaluate.losses(self.llm, self.adapter, units, self.config.row_tokens)
            for mode, units in self._units.items()
        }
        ways = ("text",) if self._text_only else ("memory", "both")
        decides = [value for mode, value in found.items() if mode.split()[0] in ways]
        return {"step": step, "loss": loss, "held_out": sum(decides) / len(decides), **found}
