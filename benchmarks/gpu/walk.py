r"""The walk over the search image on a device beside the CPU and a scan of everything; and Encoder 1.

    python benchmarks/gpu/walk.py prepare --data DIR --out FOLDER     # where the data are: FOLDER travels
    python benchmarks/gpu/walk.py build --vectors FOLDER --count 1000000 --out space.npz
    python benchmarks/gpu/walk.py measure --vectors FOLDER --space space.npz

Real vectors, then mixtures of near neighbours (`vectors.mixtures`); the questions are real, repeated up to a
batch. Recall is the share of the exact ten best, by float32, among the ten returned. The encoder has the
architecture and the tokenizer of the default one and random weights, since only shapes count here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import DEFAULT_CACHE, machine, print_table
from spaces import build_space
from vectors import Vectors, mixtures, real_vectors

from mllm_plugin.encoders.base import unit
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER, resolve_model
from mllm_plugin.image import Plan, Space, nearest
from mllm_plugin.image.kernels import kernels
from mllm_plugin.image.placed import Placed, placed
from mllm_plugin.text.lexical import TermCounts

_K = 10
_BLOCK = 1 << 16
_ARRAYS = [field.name for field in fields(Space) if field.name not in ("version", "terms")]
_TOKENS = 256  # per text of the encoder
Find = Callable[[Vectors], list[NDArray[np.int64]]]


def prepare(options: argparse.Namespace) -> None:
    """Real vectors and questions as float16, tokenizer and settings of the default encoder."""
    real, asked = real_vectors(options)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "vectors.npy", real.astype(np.float16))
    np.save(options.out / "questions.npy", asked.astype(np.float16))
    for path in resolve_model(DEFAULT_ENCODER).iterdir():
        if path.suffix in (".json", ".txt"):
            (options.out / f"encoder-{path.name}").write_bytes(path.read_bytes())


def build(options: argparse.Namespace) -> None:
    """The arrays of so many vectors."""
    began = time.perf_counter()
    vectors = mixtures(unit(np.load(options.vectors / "vectors.npy").astype(np.float32)), options.count)
    made = time.perf_counter()
    space = build_space(vectors)
    print(f"vectors {made - began:.1f} s, tree {time.perf_counter() - made:.1f} s", flush=True)
    np.savez(options.out.with_suffix(".new.npz"), **{name: getattr(space, name) for name in _ARRAYS})
    options.out.with_suffix(".new.npz").replace(options.out)


def read_space(path: Path) -> Space:
    """What `build` wrote."""
    arrays = dict(np.load(path))
    many = np.zeros(len(arrays["halves"]), np.uint32)
    return Space(version=0, terms=TermCounts(many, many, many[:0], np.zeros(0, np.uint8)), **arrays)


def exact_best(halves: torch.Tensor, queries: torch.Tensor, k: int) -> torch.Tensor:
    """The k best rows of each query [b, k], all compared, as float16 or what the queries are."""
    scores = queries.new_full((len(queries), k), -2.0)
    rows = torch.zeros((len(queries), k), dtype=torch.int64, device=queries.device)
    for first in range(0, len(halves), _BLOCK):
        part = halves[first : first + _BLOCK].to(queries.dtype)
        best = (queries @ part.T).topk(k, dim=1)
        scores, order = torch.cat([scores, best.values], dim=1).topk(k, dim=1)
        rows = torch.cat([rows, best.indices + first], dim=1).gather(1, order)
    return rows


def milliseconds(run: Callable[[], Any], device: torch.device, repeats: int) -> NDArray[np.float64]:
    """Each of some runs, after two that do not count; a run ends when the device is done."""
    took = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took.append(1000 * (time.perf_counter() - began))
    return np.array(took[2:])


class Table:
    """Recall and times of ways to find the ten best of some queries [m, d]."""

    def __init__(self, queries: Vectors, truth: NDArray[np.int64], options: argparse.Namespace) -> None:
        self._queries, self._truth, self._batches = queries, truth, options.batches
        self._device, self._repeats = torch.device(options.device), options.repeats
        self.rows: list[list[str]] = []

    def add(self, name: str, setting: str, run: Find, scored: float, most: int = 4096) -> None:
        """Measures one way, in batches up to `most`."""
        pairs = zip(run(self._queries), self._truth, strict=True)
        recall = np.mean([len(set(a.tolist()) & set(b.tolist())) for a, b in pairs]) / _K
        cells = [name, setting, f"{recall:.4f}", f"{scored:.0f}"]
        for size in self._batches:
            cells.append(self._time(run, size) if size <= most else "")
        self.rows.append(cells)
        print(json.dumps(cells), file=sys.stderr, flush=True)

    def _time(self, run: Find, size: int) -> str:
        many = np.resize(self._queries, (size, self._queries.shape[1]))
        repeats = min(self._repeats, max(1, (1 << 14) // size))
        median = np.median(milliseconds(lambda: run(many), self._device, repeats))
        return f"{median:.3f}" if size == 1 else f"{1000 * size / median:,.0f}"

    def print(self) -> None:
        """All of it."""
        batches = ["one query, p50 ms" if one == 1 else f"of {one:,}, queries/s" for one in self._batches]
        print_table(["", "setting", "recall@10", "scored", *batches], self.rows)


def walks(space: Space, queries: Vectors, options: argparse.Namespace) -> None:
    """The walk there and here, which find the same, and the scan there."""
    device = torch.device(options.device)
    halves = torch.from_numpy(space.halves).to(device)
    truth = exact_best(halves, torch.from_numpy(queries).to(device), _K).cpu().numpy()
    table = Table(queries, truth, options)
    there, took = timed(lambda: placed(space, device))
    print(f"Arrays moved in {took:.2f} s.\n", flush=True)

    def walk_of(where: Space, width: int) -> Find:
        return lambda some: nearest(where, some[:, None], Plan(width), _K)[0]

    def scan(some: Vectors) -> list[NDArray[np.int64]]:
        mine = torch.from_numpy(some).to(device, torch.float16 if device.type == "cuda" else torch.float32)
        return [best for part in mine.split(256) for best in exact_best(halves, part, _K).cpu().numpy()]

    table.add("scan of float16, torch", "all", scan, len(halves))
    for width in options.widths:
        found, scored = nearest(there, queries[:, None], Plan(width), _K)
        pairs = zip(found, walk_of(space, width)(queries), strict=True)
        differ = sum(ours.tolist() != theirs.tolist() for ours, theirs in pairs)
        assert not differ, f"beam {width}: {differ} of {len(queries)} differ from the CPU's"
        table.add("walk on the device", f"beam {width}", walk_of(there, width), float(scored.mean()))
        if width == options.widths[len(options.widths) // 2]:
            name = f"walk on the CPU, {kernels().__name__.rsplit('.', 1)[-1]}"
            table.add(name, f"beam {width}", walk_of(space, width), float(scored.mean()), 256)
            some = Placed(space, device, space.codes[: space.nodes + len(space.chunk_ids) // 4].nbytes)
            name = "walk on the device, a quarter of the chunks there"
            table.add(name, f"beam {width}", walk_of(some, width), float(scored.mean()))
    table.print()
    if device.type == "cuda":
        print(f"\n{torch.cuda.memory_allocated(device) / 2**20:,.0f} MiB on the device, the scan's included.")


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def encoder(folder: Path, device: torch.device, texts: int) -> None:
    """Texts a second, tokenizing included, of Encoder 1 with windows."""
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory() as made:
        for path in folder.glob("encoder-*"):
            (Path(made) / path.name.removeprefix("encoder-")).write_bytes(path.read_bytes())
        BertModel(BertConfig.from_pretrained(made)).save_pretrained(made)
        known = json.loads((folder / "encoder-tokenizer.json").read_text())["model"]["vocab"]
        words = [word for word in known if word.isalpha() and word.isascii()]
        rng, rows = np.random.default_rng(0), []
        some = [" ".join(rng.choice(words, _TOKENS - 2)) for _ in range(texts)]
        for batch in (4096, 65536):
            model = HuggingFaceEncoder(made, device=str(device), batch_tokens=batch)
            took = np.median(milliseconds(partial(model.encode_documents, some), device, 3))
            one = np.median(milliseconds(partial(model.encode_queries, ["where is the harbour"]), device, 9))
            rate, tokens = 1000 * texts / took, 1000 * texts * _TOKENS / took
            rows.append([f"{batch:,}", f"{rate:,.0f}", f"{tokens:,.0f}", f"{one:.1f}"])
    header = ["tokens a batch", f"texts of {_TOKENS} tokens/s", "tokens/s", "a short query, ms"]
    print_table(header, rows)


def measure(options: argparse.Namespace) -> None:
    """Prints the tables."""
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no device"
    space, took = timed(lambda: read_space(options.space))
    print(f"On {name}, {machine()}, torch {torch.__version__}.")
    print(f"{len(space.halves):,} vectors, read in {took:.1f} s.", end=" ")
    queries = unit(np.load(options.vectors / "questions.npy").astype(np.float32))
    walks(space, queries, options)
    print()
    encoder(options.vectors, device, options.texts)


def main() -> None:
    taken = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    steps = taken.add_subparsers(required=True)
    first = steps.add_parser("prepare")
    first.add_argument("--data", type=Path)
    first.add_argument("--vectors", help="real vectors [n, d] in place of --data")
    first.add_argument("--questions", help="real questions [m, d] in place of --data")
    first.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    first.add_argument("--sets", nargs="+", default=["squad", "scifact", "medquad", "cuad"])
    first.add_argument("--real", type=int, default=35_000)
    first.add_argument("--limit", type=int, default=300)
    second = steps.add_parser("build")
    second.add_argument("--count", type=int, default=1_000_000)
    third = steps.add_parser("measure")
    third.add_argument("--space", type=Path, required=True)
    third.add_argument("--device", default="cuda")
    third.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96, 128, 192])
    third.add_argument("--batches", type=int, nargs="+", default=[1, 256, 4096])
    third.add_argument("--repeats", type=int, default=20)
    third.add_argument("--texts", type=int, default=1024)
    for step in (first, second):
        step.add_argument("--out", type=Path, required=True)
    for step in (second, third):
        step.add_argument("--vectors", type=Path, required=True)
    for step, run in ((first, prepare), (second, build), (third, measure)):
        step.set_defaults(run=run)
    options = taken.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
