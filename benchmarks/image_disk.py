r"""What the search image costs on disk: writing, opening, the first result, checksums as blocks are touched.

    OMP_NUM_THREADS=1 python benchmarks/image_disk.py --vectors real.npy --questions asked.npy --count 100000

Vectors as `scale.py` makes them; the file is in the page cache.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import machine, print_table
from indexes import timed
from numpy.typing import NDArray
from scale import arguments
from spaces import build_space
from vectors import Vectors, mixtures, real_vectors

from mllm_plugin.image import ImageFolder, Plan, Space, nearest, walk

_K, _WIDTH = 10, 64


def per_query(space: Space, queries: Vectors) -> NDArray[np.float64]:
    """Milliseconds of each question, one at a time."""
    took = []
    for query in queries:
        asked = query[None, None]
        took.append(timed(lambda asked=asked: nearest(space, asked, Plan(_WIDTH), _K))[1][0])
    return 1000 * np.array(took)


def main() -> None:
    options = arguments((__doc__ or "").splitlines()[0]).parse_args()
    real, queries = real_vectors(options)
    space = build_space(mixtures(real, options.count))
    _, (loading, _) = timed(lambda: nearest(space, queries[:1, None], Plan(_WIDTH), _K))
    walk(space, queries[:1, None], Plan(_WIDTH))  # loaded as well, before anything is timed
    print(f"On {machine()}, one thread; {options.count} vectors, beam {_WIDTH}.\n")
    with tempfile.TemporaryDirectory() as folder:
        images = ImageFolder(Path(folder))
        _, (writing, _) = timed(lambda: images.publish([(1, space)], images.epoch(), "benchmark"))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.image"))
        other = ImageFolder(Path(folder))
        mapped, (opening, _) = timed(lambda: other.space(1, "benchmark"))
        first = per_query(mapped, queries)
        again = per_query(mapped, queries)
        _, (checking, _) = timed(other.check_all)
        checked = per_query(mapped, queries)
    rows = [
        ["first call in a process, which loads numba and what it compiled before, seconds", f"{loading:.2f}"],
        ["bytes per chunk", f"{size / options.count:.0f}"],
        ["writing, seconds", f"{writing:.2f}"],
        ["opening, milliseconds", f"{1000 * opening:.1f}"],
        ["first result after that, milliseconds", f"{first[0]:.2f}"],
        ["questions asked for the first time, p50 ms", f"{np.median(first):.3f}"],
        ["asked again, p50 ms", f"{np.median(again):.3f}"],
        ["checking all that is left, milliseconds", f"{1000 * checking:.1f}"],
        ["asked when all is checked, p50 ms", f"{np.median(checked):.3f}"],
        ["the same arrays in memory, p50 ms", f"{np.median(per_query(space, queries)):.3f}"],
    ]
    print_table(["", "measured"], rows)


if __name__ == "__main__":
    main()
