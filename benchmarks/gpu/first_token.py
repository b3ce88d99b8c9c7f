r"""Milliseconds to the first token: chunks as text, as memory tokens at 4x and 8x, as kept keys and values.

    python benchmarks/gpu/first_token.py --model DIR

A chunk has 80 tokens here, so that 100 of them fit the model's context; a question has 24. Token ids are
random, since only shapes count. Medians of repeated runs after a warm-up, one prompt at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

CHUNK, QUESTION = 80, 24
COUNTS = (1, 5, 20, 100)


def milliseconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median time of a run that ends when the device is done."""
    import time

    times = []
    for _ in range(repeats + 3):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times[3:]))


@torch.inference_mode()
def measure(model: Any, device: torch.device, chunks: int, repeats: int) -> dict[str, float]:
    """First-token times with so many chunks."""
    from transformers import DynamicCache

    hidden, words = model.config.hidden_size, model.config.vocab_size
    question = torch.randint(words, (1, QUESTION), device=device)
    asked = model.get_input_embeddings()(question)

    def read(positions: int) -> Callable[[], Any]:
        soft = torch.randn(1, positions, hidden, device=device, dtype=asked.dtype)
        return lambda: model(inputs_embeds=torch.cat([soft, asked], dim=1), logits_to_keep=1)

    found = {"text": milliseconds(read(chunks * CHUNK), device, repeats)}
    for ratio in (4, 8):
        found[f"memory {ratio}x"] = milliseconds(read(chunks * CHUNK // ratio), device, repeats)
    kept = DynamicCache()
    model(
        input_ids=torch.randint(words, (1, chunks * CHUNK), device=device),
        past_key_values=kept,
        logits_to_keep=1,
    )

    def from_kept() -> None:
        model(input_ids=question, past_key_values=kept, logits_to_keep=1)
        kept.crop(-QUESTION)

    found["keys and values"] = milliseconds(from_kept, device, repeats)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--repeats", type=int, default=20)
    arguments.add_argument("--dtype", help="bfloat16 on a GPU and float32 on the CPU when left out")
    arguments.add_argument("--chunks", type=int, nargs="+", default=COUNTS)
    options = arguments.parse_args()
    from transformers import AutoModelForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(device).eval()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"On {name}, torch {torch.__version__}, {dtype}; {CHUNK} tokens a chunk, {QUESTION} a question.\n")
    rows = {count: measure(model, device, count, options.repeats) for count in options.chunks}
    named = next(iter(rows.values()))
    print("| chunks | " + " | ".join(named) + " |")
    print("|---|" + "---|" * len(named))
    for count, row in rows.items():
        print(f"| {count} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
