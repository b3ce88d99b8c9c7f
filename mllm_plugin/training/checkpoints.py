"""State of a training stage on disk: safetensors and JSON, no pickle; written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from mllm_plugin.training.hierarchy import History

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class StageState:
    """How far a stage is.

    Attributes:
        step: Steps done.
        stale: Measurements since the best.
        best_recall: Of the best weights so far.
        best: These weights; None before the first measurement.
    """

    step: int = 0
    stale: int = 0
    best_recall: float = -1.0
    best: dict[str, Tensor] | None = None


def save(
    folder: Path,
    stage: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: History,
    state: StageState,
) -> None:
    """Writes the state of a stage."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"now.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in (state.best or {}).items()}
    for place, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": moments[name] for name in _MOMENTS}
    numbers = {"step": state.step, "stale": state.stale, "best_recall": state.best_recall}
    name = folder / f"stage-{stage}"
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, f"{name}.safetensors.new")
    meta = {"numbers": numbers, "history": history.rows}
    Path(f"{name}.json.new").write_text(json.dumps(meta), encoding="utf-8")
    os.replace(f"{name}.safetensors.new", f"{name}.safetensors")
    os.replace(f"{name}.json.new", f"{name}.json")


def load(
    folder: Path, stage: int, module: nn.Module, optimizer: torch.optim.Optimizer, history: History
) -> StageState:
    """Restores module, optimizer and curves of a stage; a fresh state when there is none."""
    name = folder / f"stage-{stage}"
    if not Path(f"{name}.json").is_file():
        return StageState()
    meta = json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))
    tensors = load_file(f"{name}.safetensors")
    module.load_state_dict(_below(tensors, "now."))
    saved = optimizer.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "optimizer.").items():
        place, moment = key.split(".")
        moments.setdefault(int(place), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
    history.rows[:] = meta["history"]
    device = next(module.parameters()).device
    best = {key: value.to(device) for key, value in _below(tensors, "best.").items()}
    return StageState(**meta["numbers"], best=best)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
