"""Curves of a training run: as JSON and, when matplotlib is installed (extra `train`), as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_plugin.folder import write_file

CURVES_NAME, PLOT_NAME = "curves.json", "curves.png"


@dataclass
class History:
    """Curves of a run: a row per measurement."""

    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One drawing of the picture.

    Attributes:
        title: Above it.
        x: What runs to the right.
        lines: Points (x, y) by what they show; numbers that are none are left out.
        most: Where x ends; as far as there are points when left out.
    """

    title: str
    x: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    most: float | None = None


def write_curves(found: Mapping[str, Any], panels: Sequence[Panel], folder: Path) -> None:
    """Writes what was measured, and its picture beside it.

    Args:
        found: Ready for JSON, but for numbers that are none: they become null.
        panels: Of the picture.
        folder: Made when it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(found), indent=1, allow_nan=False)
    write_file(folder / CURVES_NAME, f"{text}\n")
    draw(panels, folder / PLOT_NAME)


def draw(panels: Sequence[Panel], path: Path) -> bool:
    """Draws panels side by side.

    Args:
        panels: At least one.
        path: Picture to write.

    Returns:
        False when matplotlib is not installed; nothing is written then.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        for name, points in panel.lines.items():
            axis.plot([x for x, _ in points], [y for _, y in points], marker=".", label=name)
        axis.set(title=panel.title, xlabel=panel.x)
        if panel.most is not None:
            axis.set_xlim(0, panel.most)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True


def _plain(value: Any) -> Any:
    """The same with null in place of numbers that are none."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
