"""Trains writer and reader together: one pass over the chunks, one over the rows that read them.

Shapes as in `tasks`; m places of the memory, h width of the model, v words of its vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from mllm_plugin.llm.reading import ReadingVectors, window_counts
from mllm_plugin.training.reader.stack import Changes, Stack, Weights
from mllm_plugin.training.reader.tasks import Sizes, Step

_DISTILL, _PAIRS = 1.0, 512
_WARM_UP, _LAST_RATE = 0.04, 0.03


@dataclass(frozen=True)
class FitConfig:
    """How it is trained.

    Args:
        writer_rank, reader_rank: Of the low-rank changes.
        alpha: Their scale, relative to the rank.
        rate: Learning rate of the changes.
        map_rate: Of the map and the kinds.
        seconds: When to end; the rate falls over this time.
        writes: Whether the model writes; without, memory is sums of words.
    """

    writer_rank: int = 32
    reader_rank: int = 32
    alpha: float = 2.0
    rate: float = 1e-3
    map_rate: float = 1e-3
    seconds: float = 400.0
    writes: bool = True


class Reader(torch.nn.Module):
    """A model with what makes it write and read its memory.

    Args:
        stack: Its frozen weights.
        idf: Of its tokens [v].
        config: Ranks.
        sizes: Shapes of a step.
    """

    def __init__(self, stack: Stack, idf: Tensor, config: FitConfig, sizes: Sizes) -> None:
        super().__init__()
        self.stack, self.sizes, self.config = stack, sizes, config
        self.reading = ReadingVectors(stack.embeddings, idf)
        self.writer = Changes(stack, config.writer_rank, config.alpha * config.writer_rank)
        self.reader = Changes(stack, config.reader_rank, config.alpha * config.reader_rank)
        self.head: Callable[..., Any] = head

    def memory(self, ids: Tensor, live: Tensor, size: Tensor, weights: Weights | None) -> Tensor:
        """Memory tokens [m, h] of chunks: all windows, then the chunks, then the groups."""
        states = None
        if weights is not None:
            mask = live[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
            states = self.stack.normed(self.stack(self.stack.embed(ids), weights, mask))
        most, group = self.sizes.windows, self.sizes.group
        vectors = self.reading.windows(ids, live, states, size, most)
        counts = window_counts(live.sum(dim=-1), size)
        there = (torch.arange(most, device=ids.device) < counts.unsqueeze(-1)).unsqueeze(-1).float()
        chunks = (vectors * there).sum(dim=1) / counts.clamp(min=1).unsqueeze(-1)
        groups = chunks.unflatten(0, (-1, group)).mean(dim=1)
        kind = (torch.tensor(self.reading.ratios, device=ids.device) < size.unsqueeze(-1)).sum(dim=-1)
        kinds = torch.cat(
            [
                kind.repeat_interleave(most),
                torch.full((len(chunks),), self.reading.chunk_kind, device=ids.device),
                torch.full((len(groups),), self.reading.chunk_kind + 1, device=ids.device),
            ]
        )
        flat = torch.cat([vectors.flatten(0, 1), chunks, groups])
        return self.reading.tokens(flat, kinds).to(self.stack.dtype)

    def states(self, memory: Tensor, rows: Iterable[tuple[Tensor, Tensor]], weights: Weights) -> Tensor:
        """States of all rows laid end to end, before the last norm."""
        found = []
        for ids, places in (one for one in rows if len(one[0])):
            soft = (places >= 0).unsqueeze(-1)
            embeds = torch.where(soft, memory[places.clamp(min=0)], self.stack.embed(ids))
            found.append(self.stack(embeds, weights).flatten(0, 1))
        return torch.cat(found)

    def loss(self, step: TensorStep) -> tuple[Tensor, Tensor, Tensor]:
        """What to minimise, the loss of each predicted token [p], the divergence from the teachers."""
        writes = self.writer.added(self.stack) if self.config.writes else None
        memory = self.memory(step.ids, step.live, step.size, writes)
        states = self.states(memory, step.rows, self.reader.added(self.stack))
        chosen = self.stack.normed(states[step.rows_at])
        return self.head(
            chosen, self.stack.logits, step.targets, step.weights, step.taught, step.teacher, step.counted
        )


def head(
    states: Tensor,
    logits: Callable[[Tensor], Tensor],
    targets: Tensor,
    weights: Tensor,
    taught: Tensor,
    teacher: Tensor,
    counted: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses from the states of predicted positions [p, h]; no gradient goes to the teachers."""
    tokens = cross_entropy(logits(states).float(), targets, reduction="none")
    known = log_softmax(logits(states[teacher].detach()).float(), dim=-1)
    said = log_softmax(logits(states[taught]).float(), dim=-1)
    apart = ((known.exp() * (known - said)).sum(dim=-1) * counted).sum() / counted.sum().clamp(min=1)
    whole = weights.sum().clamp(min=1e-6)  # a step may ask nothing
    share = (weights[taught] * counted).sum() / whole
    total = (tokens * weights).sum() / whole + _DISTILL * share * apart
    return total, tokens.detach(), apart.detach()


@dataclass
class TensorStep:
    """A `Step` on a device."""

    ids: Tensor
    live: Tensor
    size: Tensor
    rows: list[tuple[Tensor, Tensor]]
    rows_at: Tensor
    targets: Tensor
    weights: Tensor
    taught: Tensor
    teacher: Tensor
    counted: Tensor

    @classmethod
    def of(cls, step: Step, device: Any) -> TensorStep:
        """Moves arrays; pairs of teachers and taught are padded to a fixed number."""

        def moved(value: Any) -> Tensor:
            return torch.as_tensor(value).to(device, non_blocking=True)

        count = min(len(step.taught), _PAIRS)
        taught, teacher = torch.zeros(2, _PAIRS, dtype=torch.long)
        taught[:count], teacher[:count] = (
            torch.as_tensor(step.taught[:count]),
            torch.as_tensor(step.teacher[:count]),
        )
        return cls(
            moved(step.ids),
            moved(step.live),
            moved(step.size),
            [(moved(ids), moved(places)) for ids, places in step.rows],
            moved(step.rows_at),
            moved(step.targets),
            moved(step.weights),
            moved(taught),
            moved(teacher),
            moved((torch.arange(_PAIRS) < count).float()),
        )


@dataclass
class Progress:
    """After a step.

    Attributes:
        number: Steps done.
        seconds: Since the first began.
        losses: Mean loss per token by kind of row, of the last steps.
        divergence: From the teachers.
    """

    number: int
    seconds: float
    losses: dict[str, float]
    divergence: float


def optimizer_of(reader: Reader) -> torch.optim.Optimizer:
    """For everything that is trained; its groups know their highest rates."""
    config = reader.config
    changes = [*reader.writer.parameters(), *reader.reader.parameters()]
    groups = [
        {"params": changes, "lr": config.rate, "top": config.rate},
        {"params": list(reader.reading.parameters()), "lr": config.map_rate, "top": config.map_rate},
    ]
    fused = reader.stack.embeddings.device.type == "cuda"
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)


def one_step(
    reader: Reader, optimizer: torch.optim.Optimizer, step: TensorStep, part: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Trains on a step, at the rate for a part of the way in [0, 1]; returns what `Reader.loss` does."""
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * _rate(part)
    found = reader.loss(step)
    found[0].backward()
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return found


def fit(
    reader: Reader,
    steps: Iterable[Step],
    device: Any,
    *,
    report_every: int = 50,
    most_steps: int | None = None,
) -> Iterator[Progress]:
    """Trains until the time is up; yields every few steps."""
    config, optimizer = reader.config, optimizer_of(reader)
    began, sums, counts, divergences = time.monotonic(), {}, {}, []
    for number, step in enumerate(steps, start=1):
        part = (time.monotonic() - began) / config.seconds
        if most_steps is not None:
            part = (number - 1) / most_steps
        if part >= 1:
            break
        _, tokens, apart = one_step(reader, optimizer, TensorStep.of(step, device), part)
        for kind, places in step.kinds.items():
            sums[kind] = sums.get(kind, 0) + tokens[torch.as_tensor(places, device=device)].mean()
            counts[kind] = counts.get(kind, 0) + 1
        divergences.append(apart)
        if number % report_every == 0:
            losses = {kind: float(value) / counts[kind] for kind, value in sorted(sums.items())}
            yield Progress(number, time.monotonic() - began, losses, float(torch.stack(divergences).mean()))
            sums, counts, divergences = {}, {}, []


def _rate(part: float) -> float:
    """Share of the learning rate after a part of the time: up, then a falling cosine."""
    if part < _WARM_UP:
        return max(part / _WARM_UP, 0.02)
    fall = (part - _WARM_UP) / (1 - _WARM_UP)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fall))
