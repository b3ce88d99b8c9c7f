"""Curves of a training run as a picture, when matplotlib is installed (extra `train`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plot_curves(found: Mapping[str, Any], path: Path) -> bool:
    """Draws loss and held-out recall by step, and recall by embeddings scored.

    Args:
        found: See `mllm_plugin.training.fit.curves`.
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

    rows = [row for row in found["history"] if row["step"] > 0]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4))
    left.plot([row["loss"] for row in rows])
    left.set(title="loss", xlabel="measurement")
    for name in ("recall@16", "recall@32", "recall@64"):
        middle.plot([row[name] for row in found["history"]], label=f"beam {name.split('@')[1]}, no margin")
    middle.set(title="held-out recall", xlabel="measurement")
    middle.legend()
    for name in ("identity", "trained"):
        points = sorted(found[name].values())
        right.plot([100 * x for x, _ in points], [y for _, y in points], marker=".", label=name)
    right.set(title="held-out recall", xlabel="% of chunks scored", xlim=(0, 15))
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True
