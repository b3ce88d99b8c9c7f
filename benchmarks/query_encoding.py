"""How long Encoder 1 takes for a short query: alone, and beside processes that keep every core busy.

    python benchmarks/query_encoding.py [--busy N] [--rounds 100] [--documents DIR]

With `--documents`, a folder of data, also how many tokens of 200 chunks of 90 words a second it reads.

`sentence-transformers` is measured when it is installed, and ONNX Runtime when `onnxruntime`, `onnx` and
`onnxscript` are; the model is exported from the local files. Milliseconds per query; those of the processor
depend least on what else the machine does.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from beir import read_corpus
from common import machine
from numpy.typing import NDArray

from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.encoders.quick import quick_encoder
from mllm_plugin.encoders.resolve import DEFAULT_ENCODER

QUERIES = (
    "what is a generator expression",
    "how do I close a file that another thread reads",
    "error 0x80070057 when keyword only arguments meet a lambda",
)
Encode = Callable[[str], object]


def ways() -> dict[str, Encode]:
    encoder = HuggingFaceEncoder(DEFAULT_ENCODER, device="cpu")
    quick = quick_encoder(DEFAULT_ENCODER)
    found: dict[str, Encode] = {
        "memory (with windows)": lambda query: encoder.encode_query_windows([query]),
        "memory, before torch is there": lambda query: quick.encode_query_windows([query]),  # type: ignore[attr-defined]
        "transformers": lambda query: general(encoder, query),
    }
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(encoder.folder), device="cpu")
        found["sentence-transformers"] = lambda query: model.encode([query], show_progress_bar=False)
    if all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript")):
        run = exported(encoder)
        found["ONNX Runtime"] = lambda query: run([query]).mean(axis=1)
    return found


def document_ways() -> dict[str, Callable[[list[str]], object]]:
    encoder = HuggingFaceEncoder(DEFAULT_ENCODER, device="cpu")
    found: dict[str, Callable[[list[str]], object]] = {"memory (with windows)": encoder.encode_documents}
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(encoder.folder), device="cpu")
        found["sentence-transformers"] = lambda texts: model.encode(texts, show_progress_bar=False)
    if all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript")):
        run = exported(encoder)
        for size in (8, 32):
            found[f"ONNX Runtime, {size} at once"] = partial(in_batches, run, size)
    return found


def in_batches(run: Callable[[list[str]], object], size: int, texts: list[str]) -> None:
    ordered = sorted(texts, key=len)
    for first in range(0, len(ordered), size):
        run(ordered[first : first + size])


def measure_documents(data: Path) -> None:
    words = " ".join(document.text for document in islice(read_corpus(data / "techdocs"), 400)).split()
    texts = [" ".join(words[first : first + 90]) for first in range(0, 200 * 90, 90)]
    tokens = sum(map(len, HuggingFaceEncoder(DEFAULT_ENCODER, device="cpu")._tokenizer(texts)["input_ids"]))
    print(f"\n{len(texts)} chunks, {tokens} tokens\n\n| way | processor s | tokens/s |\n|---|---|---|")
    for name, encode in document_ways().items():
        encode(texts[:16])
        took = []
        for _ in range(3):
            started = time.process_time()
            encode(texts)
            took.append(time.process_time() - started)
        print(f"| {name} | {min(took):.2f} | {tokens / min(took):,.0f} |")


@torch.inference_mode()
def general(encoder: HuggingFaceEncoder, query: str) -> object:
    return encoder._model(**encoder._tokenizer([query], return_tensors="pt")).last_hidden_state.mean(dim=1)


def exported(encoder: HuggingFaceEncoder) -> Callable[[list[str]], NDArray[np.float32]]:
    """The last states [n, t, d] of texts, from the model as torch exports it."""
    import onnxruntime

    file = io.BytesIO()
    inputs = encoder._tokenizer([*QUERIES], return_tensors="pt", padding=True)
    names = ["input_ids", "attention_mask"]
    given = {name: inputs[name] for name in names}
    sizes = torch.export.Dim("texts", min=1, max=256), torch.export.Dim("tokens", min=2, max=256)
    program = torch.onnx.export(
        encoder._model,
        kwargs=given,
        dynamo=True,
        dynamic_shapes={name: dict(enumerate(sizes)) for name in names},
        verbose=False,
    )
    file.write(program.model_proto.SerializeToString())  # type: ignore[union-attr]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options)

    def run(texts: list[str]) -> NDArray[np.float32]:
        cut = {"padding": True, "truncation": True, "max_length": encoder._length}
        tokens = encoder._tokenizer(texts, return_tensors="np", **cut)
        return np.asarray(session.run(None, {name: tokens[name] for name in names})[0])

    return run


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that multiply matrices."""
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=work, daemon=True) for _ in range(processes)]
    for one in started:
        one.start()
    time.sleep(2.0 if started else 0.0)
    yield
    for one in started:
        one.kill()
        one.join()


def work() -> None:
    matrix = np.ones((256, 256), dtype=np.float32)
    while True:
        matrix = np.minimum(matrix @ matrix, 1.0)


def measure(encode: Encode, rounds: int) -> list[float]:
    """Median and 95th percentile of the time that passes, and median of the processor's."""
    for query in QUERIES:
        encode(query)
    times = []
    for number in range(rounds):
        started = time.perf_counter(), time.process_time()
        encode(QUERIES[number % len(QUERIES)])
        times.append([time.perf_counter() - started[0], time.process_time() - started[1]])
    passed, worked = 1e3 * np.array(times).T
    return [*np.percentile(passed, [50, 95]).tolist(), float(np.median(worked))]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="processes beside")
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--documents", type=Path, help="folder of data")
    options = arguments.parse_args()
    load = os.getloadavg()[0]
    print(f"{machine()}, torch {torch.__version__} with {torch.get_num_threads()} threads, load {load:.1f}\n")
    print("| way | p50 | p95 | processor | busy p50 | p95 | processor |\n|---|---|---|---|---|---|---|")
    encoders = ways()
    figures = {name: measure(encode, options.rounds) for name, encode in encoders.items()}
    with busy(options.busy):
        for name, encode in encoders.items():
            figures[name] += measure(encode, options.rounds)
    for name, row in figures.items():
        print(f"| {name} | " + " | ".join(f"{one:.1f}" for one in row) + " |")
    if options.documents:
        measure_documents(options.documents)


if __name__ == "__main__":
    main()
