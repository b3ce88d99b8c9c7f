"""What the training reads: questions with answers, and what a memory recalls for them; kept on disk.

Everything that needs Encoder 1 or the store is done once, before the first step. Shapes: q questions, c
chunks, w windows of all chunks, n nodes, k recalled chunks, m recalled nodes, d dimensions.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.numpy import save_file

from mllm_plugin.errors import InvalidInputError, NotFoundError

TENSORS_NAME = "examples.safetensors"
META_NAME = "examples.json"


class Question(BaseModel):
    """A question and its answers.

    Args:
        text: As a user would put it.
        answers: At least one; the first is trained on, all count when measured.
        chunk: Row of the chunk that holds the answer; -1 when it is not known.
        chunks: Rows of the recalled chunks, best first.
        nodes: Rows of the recalled nodes, coarse to fine.
        held_out: For measuring only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    answers: tuple[str, ...]
    chunk: int
    chunks: tuple[int, ...]
    nodes: tuple[int, ...] = ()
    held_out: bool = False


@dataclass
class Examples:
    """Questions and the embeddings that their memory blocks are made of.

    Attributes:
        encoder: Fingerprint of the encoder of the embeddings.
        questions: All of them.
        queries: Their embeddings [q, d].
        texts: Of the chunks.
        pooled: Chunk embeddings [c, d].
        windows: By tokens per window: windows of all chunks, one chunk after another [w, d].
        ends: By tokens per window: end of each chunk's windows [c].
        nodes: Node embeddings [n, d].
        node_levels: Their levels [n].
        documents: Marks of the user's documents in it.
    """

    encoder: str
    questions: list[Question]
    queries: NDArray[np.float32]
    texts: list[str]
    pooled: NDArray[np.float32]
    windows: dict[int, NDArray[np.float32]]
    ends: dict[int, NDArray[np.int64]]
    nodes: NDArray[np.float32]
    node_levels: NDArray[np.int64]
    documents: list[str] = field(default_factory=list)

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return self.pooled.shape[1]

    def windows_of(self, chunk: int, size: int) -> NDArray[np.float32]:
        """Windows [w, d] of a chunk, in the order of its text."""
        ends = self.ends[size]
        return self.windows[size][ends[chunk - 1] if chunk else 0 : ends[chunk]]

    def joined(self, other: Examples) -> Examples:
        """Both sets of questions, each over its own chunks.

        Raises:
            InvalidInputError: They come from different encoders, or have different windows.
        """
        if (self.encoder, set(self.windows)) != (other.encoder, set(other.windows)):
            raise InvalidInputError("examples of different encoders or windows cannot be trained on together")
        chunks, nodes = len(self.texts), len(self.nodes)
        moved = [
            one.model_copy(
                update={
                    "chunk": one.chunk + chunks if one.chunk >= 0 else -1,
                    "chunks": tuple(row + chunks for row in one.chunks),
                    "nodes": tuple(row + nodes for row in one.nodes),
                }
            )
            for one in other.questions
        ]
        ends = {
            size: np.concatenate([self.ends[size], other.ends[size] + len(self.windows[size])])
            for size in self.windows
        }
        return Examples(
            self.encoder,
            [*self.questions, *moved],
            np.concatenate([self.queries, other.queries]),
            [*self.texts, *other.texts],
            np.concatenate([self.pooled, other.pooled]),
            {size: np.concatenate([rows, other.windows[size]]) for size, rows in self.windows.items()},
            ends,
            np.concatenate([self.nodes, other.nodes]),
            np.concatenate([self.node_levels, other.node_levels]),
            sorted({*self.documents, *other.documents}),
        )

    def save(self, folder: Path) -> None:
        """Writes tensors and texts, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray] = {name: getattr(self, name).astype(np.float16) for name in _VECTORS}
        tensors["node_levels"] = self.node_levels
        for size, rows in self.windows.items():
            tensors |= {f"windows.{size}": rows.astype(np.float16), f"ends.{size}": self.ends[size]}
        meta = {
            "encoder": self.encoder,
            "questions": [one.model_dump() for one in self.questions],
            "texts": self.texts,
            "documents": self.documents,
        }
        save_file(tensors, folder / f"{TENSORS_NAME}.new")
        os.replace(folder / f"{TENSORS_NAME}.new", folder / TENSORS_NAME)
        (folder / f"{META_NAME}.new").write_text(json.dumps(meta), encoding="utf-8")
        os.replace(folder / f"{META_NAME}.new", folder / META_NAME)

    @classmethod
    def load(cls, folder: Path) -> Examples:
        """Reads what `save` wrote.

        Raises:
            NotFoundError: There is nothing.
        """
        if not (folder / META_NAME).is_file():
            raise NotFoundError(f"no examples in {folder}")
        meta = json.loads((folder / META_NAME).read_text(encoding="utf-8"))
        with safe_open(folder / TENSORS_NAME, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        sizes = [int(name.split(".")[1]) for name in tensors if name.startswith("windows.")]
        return cls(
            encoder=meta["encoder"],
            questions=[Question.model_validate(row) for row in meta["questions"]],
            texts=meta["texts"],
            windows={size: tensors[f"windows.{size}"].astype(np.float32) for size in sizes},
            ends={size: tensors[f"ends.{size}"] for size in sizes},
            node_levels=tensors["node_levels"],
            documents=meta["documents"],
            **{name: tensors[name].astype(np.float32) for name in _VECTORS},
        )


_VECTORS = ("queries", "pooled", "nodes")
