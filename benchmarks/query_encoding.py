"""How long Encoder 1 takes for a short query: alone, and beside processes that keep every core busy.

    python benchmarks/query_encoding.py [--busy N] [--rounds 100]

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

import numpy as np
import torch
from common import machine

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
        found["ONNX Runtime"] = exported(encoder)
    return found


@torch.inference_mode()
def general(encoder: HuggingFaceEncoder, query: str) -> object:
    return encoder._model(**encoder._tokenizer([query], return_tensors="pt")).last_hidden_state.mean(dim=1)


def exported(encoder: HuggingFaceEncoder) -> Encode:
    import onnxruntime

    file = io.BytesIO()
    inputs = encoder._tokenizer([QUERIES[0]], return_tensors="pt")
    names = ["input_ids", "attention_mask"]
    given = {name: inputs[name] for name in names}
    program = torch.onnx.export(
        encoder._model,
        kwargs=given,
        dynamo=True,
        dynamic_shapes={name: {1: torch.export.Dim("tokens", min=2, max=256)} for name in names},
        verbose=False,
    )
    file.write(program.model_proto.SerializeToString())  # type: ignore[union-attr]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options)

    def encode(query: str) -> object:
        tokens = encoder._tokenizer([query], return_tensors="np")
        return session.run(None, {name: tokens[name] for name in names})[0].mean(axis=1)

    return encode


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


if __name__ == "__main__":
    main()
