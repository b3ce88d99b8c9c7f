r"""Makes a folder that `MemoryReader.load` reads from what benchmarks/gpu/train_reader.py wrote.

python benchmarks/gpu/assemble_reader.py --trained DIR --texts reader-texts.npz --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mllm_plugin.llm import MemoryReader, ReaderConfig, load_llm
from mllm_plugin.training.reader.prompts import PARTS
from mllm_plugin.training.reader.texts import ReaderTexts

AUTO = {"mode": "text", "expand": 1, "lora": True}  # beside text its memory tokens harm
READING = {"memory_budget": 512, "windows": 512, "chunks": 0, "repeat": False}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--trained", type=Path, required=True)
    arguments.add_argument("--texts", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--about", type=json.loads, default={}, help="figures to note, as JSON")
    options = arguments.parse_args()
    tensors: dict[str, Any] = {}
    for file in sorted(options.trained.glob("reader-*.safetensors")):
        tensors |= load_file(file)
    named = {name.replace("reading.", "space.", 1): value.float() for name, value in tensors.items()}
    named["space.idf"] = torch.from_numpy(ReaderTexts.load(options.texts).idf.astype(np.float32))
    run = json.loads((options.trained / "curve.json").read_text())
    llm = load_llm(device="cpu")
    config = ReaderConfig(
        llm=llm.fingerprint,
        llm_name=llm.name,
        hidden=llm.hidden,
        refusal=PARTS["unknown"],
        reading=READING,
        auto=AUTO,
        about={
            "steps": run["curve"][-1]["step"],
            "seed": run["args"]["seed"],
            "rate": run["args"]["rate"],
            **options.about,
        },
    )
    MemoryReader(config, named).save(options.out)
    kept = {
        "columns": "mean loss per token by kind of row; held_out in nats per answer token",
        "curve": run["curve"],
    }
    (options.out / "curves.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
