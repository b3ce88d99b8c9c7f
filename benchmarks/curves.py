"""Recall against time, drawn from tables that `scale.py` printed: a panel for each run.

python benchmarks/curves.py docs/performance.md "1,000,000 vectors" docs/scale.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

Curves = dict[str, list[tuple[float, float]]]  # recall and milliseconds of each setting, by index


def curves(text: str, heading: str) -> Iterator[Curves]:
    """Each table of recall and time below a heading of Markdown, up to the next one."""
    below = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    for block in below.split("\n\n"):
        rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in block.strip().splitlines()]
        if rows and {"recall@10", "p50 ms"} <= set(rows[0]):
            # the first cell of the header is empty, and stripped with the line's end
            recall, time = (rows[0].index(name) + 1 for name in ("recall@10", "p50 ms"))
            found: Curves = {}
            for row in rows[2:]:
                found.setdefault(row[0], []).append((float(row[recall]), float(row[time])))
            yield found


def draw(panels: list[Curves], path: Path) -> None:
    """Writes a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in panel.items():
            scale = {"marker": "o", "markersize": 3, "linewidth": 2.5 if name == "memory" else 1}
            axes.plot(*zip(*points, strict=True), label=name, **scale)
        axes.set(xlabel="recall@10", ylabel="ms a query, p50", yscale="log", xlim=(0.5, 1.01))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    taken = argparse.ArgumentParser(description=__doc__)
    taken.add_argument("table", type=Path, help="a file of Markdown")
    taken.add_argument("heading")
    taken.add_argument("picture", type=Path)
    options = taken.parse_args()
    draw(list(curves(options.table.read_text("utf-8"), options.heading)), options.picture)


if __name__ == "__main__":
    main()
