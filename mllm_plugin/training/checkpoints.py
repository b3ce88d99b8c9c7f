"""The state of a run on disk, written whole or not at all, so that an interrupted one goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mllm_plugin.errors import InvalidInputError
from mllm_plugin.folder import check_tensors, has_pair, packed, parsed, read_pair, unpacked, write_pair

_NAME = "state"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

Rows = list[dict[str, float]]


@dataclass
class State:
    """How far a run is.

    Attributes:
        step: Steps done.
        stale: Measurements since the best.
        least: What is wanted small, for the best weights so far: a held-out loss, or a share that is missed.
        best: These weights; None before the first measurement.
    """

    step: int = 0
    stale: int = 0
    least: float = math.inf
    best: dict[str, Tensor] | None = None

    def measured(self, value: float, module: nn.Module) -> None:
        """Notes a measurement, and keeps the weights if it is the best."""
        self.stale += 1
        if self.best is None or value < self.least:
            self.best = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
            self.least, self.stale = value, 0


class _Numbers(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(default=1, ge=1, le=1)
    step: int = Field(ge=0)
    stale: int = Field(ge=0)
    least: float | None
    rows: list[dict[str, int | float | None]]


@dataclass
class Checkpoint:
    """Where a run keeps its state.

    Attributes:
        folder: For the state; None to keep none.
        module: What is trained.
        optimizer: AdamW's.
        rows: Its curves: a row per measurement.
    """

    folder: Path | None
    module: nn.Module
    optimizer: torch.optim.Optimizer
    rows: Rows = field(default_factory=list)

    def save(self, state: State) -> None:
        """Writes the state of now.

        Raises:
            StoreError: The folder cannot be written; the state before is kept.
        """
        if self.folder is None:
            return
        numbers = _Numbers(
            step=state.step,
            stale=state.stale,
            least=_number(state.least),
            rows=[{name: _number(value) for name, value in row.items()} for row in self.rows],
        )
        tensors = packed(self._tensors(state.best or {}))
        write_pair(self.folder, _NAME, tensors=tensors, config=numbers.model_dump_json())

    def load(self) -> State:
        """Restores module, optimizer and curves; a fresh state where there is none.

        Raises:
            InvalidInputError: What is there is damaged, or another run's.
        """
        if self.folder is None or not has_pair(self.folder, _NAME):
            return State()
        data, text = read_pair(self.folder, _NAME, what="checkpoint", hint="delete the folder to begin anew")
        where = f"the checkpoint in {self.folder}"
        try:
            tensors, numbers = unpacked(data, where), parsed(_Numbers, text, where)
            check_tensors(tensors, self._shapes(tensors), where)
        except InvalidInputError as error:
            raise InvalidInputError(f"{error}. Delete the folder to begin anew") from error
        device = next(self.module.parameters()).device
        self.module.load_state_dict(_below(tensors, "now."))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": _moments(tensors), "param_groups": groups})
        self.rows[:] = [{name: _or_nan(value) for name, value in row.items()} for row in numbers.rows]
        best = {name: value.to(device) for name, value in _below(tensors, "best.").items()}
        least = math.inf if numbers.least is None else numbers.least
        return State(numbers.step, numbers.stale, least, best)

    def _tensors(self, best: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        named = {f"now.{name}": value for name, value in self.module.state_dict().items()}
        named |= {f"best.{name}": value for name, value in best.items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{place}.{name}": moments[name] for name in _MOMENTS}
        return {name: value.detach().cpu().numpy() for name, value in named.items()}

    def _shapes(self, tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[int, ...]]:
        """Of the module's weights, and of the moments of those that had a step."""
        own = {name: tuple(value.shape) for name, value in self.module.state_dict().items()}
        shapes = {f"{part}.{name}": shape for part in ("now", "best") for name, shape in own.items()}
        groups = self.optimizer.param_groups
        for place, parameter in enumerate(weight for group in groups for weight in group["params"]):
            names = [f"optimizer.{place}.{moment}" for moment in _MOMENTS]
            if any(name in tensors for name in names):
                shapes |= dict(zip(names, (parameter.shape, parameter.shape, ()), strict=True))
        return shapes


def _moments(tensors: Mapping[str, NDArray[np.float32]]) -> dict[int, dict[str, Tensor]]:
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimizer.").items():
        place, moment = name.split(".")
        found.setdefault(int(place), {})[moment] = value
    return found


def _below(tensors: Mapping[str, NDArray[np.float32]], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(value.copy())
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _number(value: float) -> float | None:
    """A number as JSON has it."""
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
