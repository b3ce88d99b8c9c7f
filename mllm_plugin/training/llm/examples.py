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
        windows: By kind: windows of all chunks, one chunk after another [w, d]. The first kind is the
            memory's own; a kind's name ends in its tokens per window, such as "16" or "words-8".
        ends: By kind: end of each chunk's windows [c].
        nodes: Node embeddings [n, d].
        node_levels: Their levels [n].
        documents: Marks of the user's documents in it.
    """

    encoder: str
    questions: list[Question]
    queries: NDArray[np.float32]
    texts: list[str]
    pooled: NDArray[np.float32]
    windows: dict[str, NDArray[np.float32]]
    ends: dict[str, NDArray[np.int64]]
    nodes: NDArray[np.float32]
    node_levels: NDArray[np.int64]
    documents: list[str] = field(default_factory=list)

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return self.pooled.shape[1]

    @property
    def kind(self) -> str:
        """The memory's own kind of windows."""
        return next(iter(self.windows))

    def windows_of(self, chunk: int, kind: str) -> NDArray[np.float32]:
        """Windows [w, d] of a chunk, in the order of its text."""
        ends = self.ends[kind]
        return self.windows[kind][ends[chunk - 1] if chunk else 0 : ends[chunk]]

    def joined(self, other: Examples) -> Examples:
        """Both sets of questions, each over its own chunks.

        Raises:
            InvalidInputError: They come from different encoders, or have different windows.
        """
        if (self.encoder, list(self.windows)) != (other.encoder, list(other.windows)):
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
            kind: np.concatenate([self.ends[kind], other.ends[kind] + len(self.windows[kind])])
            for kind in self.windows
        }
        return Examples(
            self.encoder,
            [*self.questions, *moved],
            np.concatenate([self.queries, other.queries]),
            [*self.texts, *other.texts],
            np.concatenate([self.pooled, other.pooled]),
            {kind: np.concatenate([rows, other.windows[kind]]) for kind, rows in self.windows.items()},
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
        for kind, rows in self.windows.items():
            tensors |= {f"windows.{kind}": rows.astype(np.float16), f"ends.{kind}": self.ends[kind]}
        meta = {
            "encoder": self.encoder,
            "kinds": list(self.windows),
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
        return cls(
            encoder=meta["encoder"],
            questions=[Question.model_validate(row) for row in meta["questions"]],
            texts=meta["texts"],
            windows={kind: tensors[f"windows.{kind}"].astype(np.float32) for kind in meta["kinds"]},
            ends={kind: tensors[f"ends.{kind}"] for kind in meta["kinds"]},
            node_levels=tensors["node_levels"],
            documents=meta["documents"],
            **{name: tensors[name].astype(np.float32) for name in _VECTORS},
        )


_VECTORS = ("queries", "pooled", "nodes")
