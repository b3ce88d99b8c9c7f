r"""Which kernel scores embeddings fastest: one query, and 256, against 64 scattered ranges of int8 rows.

    OMP_NUM_THREADS=1 python benchmarks/scoring.py

20,000 of 400,000 rows of 384 dimensions, in 64 contiguous ranges, one thread. Every kernel returns the same
exact inner products of the codes, or its line says that it does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType

import faiss
import numpy as np
import simsimd
from common import machine, print_table
from numpy.typing import NDArray

from mllm_plugin.image import jitted, plain

DIM, ROWS, RANGES, SCORED, BATCH = 384, 400_000, 64, 20_000, 256
REPEATS = 15
Codes = NDArray[np.int8]


def numpy_gather(
    rows: NDArray, queries: NDArray[np.float32], firsts: NDArray[np.int64], each: int
) -> NDArray:
    """Rows gathered by index and widened, as the walk over the file does."""
    places = (firsts[:, None] + np.arange(each)).ravel()
    return queries @ rows[places].astype(np.float32).T


def numpy_ranges(
    rows: NDArray, queries: NDArray[np.float32], firsts: NDArray[np.int64], each: int
) -> NDArray:
    """A product per range, without a gather."""
    found = np.empty((len(queries), len(firsts) * each), np.float32)
    for place, first in enumerate(firsts.tolist()):
        part = rows[first : first + each].astype(np.float32, copy=False)
        np.matmul(queries, part.T, out=found[:, place * each : (place + 1) * each])
    return found


def simsimd_ranges(codes: Codes, queries: Codes, firsts: NDArray[np.int64], each: int) -> NDArray:
    """SimSIMD, one call per range."""
    found = np.empty((len(queries), len(firsts) * each), np.float64)
    for place, first in enumerate(firsts.tolist()):
        part = simsimd.cdist(queries, codes[first : first + each], metric="dot")
        found[:, place * each : (place + 1) * each] = np.asarray(part)
    return found


def image_ranges(
    kernel: ModuleType, codes: Codes, queries: Codes, firsts: NDArray[np.int64], each: int
) -> NDArray:
    """The image's kernel: one call for all ranges of all queries."""
    many, ones = len(queries), np.ones(len(codes), np.float32)
    starts = np.tile(firsts, many)
    sizes, worth = np.full(many, len(firsts)), np.ones((many, 1, 1), np.float32)
    live = ones.view(np.uint32)
    asked = queries[:, None, None]
    _, found, _, _ = kernel.score(codes, ones, live, starts, starts + each, sizes, asked, worth)
    return found.reshape(many, -1)


def faiss_lists(vectors: NDArray[np.float32], kind: str, each: int) -> Callable[[NDArray, NDArray], NDArray]:
    """faiss scanning the same ranges as lists of an IVF index that we assign."""
    quantizer = faiss.IndexFlatIP(DIM)
    lists = ROWS // each
    quantizer.add(vectors[:lists])
    index: faiss.IndexIVF
    if kind == "flat":
        index = faiss.IndexIVFFlat(quantizer, DIM, lists, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFScalarQuantizer(
            quantizer,
            DIM,
            lists,
            faiss.ScalarQuantizer.QT_8bit_direct_signed,
            faiss.METRIC_INNER_PRODUCT,
            False,
        )
        index.train(vectors[:20_000])
    home = (np.arange(lists * each) // each).astype(np.int64)
    index.add_core(lists * each, faiss.swig_ptr(vectors), None, faiss.swig_ptr(home))
    index.nprobe = RANGES

    def scan(queries: NDArray[np.float32], firsts: NDArray[np.int64]) -> NDArray:
        probes = np.repeat((firsts // each)[None], len(queries), axis=0)
        return index.search_preassigned(queries, 10, probes, np.zeros(probes.shape, np.float32))[0]

    return scan


def milliseconds(call: Callable[[], object]) -> float:
    call()
    took = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return 1000 * float(np.median(took))


def main() -> None:
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (ROWS, DIM), dtype=np.int8)
    wide, half = codes.astype(np.float32), codes.astype(np.float16)
    each = SCORED // RANGES
    firsts = np.sort(rng.choice(ROWS // each, RANGES, replace=False)).astype(np.int64) * each
    queries = rng.integers(-127, 128, (BATCH, DIM), dtype=np.int8)
    floats = queries.astype(np.float32)
    places = (firsts[:, None] + np.arange(each)).ravel()
    truth = queries.astype(np.int64) @ codes[places].T.astype(np.int64)
    flat, eight = faiss_lists(wide, "flat", each), faiss_lists(wide, "8-bit", each)
    candidates: dict[str, Callable[[int], NDArray]] = {
        "numpy, float16 gathered and widened": lambda n: numpy_gather(half, floats[:n], firsts, each),
        "numpy, float32 gathered": lambda n: numpy_gather(wide, floats[:n], firsts, each),
        "numpy, float32 by ranges": lambda n: numpy_ranges(wide, floats[:n], firsts, each),
        "numpy, int8 by ranges, widened": lambda n: numpy_ranges(codes, floats[:n], firsts, each),
        "SimSIMD, int8 by ranges": lambda n: simsimd_ranges(codes, queries[:n], firsts, each),
        "the image's kernel, numba, int8": lambda n: image_ranges(jitted, codes, queries[:n], firsts, each),
        "the image's fallback, numpy, int8": lambda n: image_ranges(plain, codes, queries[:n], firsts, each),
        "faiss, float32 lists, ten best": lambda n: flat(floats[:n], firsts),
        "faiss, 8-bit lists, ten best": lambda n: eight(floats[:n], firsts),
    }
    print(f"On {machine()}, one thread; {SCORED} of {ROWS} rows of {DIM} in {RANGES} ranges.\n")
    rows = []
    for name, call in candidates.items():
        single, batch = milliseconds(lambda call=call: call(1)), milliseconds(lambda call=call: call(BATCH))
        got = call(BATCH)
        same = "" if got.shape != truth.shape else "yes" if np.array_equal(got, truth) else "no"
        rows.append([name, f"{single:.3f}", f"{batch / BATCH:.3f}", same])
    print_table(["", "one query, ms", "of 256, ms/query", "exact products"], rows)


if __name__ == "__main__":
    main()
