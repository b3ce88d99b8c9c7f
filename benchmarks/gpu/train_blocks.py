r"""Tunes SmolLM2-135M-Instruct to read five chunks side by side, as kept keys and values have them.

    python benchmarks/gpu/train_blocks.py --model DIR --texts reader-texts.npz --out DIR --compile

DIR of the model as `mllm_plugin.llm.resolve_llm` gives it. Side by side, a chunk sees the head of the prompt
and itself, all chunks begin at the same place, and question and answer see everything: so what the model
remembers of a chunk is the same in whatever company. Writes the changes, and for held-out questions losses
and greedy answers of chunks one after another and side by side, before and after; score these with
`benchmarks/gpu/score_reader.py`.

Source: Block-Attention, Ma et al. 2024; parallel context windows, Ratner et al. 2023.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from train_reader import save_parts

from mllm_plugin.llm import MemoryReader
from mllm_plugin.training.reader.loop import rate_of
from mllm_plugin.training.reader.prompts import Ids, Prompts
from mllm_plugin.training.reader.stack import Changes, LlamaStack, Weights, layer
from mllm_plugin.training.reader.tasks import Sampler
from mllm_plugin.training.reader.texts import ReaderTexts

CHUNKS, LONGEST = 5, 160  # tokens of a chunk here
_ALL = -1  # the block of what sees everything; the head is block 0
_ANSWER = 24
_NEAR = 20  # chunks on either side among which company is looked for


class Row(NamedTuple):
    """Tokens, and the block of each; the last `answer` of them are to be predicted."""

    ids: Ids
    blocks: Ids
    answer: int


def lay(prompts: Prompts, chunks: Sequence[Ids], question: Ids, answer: Ids) -> Row:
    """The one prompt layout: head, chunks, question, what is to be said."""
    parts = [prompts["head"], *(np.concatenate([chunk, prompts["gap"]]) for chunk in chunks)]
    parts.append(np.concatenate([question, prompts["tail"], answer]))
    blocks = [*range(len(parts) - 1), _ALL]
    sizes = [len(part) for part in parts]
    return Row(np.concatenate(parts), np.repeat(blocks, sizes), len(answer))


@dataclass
class Tasks:
    """Questions, and cloze questions, about one of five chunks; the others are what a search would find."""

    texts: ReaderTexts
    prompts: Prompts
    longest: int

    def __post_init__(self) -> None:
        self._sampler = Sampler(self.texts, self.prompts)
        self._asked = np.flatnonzero(~self.texts.held_out)

    def draw(self, rng: np.random.Generator) -> Row:
        """One row that fits."""
        texts = self.texts
        while True:
            if rng.random() < 0.6:
                number = int(rng.choice(self._asked))
                row = self.row(number, rng)
            else:
                number = int(rng.integers(len(texts.blanks)))
                blank = texts.blanks[number]
                chunk = int(blank[0])
                question = self._sampler.cloze(texts.chunks[chunk], blank, rng)
                inside = int(blank[3]) < LONGEST
                row = self._row(chunk, question, texts.fillings[number], rng) if inside else None
            if row is not None:
                return row

    def row(self, number: int, rng: np.random.Generator) -> Row | None:
        """A question's row; None where it has no room."""
        texts = self.texts
        return self._row(int(texts.asked[number]), texts.questions[number], texts.answers[number], rng)

    def _row(self, chunk: int, question: Ids, answer: Ids, rng: np.random.Generator) -> Row | None:
        company = self._company(chunk, question)
        chosen = rng.permutation([chunk, *company]).tolist()
        said = np.concatenate([answer, self.prompts["end"]])
        row = lay(self.prompts, [self.texts.chunks[one][:LONGEST] for one in chosen], question, said)
        return row if len(row.ids) <= self.longest and len(said) <= _ANSWER else None

    def _company(self, chunk: int, question: Ids) -> list[int]:
        """Others near it, as of one article, that share the rarest tokens with the question."""
        texts, asked = self.texts, np.unique(question)
        near = np.arange(max(0, chunk - _NEAR), min(len(texts.documents), chunk + _NEAR + 1))
        near = near[(near != chunk) & (texts.sources[near] == texts.sources[chunk])]
        shared = [texts.idf[np.intersect1d(asked, texts.chunks[int(one)])].sum() for one in near]
        return near[np.argsort(-np.array(shared), kind="stable")][: CHUNKS - 1].tolist()


@dataclass
class Batch:
    """Rows of one length [b, t].

    Attributes:
        ids, blocks: Of each token; what only fills up sees everything and is seen by nothing that counts.
        ends: Tokens of each row [b].
        answers: How many of the last are to be predicted [b].
    """

    ids: Tensor
    blocks: Tensor
    ends: Tensor
    answers: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], longest: int) -> Batch:
        """Fills rows up to a length."""
        ids, blocks = np.zeros((len(rows), longest), np.int64), np.full((len(rows), longest), _ALL)
        for line, row in enumerate(rows):
            ids[line, : len(row.ids)], blocks[line, : len(row.ids)] = row.ids, row.blocks
        ends, answers = [len(row.ids) for row in rows], [row.answer for row in rows]
        return cls(*(torch.as_tensor(one) for one in (ids, blocks, ends, answers)))

    def to(self, device: Any) -> Batch:
        """Moved."""
        return Batch(*(one.to(device) for one in (self.ids, self.blocks, self.ends, self.answers)))

    def mask(self) -> Tensor:
        """What each token sees side by side [b, 1, t, t]."""
        own, other = self.blocks[:, :, None], self.blocks[:, None, :]
        before = torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=own.device).tril()
        return (before & ((own == _ALL) | (own == other) | (other == 0))).unsqueeze(1)

    def places(self) -> Tensor:
        """Where each token stands side by side [b, t]: every chunk begins behind the head."""
        count = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        starts = torch.zeros_like(count)
        head = (self.blocks == 0).sum(1, keepdim=True)
        widest = torch.zeros_like(head)
        for block in range(1, int(self.blocks.max()) + 1):
            mine = self.blocks == block
            size = mine.sum(1, keepdim=True)
            first = torch.where(mine, count, count.shape[1]).amin(1, keepdim=True)
            starts = torch.where(mine, first - head, starts)
            widest = torch.maximum(widest, size)
        rest = self.blocks == _ALL
        first = torch.where(rest, count, count.shape[1]).amin(1, keepdim=True)
        return count - torch.where(rest, first - head - widest, starts)

    def asked(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row, position and target of every token that is to be predicted."""
        count = torch.arange(self.ids.shape[1], device=self.ids.device)
        live = (count < self.ends[:, None]) & (count >= (self.ends - self.answers)[:, None])
        row, place = live.nonzero(as_tuple=True)
        return row, place - 1, self.ids[row, place]


def states(stack: LlamaStack, weights: Weights, batch: Batch, *, beside: bool) -> Tensor:
    """[b, t, h], the chunks side by side or one after another."""
    embeds = stack.embed(batch.ids)
    if not beside:
        return stack.normed(stack(embeds, weights))
    return stack.normed(stack(embeds, weights, batch.mask(), batch.places()))


def losses(stack: LlamaStack, weights: Weights, batch: Batch, *, beside: bool) -> tuple[Tensor, Tensor]:
    """Of each token that is to be predicted, and which row it is of."""
    row, place, target = batch.asked()
    logits = stack.logits(states(stack, weights, batch, beside=beside)[row, place]).float()
    return cross_entropy(logits, target, reduction="none"), row


@torch.no_grad()
def greedy(stack: LlamaStack, weights: Weights, batch: Batch, end: int, *, beside: bool) -> list[list[int]]:
    """Answers as token ids."""
    lines, last, said = torch.arange(len(batch.ids), device=batch.ids.device), batch.ends - batch.answers, []
    now = Batch(batch.ids.clone(), batch.blocks, batch.ends, batch.answers)
    for _ in range(16):
        chosen = stack.logits(states(stack, weights, now, beside=beside)[lines, last - 1]).argmax(-1)
        now.ids[lines, last] = chosen
        said.append(chosen)
        last = last + 1
    written = torch.stack(said, dim=1).tolist()
    return [row[: row.index(end)] if end in row else row for row in written]


class Batches(Dataset):
    """Batches by number, so that workers can draw them."""

    def __init__(self, tasks: Tasks, rows: int, seed: int) -> None:
        self.tasks, self.rows, self.seed = tasks, rows, seed

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng([self.seed, number])
        return Batch.of([self.tasks.draw(rng) for _ in range(self.rows)], self.tasks.longest)


def train(stack: LlamaStack, changes: Changes, tasks: Tasks, options: argparse.Namespace) -> list[dict]:
    """Trains until the time is up, or for some steps."""
    device, curve, some = torch.device(options.device), [], []
    loader = DataLoader(
        Batches(tasks, options.rows, options.seed), batch_size=None, num_workers=options.workers
    )
    optimizer = torch.optim.AdamW(changes.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0)
    began = time.monotonic()
    for number, batch in enumerate(loader, start=1):
        part = (time.monotonic() - began) / options.seconds
        if options.steps is not None:
            part = (number - 1) / options.steps
        if part >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.rate * rate_of(part)
        loss = losses(stack, changes.added(stack), batch.to(device), beside=True)[0].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(changes.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        some.append(loss.detach())
        if number % options.report == 0:
            seconds = round(time.monotonic() - began, 1)
            curve.append({"step": number, "s": seconds, "loss": round(float(torch.stack(some).mean()), 3)})
            print(json.dumps(curve[-1]), flush=True)
            some = []
    return curve


def held_out(tasks: Tasks, most: int, rows: int) -> Iterator[tuple[list[int], Batch]]:
    """Questions that were not trained on, in batches."""
    rng = np.random.default_rng(0)
    numbers = rng.permutation(np.flatnonzero(tasks.texts.held_out)).tolist()
    found = [(number, row) for number in numbers if (row := tasks.row(number, rng)) is not None][:most]
    for start in range(0, len(found), rows):
        part = found[start : start + rows]
        yield [number for number, _ in part], Batch.of([row for _, row in part], tasks.longest)


def measure(
    stack: LlamaStack, before: Weights, changes: Changes, tasks: Tasks, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, list]]:
    """Mean losses, and answers, by how the chunks are read."""
    ways = {"text": (before, False), "side by side": (before, True)}
    tuned = changes.added(stack)
    ways |= {"text, tuned": (tuned, False), "side by side, tuned": (tuned, True)}
    end, found = int(tasks.prompts["end"][0]), {name: [] for name in ways}
    said: dict[str, list] = {"questions": [], **{f"{name} 4": [] for name in ways}}
    for numbers, batch in held_out(tasks, options.answers, options.rows):
        said["questions"] += numbers
        for name, (weights, beside) in ways.items():
            there = batch.to(torch.device(options.device))
            with torch.no_grad():
                values, row = losses(stack, weights, there, beside=beside)
            sums = torch.zeros(len(numbers), device=values.device).index_add(0, row, values)
            found[name] += (sums / there.answers).tolist()
            said[f"{name} 4"] += greedy(stack, weights, there, end, beside=beside)
    return {name: round(float(np.mean(values)), 3) for name, values in found.items()}, said


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--texts", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--start", type=Path, help="folder of a reader to go on with, of that rank")
    arguments.add_argument("--seconds", type=float, default=180)
    arguments.add_argument("--steps", type=int, help="end after so many in place of a time")
    arguments.add_argument("--rate", type=float, default=5e-4)
    arguments.add_argument("--rank", type=int, default=32)
    arguments.add_argument("--rows", type=int, default=48, help="of a step")
    arguments.add_argument("--longest", type=int, default=896, help="tokens of a row")
    arguments.add_argument("--answers", type=int, default=480, help="held-out questions")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--report", type=int, default=25)
    arguments.add_argument("--workers", type=int, default=12)
    arguments.add_argument("--compile", action="store_true")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = arguments.parse_args()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    texts = ReaderTexts.load(options.texts)
    prompts = Prompts.of(json.loads(options.texts.with_suffix(".json").read_text()))
    tasks = Tasks(texts, prompts, options.longest)
    settings = json.loads((options.model / "config.json").read_text())
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tensors = load_file(str(options.model / "model.safetensors"))
    stack = LlamaStack(tensors, settings, dtype=dtype, longest=options.longest).to(device)
    torch.manual_seed(options.seed)
    changes = Changes(stack, options.rank, 2.0).to(device)
    if options.start:
        parts = MemoryReader.load(options.start).tensors.items()
        changes.load(
            stack, {name[len("reader.") :]: value for name, value in parts if name.startswith("reader.")}
        )
    with torch.no_grad():
        before = changes.added(stack)
    if options.compile:
        stack.layer = torch.compile(layer, dynamic=False)
    curve = train(stack, changes, tasks, options)
    stack.layer = layer
    options.out.mkdir(parents=True, exist_ok=True)
    save_parts(changes.tensors(stack), options.out, "blocks")
    found, said = measure(stack, before, changes, tasks, options)
    print(json.dumps({"held_out": found}), flush=True)
    (options.out / "blocks.json").write_text(json.dumps({"curve": curve, "held_out": found}))
    (options.out / "answers.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
