"""Curves of a reader's training as a picture, when matplotlib is installed (extra `train`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mllm_plugin.training.reader.measure import WAYS


def plot_losses(rows: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Draws the training loss and the held-out losses by step.

    Args:
        rows: See `mllm_plugin.training.reader.loop.Loop`.
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

    figure, axes = pyplot.subplots(figsize=(7, 4))
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["loss"] for row in rows], color="0.7", label="training, all kinds of rows")
    for way in WAYS:
        axes.plot(steps, [row[way] for row in rows], marker=".", label=f"held out, {way}")
    axes.set(xlabel="step", ylabel="loss per answer token")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True
