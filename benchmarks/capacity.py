"""How much disk, memory and encoding time does a memory of N documents take?

    python benchmarks/capacity.py [--tokens-per-document 1000] [--documents 1000 10000 100000 1000000]

Builds a memory of the Python language reference (`pydoc_data.topics`, nothing to download) with the default
encoder on this machine, prints the constants that it measures, and with them the table of docs/capacity.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from common import machine, print_table

from mllm_plugin import Document, IndexBuilder, MemoryConfig, MemoryIndex, SearchConfig
from mllm_plugin.encoders.huggingface import HuggingFaceEncoder
from mllm_plugin.protocols import TextEncoder, Vectors
from mllm_plugin.store.decoded import build_image, load_embedding_chunk
from mllm_plugin.text.chunking import split_text

_DEFAULT_SIZES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Constants:
    """What was measured.

    Attributes:
        characters_per_token: Of the encoder's own tokens.
        tokens_per_chunk: Mean; at most `chunk_tokens`.
        disk, disk_without_windows: Bytes on disk per chunk beyond the text, after `compact()`: what a memory
            of all documents takes more than one of half of them.
        fixed: Bytes that a memory takes however few its chunks are: weights, a page for each table.
        blocks: Bytes of memory per chunk when the walk has every embedding chunk in its cache.
        image: Bytes of memory per chunk of the in-memory image that `flat` and `exact` read.
        tokens_per_second: Of Encoder 1 over chunks.
        chunks_per_second: Written, term counts and tree included, encoding not.
    """

    characters_per_token: float
    tokens_per_chunk: float
    disk: float
    disk_without_windows: float
    fixed: float
    blocks: float
    image: float
    tokens_per_second: float
    chunks_per_second: float


class _Recorded:
    """Gives back vectors that were computed before, so that writing is timed without encoding."""

    def __init__(self, encoder: HuggingFaceEncoder, texts: Sequence[str]) -> None:
        self.dim, self.fingerprint = encoder.dim, encoder.fingerprint
        self.max_tokens, self.token_offsets = encoder.max_tokens, encoder.token_offsets
        started = time.perf_counter()
        pooled, windows = encoder.encode_documents(texts)
        self.seconds = time.perf_counter() - started
        self._pooled = dict(zip(texts, pooled, strict=True))
        self._windows = dict(zip(texts, windows, strict=True))

    def encode_documents(self, texts: Sequence[str]) -> tuple[Vectors, list[Vectors]]:
        """The recorded vectors of chunks."""
        return self.encode_queries(texts), [self._windows[text] for text in texts]

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The recorded pooled vectors of chunks."""
        return np.stack([self._pooled[text] for text in texts])


def measure() -> Constants:
    """Cuts, encodes, and builds the memory with and without level 0, to read off what each takes."""
    documents = [Document(text, id=name) for name, text in sorted(topics.items())]
    encoder = HuggingFaceEncoder()
    limit = MemoryConfig().chunking.chunk_tokens
    texts = [
        document.text[span.start : span.end]
        for document in documents
        for span in split_text(document.text, limit, encoder.token_offsets)
    ]
    tokens = [len(encoder.token_offsets(text)) for text in texts]
    recorded = _Recorded(encoder, texts)
    with tempfile.TemporaryDirectory() as folder:
        full, blocks, image, chunks_per_second = _built(Path(folder) / "full", recorded, documents)
        half, *_ = _built(Path(folder) / "half", recorded, documents[::2])
        plain, *_ = _built(Path(folder) / "plain", recorded, documents, level0=False)
        plain_half, *_ = _built(Path(folder) / "plain-half", recorded, documents[::2], level0=False)
    disk = _slope(full, half)
    return Constants(
        characters_per_token=sum(map(len, texts)) / sum(tokens),
        tokens_per_chunk=sum(tokens) / len(tokens),
        disk=disk,
        disk_without_windows=_slope(plain, plain_half),
        fixed=full[1] - disk * full[0],
        blocks=blocks,
        image=image,
        tokens_per_second=sum(tokens) / recorded.seconds,
        chunks_per_second=chunks_per_second,
    )


def _built(
    folder: Path, encoder: TextEncoder, documents: Sequence[Document], *, level0: bool = True
) -> tuple[tuple[int, float], float, float, float]:
    """Chunks and bytes on disk beyond the text; bytes per chunk of blocks and image; chunks per second."""
    config = MemoryConfig(level0=level0, embedding_cache=False)
    with MemoryIndex.open(folder, encoder=encoder, config=config) as memory:
        report = IndexBuilder(memory, progress=False).build(documents)
        memory.compact()
        stats = memory.stats()
        with memory.snapshot() as snapshot:
            (row,) = snapshot.namespaces()
            image = build_image(snapshot, row)
            blocks = sum(load_embedding_chunk(snapshot, node.node_id).nbytes for node in snapshot.nodes(row))
    return (
        (stats.chunks, stats.chunks * stats.bytes_per_chunk_beyond_text),
        blocks / stats.chunks,
        image.nbytes / stats.chunks,
        report.chunks / report.seconds,
    )


def _slope(more: tuple[int, float], fewer: tuple[int, float]) -> float:
    """Bytes per further chunk."""
    return (more[1] - fewer[1]) / (more[0] - fewer[0])


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--documents", type=int, nargs="+", default=_DEFAULT_SIZES)
    arguments.add_argument("--tokens-per-document", type=int, default=1000)
    options = arguments.parse_args()
    found = measure()
    print(f"On {machine()}; encoder all-MiniLM-L6-v2; {len(topics)} documents of pydoc_data.topics.\n")
    print_table(["constant", "measured"], _constants(found))
    print(f"\nDocuments of {options.tokens_per_document:,} tokens each:\n")
    header = [
        "documents",
        "chunks",
        "on disk",
        "without level 0",
        "memory, beam",
        "memory, flat",
        "hours to encode",
    ]
    print_table(header, [_row(found, count, options.tokens_per_document) for count in options.documents])


def _constants(found: Constants) -> list[list[str]]:
    return [
        ["characters per token", f"{found.characters_per_token:.2f}"],
        ["tokens per chunk", f"{found.tokens_per_chunk:.1f}"],
        ["bytes on disk per chunk beyond its text", f"{found.disk:,.0f}"],
        ["bytes on disk that every memory takes", f"{found.fixed:,.0f}"],
        ["bytes on disk per chunk without level 0", f"{found.disk_without_windows:,.0f}"],
        ["bytes of memory per chunk in beam search, all cached", f"{found.blocks:,.0f}"],
        ["bytes of memory per chunk in flat and exact search", f"{found.image:,.0f}"],
        ["tokens encoded per second", f"{found.tokens_per_second:,.0f}"],
        ["chunks written per second", f"{found.chunks_per_second:,.0f}"],
    ]


def _row(found: Constants, documents: int, tokens: int) -> list[str]:
    chunks = documents * tokens / found.tokens_per_chunk
    text = documents * tokens * found.characters_per_token
    hours = documents * tokens / found.tokens_per_second / 3600
    return [
        f"{documents:,}",
        f"{chunks:,.0f}",
        _gigabytes(text + found.fixed + chunks * found.disk),
        _gigabytes(text + found.fixed + chunks * found.disk_without_windows),
        _gigabytes(min(chunks * found.blocks, SearchConfig().cache_bytes)),
        _gigabytes(chunks * found.image),
        f"{hours:.2f}",
    ]


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


if __name__ == "__main__":
    main()
