r"""Trains the reader of SmolLM2-135M-Instruct on one GPU (or, a few steps, on a CPU) and measures it.

    python benchmarks/gpu/train_reader.py --model DIR --texts reader-texts.npz --out DIR --seconds 400

DIR of the model as `mllm_plugin.llm.resolve_llm` gives it. Writes tensors in files of at most 16 MB, the
curve, and the greedy answers to held-out questions as token ids, which `benchmarks/gpu/score_reader.py`
scores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from mllm_plugin.llm import MemoryReader
from mllm_plugin.training.reader.evaluate import MIXED, WAYS, Held, credit
from mllm_plugin.training.reader.loop import one_step, optimizer_of
from mllm_plugin.training.reader.modules import Reader
from mllm_plugin.training.reader.prompts import Prompts
from mllm_plugin.training.reader.rows import Sizes
from mllm_plugin.training.reader.stack import LlamaStack, layer
from mllm_plugin.training.reader.steps import Step, TensorStep
from mllm_plugin.training.reader.tasks import Sampler
from mllm_plugin.training.reader.texts import ReaderTexts

_LARGEST = 14 << 20  # bytes per file


class Steps(Dataset):
    """Steps by number, so that workers can draw them."""

    def __init__(self, sampler: Sampler, seed: int) -> None:
        self.sampler, self.seed = sampler, seed

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, number: int) -> Any:
        return self.sampler.step(np.random.default_rng([self.seed, number]))


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


def fit(
    reader: Reader,
    steps: Iterable[Step],
    device: Any,
    *,
    rate: float,
    seconds: float,
    report_every: int = 50,
    most_steps: int | None = None,
) -> Iterator[Progress]:
    """Trains until the time is up, or for some steps; the rate falls over it. Yields every few steps."""
    optimizer = optimizer_of(reader, rate)
    began, sums, counts, divergences = time.monotonic(), {}, {}, []
    for number, step in enumerate(steps, start=1):
        part = (time.monotonic() - began) / seconds
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


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def losses(held: Held, most: int, ratio: int = 4) -> dict[str, float]:
    """Losses of held-out questions and of repeating, by what is read."""
    numbers = held.questions(most)
    asked = {way: held.losses(numbers, ratio, way) for way in (*WAYS, *MIXED[:-1])}  # the last has no answer
    repeated = {way: held.losses(numbers, ratio, way, repeat=True) for way in ("own", "foreign")}
    found = {way: float(values.mean()) for way, values in asked.items()}
    return {
        **{way: round(value, 3) for way, value in found.items()},
        "credit": round(credit(asked), 3),
        "repeat": round(float(repeated["own"].mean()), 3),
        "repeat_credit": round(credit(repeated), 3),
    }


def build(options: argparse.Namespace, texts: ReaderTexts, device: Any) -> Reader:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tensors = load_file(str(options.model / "model.safetensors"))
    settings = json.loads((options.model / "config.json").read_text())
    stack = LlamaStack(tensors, settings, dtype=dtype, longest=options.longest)
    torch.manual_seed(options.seed)
    sizes = Sizes(**json.loads(options.sizes))
    idf = torch.from_numpy(texts.idf.astype(np.float32))
    reader = Reader(stack, idf, sizes, rank=options.rank)
    if options.start:
        reader.load(MemoryReader.load(options.start).tensors)
    reader = reader.to(device)
    if options.compile:
        reader.stack.layer = torch.compile(layer, dynamic=False)
    return reader


def train(
    reader: Reader, options: argparse.Namespace, texts: ReaderTexts, prompts: Prompts, device: Any
) -> list:
    sampler = Sampler(texts, prompts, reader.sizes, options.asked, options.alike)
    loader = DataLoader(
        Steps(sampler, options.seed),
        batch_size=None,
        num_workers=options.workers,
        prefetch_factor=4 if options.workers else None,
    )
    held, curve, next_look = Held(reader, texts, prompts), [], options.look
    limits = {"rate": options.rate, "seconds": options.seconds, "most_steps": options.steps}
    for done in fit(reader, loader, device, report_every=options.report, **limits):
        row = {"step": done.number, "s": round(done.seconds, 1), "kl": round(done.divergence, 3)}
        row |= {kind: round(value, 3) for kind, value in done.losses.items()}
        if done.seconds >= next_look:
            next_look += options.look
            compiled, reader.stack.layer = reader.stack.layer, layer  # or it compiles for measuring, too
            row["held_out"] = losses(held, 192)
            reader.stack.layer = compiled
        curve.append(row)
        say(**row)
        if (
            options.stop_at
            and done.seconds > options.stop_at
            and row.get("held_out", {}).get("repeat_credit", 9) < 1
        ):
            say(stopped="repeating has less than 1 nat of credit")
            break
    return curve


def save(reader: Reader, out: Path) -> None:
    """All that was trained."""
    tensors = {f"writer.{name}": value for name, value in reader.writer.tensors(reader.stack).items()}
    tensors |= {f"reader.{name}": value for name, value in reader.reader.tensors(reader.stack).items()}
    tensors |= {f"reading.{name}": value for name, value in reader.reading.state_dict().items()}
    save_parts(tensors, out, "reader")


def save_parts(tensors: Mapping[str, torch.Tensor], out: Path, title: str) -> None:
    """Tensors as fp16 in files of a size that travels."""
    files: list[dict[str, torch.Tensor]] = [{}]
    room = _LARGEST
    for name, value in tensors.items():
        kept = value.detach().to(torch.float16).cpu().contiguous()
        if kept.nbytes > room:
            files.append({})
            room = _LARGEST
        files[-1][name] = kept
        room -= kept.nbytes
    for number, one in enumerate(files):
        save_file(one, str(out / f"{title}-{number}.safetensors"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--texts", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seconds", type=float, default=400)
    arguments.add_argument("--steps", type=int, help="end after so many in place of a time")
    arguments.add_argument("--rate", type=float, default=1e-3)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--sizes", default="{}", help="fields of Sizes as JSON")
    arguments.add_argument("--rank", type=int, default=32)
    arguments.add_argument("--start", type=Path, help="folder of a reader to go on with, of that rank")
    arguments.add_argument("--asked", type=float, default=0.3, help="share of chunks with questions")
    arguments.add_argument("--alike", type=float, default=0.5, help="of these, share beside what is alike")
    arguments.add_argument("--workers", type=int, default=12)
    arguments.add_argument("--report", type=int, default=50)
    arguments.add_argument(
        "--look", type=float, default=60, help="seconds between looks at held-out questions"
    )
    arguments.add_argument("--stop-at", type=float, default=0, help="end then if nothing was learned")
    arguments.add_argument(
        "--answers", type=int, default=1194, help="held-out questions to answer at the end"
    )
    arguments.add_argument("--compile", action="store_true")
    arguments.add_argument("--longest", type=int, default=512, help="longest row in tokens")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = arguments.parse_args()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    began = time.monotonic()
    texts = ReaderTexts.load(options.texts)
    prompts = Prompts.of(json.loads(options.texts.with_suffix(".json").read_text()))
    reader = build(options, texts, device)
    say(loaded=round(time.monotonic() - began, 1), torch=torch.__version__, device=str(device))
    curve = train(reader, options, texts, prompts, device)
    options.out.mkdir(parents=True, exist_ok=True)
    save(reader, options.out)
    (options.out / "curve.json").write_text(
        json.dumps({"args": {k: str(v) for k, v in vars(options).items()}, "curve": curve})
    )
    reader.stack.layer = layer
    held = Held(reader, texts, prompts)
    if options.answers:
        say(final=losses(held, options.answers), s=round(time.monotonic() - began, 1))
        numbers = held.questions(options.answers)
        said: dict[str, Any] = {"questions": numbers.tolist()}
        for way, ratio in (*((way, 4) for way in (*MIXED, *WAYS)), ("own", 8), ("own", 2), ("own", 16)):
            said[f"{way} {ratio}"] = held.answers(numbers, ratio, way)
            (options.out / "answers.json").write_text(json.dumps(said))
        say(answered=len(numbers), s=round(time.monotonic() - began, 1))


if __name__ == "__main__":
    main()
